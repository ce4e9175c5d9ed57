//! A base model with named adapters, in memory.

mod layers;
mod merging;
mod trainable;

pub use layers::{ConvolutionGeometry, Gradients, LayerGradients};
pub use trainable::TrainableReport;

use crate::adapter::{Adapter, AdapterLayer};
use crate::binding::{Binding, Site, bind};
use crate::checkpoint::Checkpoint;
use crate::combine::{Combination, combine};
use crate::config::{AdapterConfig, Init};
use crate::init::{cut_off, fresh};
use crate::matching::Matcher;
use crate::merge::Weighted;
use crate::naming::Naming;
use crate::targets::{TargetReport, default_targets, find_targets};
use crate::tensor::Tensor;
use crate::update::{Directions, HostBackend, Part, UpdateOptions, update};
use crate::{Error, Result};
use lora_kernels::DType;
use merging::Merged;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeMap;

/// A base checkpoint and any number of named adapters on it.
///
/// The base is frozen: only [`merge`](Self::merge), PiSSA and OLoRA change its weights, in memory. Weights of adapted
/// modules are read when an adapter first needs them; everything else stays in the files.
#[derive(Debug)]
pub struct LoraModel {
    checkpoint: Checkpoint,
    adapters: BTreeMap<String, Loaded>,
    active: Vec<String>,
    enabled: bool,
    weights: BTreeMap<String, Tensor>,
    merged: Option<Merged>,
}

#[derive(Debug)]
struct Loaded {
    adapter: Adapter,
    binding: Binding,
    trainable: bool,
}

impl Loaded {
    fn site(&self, module: &str) -> Option<&Site> {
        self.binding.sites.iter().find(|site| site.layer == module)
    }
}

impl LoraModel {
    /// A base model without adapters.
    pub fn new(checkpoint: Checkpoint) -> Self {
        LoraModel {
            checkpoint,
            adapters: BTreeMap::new(),
            active: Vec::new(),
            enabled: true,
            weights: BTreeMap::new(),
            merged: None,
        }
    }

    /// The base.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Names of all adapters.
    pub fn adapter_names(&self) -> impl Iterator<Item = &str> {
        self.adapters.keys().map(String::as_str)
    }

    /// An adapter by name.
    ///
    /// # Errors
    /// [`Error::Adapter`] if there is none of that name.
    pub fn adapter(&self, name: &str) -> Result<&Adapter> {
        Ok(&self.loaded(name)?.adapter)
    }

    /// A trained tensor's layer, to be changed by an optimizer.
    ///
    /// # Errors
    /// There is no such adapter or layer, the adapter is frozen, or it is merged.
    pub fn layer_mut(&mut self, name: &str, module: &str) -> Result<&mut AdapterLayer> {
        self.check_not_merged(&format!("changing `{name}`"))?;
        let loaded =
            self.adapters.get_mut(name).ok_or_else(|| Error::adapter(name, "there is none of that name"))?;
        if !loaded.trainable {
            return Err(Error::adapter(name, "is frozen"));
        }
        let layer = loaded.adapter.layers.get_mut(module);
        layer.ok_or_else(|| Error::module(module, format!("adapter `{name}` has no layer for it")))
    }

    /// Where an adapter's layers act.
    ///
    /// # Errors
    /// [`Error::Adapter`] if there is none of that name.
    pub fn sites(&self, name: &str) -> Result<&[Site]> {
        Ok(&self.loaded(name)?.binding.sites)
    }

    fn loaded(&self, name: &str) -> Result<&Loaded> {
        self.adapters.get(name).ok_or_else(|| Error::adapter(name, "there is none of that name"))
    }

    fn check_new(&self, name: &str) -> Result<()> {
        if self.adapters.contains_key(name) {
            return Err(Error::adapter(name, "there already is one of that name"));
        }
        self.check_not_merged("adding adapters")
    }

    fn check_not_merged(&self, what: &str) -> Result<()> {
        match &self.merged {
            Some(merged) => Err(Error::adapter(
                merged.names.join(", "),
                format!("is merged; {what} needs an unmerge first"),
            )),
            None => Ok(()),
        }
    }

    /// Adds an adapter that was loaded from files. The first one becomes active; it starts frozen if its configuration
    /// says `inference_mode`.
    ///
    /// An adapter that started by PiSSA or OLoRA takes its start off the base weights, as PEFT does when it loads one.
    ///
    /// # Errors
    /// The name is taken, the adapter does not fit the base, or adapters are merged.
    pub fn add_adapter(&mut self, backend: &mut HostBackend<'_>, name: &str, adapter: Adapter) -> Result<()> {
        self.check_new(name)?;
        let binding = bind(&adapter, &self.checkpoint)?;
        let inference = adapter.config.other.get("inference_mode") == Some(&serde_json::Value::Bool(true));
        self.load_weights(&binding)?;
        self.take_start_off(backend, &adapter.config, &binding.sites)?;
        self.insert(name, Loaded { adapter, binding, trainable: !inference });
        Ok(())
    }

    /// Finds the modules that a configuration targets and gives each a new layer; a configuration that names none gets
    /// PEFT's [defaults](default_targets) for the model's type. The same seed gives the same adapter,
    /// whatever else is in the model. The first adapter becomes active.
    ///
    /// # Errors
    /// The name is taken, no module matches, a module cannot be adapted that way, or adapters are merged.
    pub fn create_adapter(
        &mut self,
        backend: &mut HostBackend<'_>,
        name: &str,
        mut config: AdapterConfig,
        seed: u64,
    ) -> Result<TargetReport> {
        self.check_new(name)?;
        if config.target_modules.is_none() {
            let model_type =
                self.checkpoint.model_config().get("model_type").and_then(serde_json::Value::as_str);
            config.target_modules = model_type.and_then(default_targets);
        }
        config.check()?;
        if !config.target_parameters.is_empty() {
            return Err(Error::config(
                "target_parameters",
                "new adapters of parameters cannot be started here",
            ));
        }
        let report = find_targets(&config, &self.checkpoint, &Naming::Same)?;
        if report.matched.is_empty() {
            return Err(Error::NoMatch(format!(
                "`target_modules` matches none of the {} modules that could be adapted, {} are excluded",
                report.unmatched.len() + report.excluded.len(),
                report.excluded.len()
            )));
        }
        let matcher = Matcher::new(&config)?;
        let mut adapter = Adapter { config, layers: BTreeMap::new(), replaced: BTreeMap::new() };
        let mut sites = Vec::new();
        for target in &report.matched {
            let weight = format!("{}.weight", target.module);
            let bias = format!("{}.bias", target.module);
            let site = Site {
                layer: target.module.clone(),
                bias: self.checkpoint.tensors().contains_key(&bias).then_some(bias),
                kind: target.kind,
                rank: target.rank,
                scale: target.scale,
                weight: weight.clone(),
            };
            self.load_weight(&weight)?;
            let layer = self.start(backend, &adapter.config, &site, seed)?;
            adapter.layers.insert(target.module.clone(), layer);
            sites.push(site);
        }
        self.take_along(&mut adapter, &matcher)?;
        let binding = Binding {
            sites,
            replaced: adapter.replaced.keys().map(|name| (name.clone(), name.clone())).collect(),
            untied: BTreeMap::new(),
            naming: Naming::Same,
        };
        self.take_start_off(backend, &adapter.config, &binding.sites)?;
        self.insert(name, Loaded { adapter, binding, trainable: true });
        Ok(report)
    }

    fn insert(&mut self, name: &str, loaded: Loaded) {
        if self.adapters.is_empty() {
            self.active = vec![name.to_owned()];
        }
        self.adapters.insert(name.to_owned(), loaded);
    }

    /// A new layer for a site, with DoRA's magnitudes if asked for.
    fn start(
        &self,
        backend: &mut HostBackend<'_>,
        config: &AdapterConfig,
        site: &Site,
        seed: u64,
    ) -> Result<AdapterLayer> {
        let weight = self.weight(&site.weight)?;
        let mut layer = match config.init {
            Init::Pissa | Init::Olora => cut_off(&config.init, site, weight)?,
            _ => {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ crate::update::name_stream(&site.layer));
                fresh(&config.init, site, weight.shape(), config.lora_bias, &mut random)?
            }
        };
        if config.dora {
            let residual = match config.init {
                Init::Pissa | Init::Olora => Some(without_start(backend, weight, site, &layer)?),
                _ => None,
            };
            let part = Part { site, layer: &layer, weight: 1.0 };
            let norms = Directions::new(backend, residual.as_ref().unwrap_or(weight), part)?.norms;
            let magnitude =
                Tensor::of(&layer.magnitude_shape(), norms.into_iter().map(|norm| norm as f32).collect());
            layer.magnitude = Some(magnitude);
        }
        Ok(layer)
    }

    /// PiSSA and OLoRA leave W − s·B₀·A₀ in the base.
    fn take_start_off(
        &mut self,
        backend: &mut HostBackend<'_>,
        config: &AdapterConfig,
        sites: &[Site],
    ) -> Result<()> {
        if !matches!(config.init, Init::Pissa | Init::Olora) {
            return Ok(());
        }
        let residuals = sites
            .iter()
            .map(|site| {
                let weight = self.weight(&site.weight)?;
                let start = cut_off(&config.init, site, weight)?;
                Ok((site.weight.clone(), without_start(backend, weight, site, &start)?))
            })
            .collect::<Result<Vec<_>>>()?;
        self.weights.extend(residuals);
        Ok(())
    }

    /// Copies of the biases and whole modules that the adapter trains.
    fn take_along(&self, adapter: &mut Adapter, matcher: &Matcher) -> Result<()> {
        for name in self.checkpoint.tensors().keys() {
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let bias = name == "bias" || name.ends_with(".bias");
            let saved =
                std::iter::successors(Some(module), |path| path.rsplit_once('.').map(|(parent, _)| parent))
                    .any(|path| !path.is_empty() && matcher.saves(path));
            let trained = match adapter.config.bias {
                crate::config::BiasMode::All => bias,
                crate::config::BiasMode::LoraOnly => bias && adapter.layers.contains_key(module),
                crate::config::BiasMode::None => false,
            };
            if saved || trained {
                adapter.replaced.insert(name.clone(), self.checkpoint.tensor(name)?);
            }
        }
        Ok(())
    }

    fn load_weights(&mut self, binding: &Binding) -> Result<()> {
        for site in &binding.sites {
            match binding.untied.get(&site.weight) {
                Some(source) => {
                    let tensor = self.checkpoint.tensor(source)?;
                    self.weights.entry(site.weight.clone()).or_insert(tensor);
                }
                None => self.load_weight(&site.weight)?,
            }
            if let Some(bias) = &site.bias {
                self.load_weight(bias)?;
            }
        }
        Ok(())
    }

    fn load_weight(&mut self, name: &str) -> Result<()> {
        if !self.weights.contains_key(name) {
            self.weights.insert(name.to_owned(), self.checkpoint.tensor(name)?);
        }
        Ok(())
    }

    /// A weight of the base as it is now in memory.
    ///
    /// # Errors
    /// No adapter needs the weight, so it is only in the checkpoint.
    pub fn weight(&self, name: &str) -> Result<&Tensor> {
        self.weights.get(name).ok_or_else(|| Error::tensor(name, "no adapter has loaded it"))
    }

    /// Which adapters take part: none, one or several. Active adapters are summed in the order given.
    ///
    /// # Errors
    /// [`Error::Adapter`] if there is none of a name, or adapters are merged.
    pub fn set_active(&mut self, names: &[&str]) -> Result<()> {
        self.check_not_merged("activating others")?;
        for name in names {
            self.loaded(name)?;
        }
        self.active = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(())
    }

    /// Names of the active adapters; none while adapters are disabled.
    pub fn active(&self) -> &[String] {
        if self.enabled { &self.active } else { &[] }
    }

    /// Switches all adapters off or on again, without forgetting which were active.
    ///
    /// # Errors
    /// Adapters are merged.
    pub fn set_enabled(&mut self, enabled: bool) -> Result<()> {
        self.check_not_merged("switching adapters off or on")?;
        self.enabled = enabled;
        Ok(())
    }

    /// Removes an adapter.
    ///
    /// # Errors
    /// There is none of that name, or it is merged, or it started by PiSSA or OLoRA and the base weights lack its start.
    pub fn delete_adapter(&mut self, name: &str) -> Result<Adapter> {
        self.check_not_merged("deleting adapters")?;
        if matches!(self.loaded(name)?.adapter.config.init, Init::Pissa | Init::Olora) {
            return Err(Error::adapter(
                name,
                "the base weights lack what it started with; open the base anew instead",
            ));
        }
        self.active.retain(|active| active != name);
        let loaded =
            self.adapters.remove(name).ok_or_else(|| Error::adapter(name, "there is none of that name"))?;
        Ok(loaded.adapter)
    }

    /// Replaces a live adapter's weights in place by those of another adapter of the same modules, with the same or
    /// smaller ranks. Buffers stay where they are; unused rank is filled with zeros.
    ///
    /// # Errors
    /// There is no such adapter, it is merged, or the new one has other modules, shapes or a larger rank.
    pub fn hot_swap(&mut self, name: &str, new: Adapter) -> Result<()> {
        self.check_not_merged("swapping")?;
        let binding = bind(&new, &self.checkpoint)?;
        let old = self.loaded(name)?;
        if !old.adapter.layers.keys().eq(new.layers.keys()) {
            return Err(Error::adapter(name, "the new adapter has other modules"));
        }
        if old.adapter.replaced.keys().ne(new.replaced.keys()) {
            return Err(Error::adapter(name, "the new adapter brings other tensors of the base along"));
        }
        if [&old.adapter, &new].iter().any(|adapter| {
            matches!(adapter.config.init, Init::Pissa | Init::Olora)
                || !adapter.config.target_parameters.is_empty()
        }) {
            return Err(Error::adapter(name, "PiSSA, OLoRA and expert adapters cannot be swapped"));
        }
        for (module, layer) in &new.layers {
            let live = &old.adapter.layers[module];
            let same = live.a.shape()[1..] == layer.a.shape()[1..]
                && live.b.shape()[0] == layer.b.shape()[0]
                && live.magnitude.is_some() == layer.magnitude.is_some()
                && live.bias.is_some() == layer.bias.is_some();
            if !same || layer.a.shape()[0] > live.a.shape()[0] {
                return Err(Error::module(
                    module,
                    format!(
                        "A {:?} cannot take the place of {:?}: the rank must not grow",
                        layer.a.shape(),
                        live.a.shape()
                    ),
                ));
            }
        }
        if let Some(live) = self.adapters.get_mut(name) {
            for (module, layer) in new.layers {
                if let Some(place) = live.adapter.layers.get_mut(&module) {
                    overwrite(place, layer);
                }
            }
            live.adapter.replaced = new.replaced;
            live.adapter.config = new.config;
            live.binding = binding;
        }
        Ok(())
    }

    /// Adds an adapter that is a combination of others. Weights may be negative.
    ///
    /// # Errors
    /// A name is unknown or taken, or the adapters cannot be combined that way.
    pub fn add_weighted_adapter(
        &mut self,
        name: &str,
        adapters: &[(&str, f64)],
        combination: Combination,
    ) -> Result<()> {
        self.check_new(name)?;
        let compact = adapters
            .iter()
            .map(|(name, weight)| Ok((*name, self.compact(name)?, *weight, self.sites(name)?)))
            .collect::<Result<Vec<_>>>()?;
        let inputs: Vec<(Weighted<'_>, &[Site])> = compact
            .iter()
            .map(|(name, adapter, weight, sites)| {
                (Weighted { name: (*name).to_owned(), adapter, weight: *weight }, *sites)
            })
            .collect();
        let adapter = combine(&inputs, combination)?;
        let binding = bind(&adapter, &self.checkpoint)?;
        self.insert(name, Loaded { adapter, binding, trainable: false });
        Ok(())
    }

    /// An adapter without the unused rank that a swap may have left, as it is to be saved.
    ///
    /// # Errors
    /// There is none of that name, or a layer was changed to something that does not fit together.
    pub fn compact(&self, name: &str) -> Result<Adapter> {
        let loaded = self.loaded(name)?;
        let mut adapter = loaded.adapter.clone();
        for (module, layer) in &adapter.layers {
            layer.check(module)?;
        }
        if adapter.config.target_parameters.is_empty() {
            for site in &loaded.binding.sites {
                if let Some(layer) = adapter.layers.get_mut(&site.layer) {
                    narrow(layer, site.rank);
                }
            }
        }
        Ok(adapter)
    }

    /// Saves an adapter for PEFT.
    ///
    /// # Errors
    /// There is none of that name, or a file cannot be written.
    pub fn save_adapter(&self, name: &str, directory: &std::path::Path) -> Result<()> {
        self.compact(name)?.save(directory)
    }
}

/// W − s·B·A.
fn without_start(
    backend: &mut HostBackend<'_>,
    weight: &Tensor,
    site: &Site,
    start: &AdapterLayer,
) -> Result<Tensor> {
    let mut residual = weight.clone();
    let part = Part { site, layer: start, weight: -1.0 };
    update(backend, &mut residual, &[], &[part], UpdateOptions::default(), None)?;
    Ok(residual)
}

/// Copies a layer over a live one of the same or larger rank.
fn overwrite(live: &mut AdapterLayer, new: AdapterLayer) {
    let (rank, new_rank) = (live.a.shape()[0], new.a.shape()[0]);
    let (a, b) = (new.a.cast(live.a.dtype()), new.b.cast(live.b.dtype()));
    let a_bytes = live.a.bytes_mut();
    a_bytes.fill(0);
    a_bytes[..a.bytes().len()].copy_from_slice(a.bytes());
    let size = b.dtype().size();
    let b_bytes = live.b.bytes_mut();
    b_bytes.fill(0);
    for (live_row, row) in b_bytes.chunks_mut(rank * size).zip(b.bytes().chunks(new_rank * size)) {
        live_row[..row.len()].copy_from_slice(row);
    }
    live.bias = new.bias;
    live.magnitude = new.magnitude;
}

fn narrow(layer: &mut AdapterLayer, rank: usize) {
    let all = layer.a.shape()[0];
    if all == rank {
        return;
    }
    let (mut a_shape, mut b_shape) = (layer.a.shape().to_vec(), layer.b.shape().to_vec());
    (a_shape[0], b_shape[1]) = (rank, rank);
    let dtype: DType = layer.a.dtype();
    let kept = layer.a.bytes().len() / all * rank;
    let a = Tensor::from_bytes(dtype, &a_shape, &layer.a.bytes()[..kept]);
    let size = dtype.size();
    let b: Vec<u8> =
        layer.b.bytes().chunks(all * size).flat_map(|row| row[..rank * size].iter().copied()).collect();
    layer.b = Tensor::from_bytes(layer.b.dtype(), &b_shape, &b);
    layer.a = a;
}

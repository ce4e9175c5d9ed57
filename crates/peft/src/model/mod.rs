//! A base model with named adapters, in memory.

mod create;
mod layers;
mod merging;
mod trainable;

pub use layers::{ConvolutionGeometry, Gradients, LayerGradients};
pub use trainable::TrainableReport;

use crate::adapter::{Adapter, AdapterLayer, Weighted};
use crate::binding::{Binding, Site, bind, fit};
use crate::checkpoint::Checkpoint;
use crate::making::{Combination, combine};
use crate::tensor::Tensor;
use crate::update::HostBackend;
use crate::{Error, Result};
use lora_kernels::DType;
use merging::Merged;
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
    /// The site on a weight, with its layer.
    fn on(&self, weight: &str) -> Option<(&Site, &AdapterLayer)> {
        let site = self.binding.sites.iter().find(|site| site.weight == weight)?;
        Some((site, self.adapter.layers.get(&site.layer)?))
    }

    /// Whether a site is the one of a layer's key or of a parameter's name.
    fn is_named(&self, site: &Site, name: &str) -> bool {
        site.layer == name || site.weight == name || self.binding.naming.to_model(&site.weight) == name
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

    /// The site of a layer's key or of a parameter's name. Adapters of different parameters of one module can have
    /// different parameters under one key.
    fn site(&self, name: &str) -> Result<&Site> {
        let named = self
            .adapters
            .values()
            .flat_map(|loaded| loaded.binding.sites.iter().filter(move |site| loaded.is_named(site, name)));
        let mut found: Option<&Site> = None;
        for site in named {
            match found {
                Some(first) if first.weight != site.weight => {
                    return Err(Error::module(
                        name,
                        format!(
                            "adapters mean different parameters by this key; name `{}` or `{}`",
                            first.weight, site.weight
                        ),
                    ));
                }
                _ => found = found.or(Some(site)),
            }
        }
        found.ok_or_else(|| Error::module(name, "no adapter has a layer for it"))
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
    /// An adapter of stacked experts on a checkpoint that keeps them apart becomes one of the single matrices, as
    /// [`fit`] has it, and is trained and saved as such.
    ///
    /// An adapter that started by PiSSA or OLoRA takes its start off the base weights, as PEFT does when it loads one.
    ///
    /// # Errors
    /// The name is taken, the adapter does not fit the base, or adapters are merged.
    pub fn add_adapter(&mut self, backend: &HostBackend<'_>, name: &str, adapter: Adapter) -> Result<()> {
        self.check_new(name)?;
        let (adapter, binding) = fit(&adapter, &self.checkpoint)?;
        let adapter = adapter.into_owned();
        let inference = adapter.config.other.get("inference_mode") == Some(&serde_json::Value::Bool(true));
        self.load_weights(&binding)?;
        self.take_start_off(backend, &adapter.config, &binding.sites)?;
        self.insert(name, Loaded { adapter, binding, trainable: !inference });
        Ok(())
    }

    fn insert(&mut self, name: &str, loaded: Loaded) {
        if self.adapters.is_empty() {
            self.active = vec![name.to_owned()];
        }
        self.adapters.insert(name.to_owned(), loaded);
    }

    fn load_weights(&mut self, binding: &Binding) -> Result<()> {
        for name in binding.rows.keys() {
            if let Some(source) = binding.untied.get(name) {
                let tensor = self.checkpoint.tensor(source)?;
                self.weights.entry(name.clone()).or_insert(tensor);
            }
        }
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
        if self.loaded(name)?.adapter.config.init.takes_from_base() {
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
    /// smaller ranks. Buffers stay where they are; unused rank is filled with zeros. Adapters with `target_parameters`
    /// must have the same ranks.
    ///
    /// # Errors
    /// There is no such adapter, it is merged, or the new one has other modules, shapes or a larger rank.
    pub fn hot_swap(&mut self, name: &str, new: Adapter) -> Result<()> {
        self.check_not_merged("swapping")?;
        let (new, binding) = fit(&new, &self.checkpoint)?;
        let new = new.into_owned();
        let old = self.loaded(name)?;
        if !old.adapter.layers.keys().eq(new.layers.keys()) {
            return Err(Error::adapter(name, "the new adapter has other modules"));
        }
        if old.adapter.replaced.keys().ne(new.replaced.keys()) {
            return Err(Error::adapter(name, "the new adapter brings other tensors of the base along"));
        }
        let adapters = [&old.adapter, &new];
        if adapters.iter().any(|adapter| adapter.config.init.takes_from_base()) {
            return Err(Error::adapter(name, "PiSSA and OLoRA adapters cannot be swapped"));
        }
        let weights = |binding: &'_ Binding| -> Vec<String> {
            binding.sites.iter().map(|site| site.weight.clone()).collect()
        };
        if weights(&old.binding) != weights(&binding) {
            return Err(Error::adapter(name, "the new adapter is for other parameters"));
        }
        // Stacked experts lie one after another, each at the full rank.
        let same_rank = adapters.iter().any(|adapter| !adapter.config.target_parameters.is_empty());
        for (module, layer) in &new.layers {
            let live = &old.adapter.layers[module];
            let same = live.a.shape()[1..] == layer.a.shape()[1..]
                && live.b.shape()[0] == layer.b.shape()[0]
                && live.magnitude.is_some() == layer.magnitude.is_some()
                && live.bias.is_some() == layer.bias.is_some();
            let (rank, live_rank) = (layer.a.shape()[0], live.a.shape()[0]);
            if !same || rank > live_rank || (same_rank && rank != live_rank) {
                return Err(Error::module(
                    module,
                    format!(
                        "A {:?} cannot take the place of {:?}: the rank must not {}",
                        layer.a.shape(),
                        live.a.shape(),
                        if same_rank { "change in an adapter of parameters" } else { "grow" }
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

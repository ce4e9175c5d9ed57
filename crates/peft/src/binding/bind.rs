//! Which weights of a checkpoint an adapter changes, with everything checked before a byte is written.

use super::absent::Absent;
use super::naming::Naming;
use super::site::Site;
use super::targets::{Target, TargetReport, find_targets};
use super::{parameters, regrouped, separate_experts};
use crate::adapter::{Adapter, AdapterLayer, BiasMode, Match, Matcher, TOKEN_ROWS};
use crate::checkpoint::{self, Checkpoint, LayerKind, quantized};
use crate::families::ties::{self, Ties};
use crate::formats::place;
use crate::note::Note;
use crate::tensor::{Tensor, float_type};
use crate::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What an adapter does to a checkpoint.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Binding {
    /// The weights that change, in the order of the adapter's layers.
    pub sites: Vec<Site>,
    /// Tensors of the checkpoint that [`Adapter::replaced`] replaces or adds: name in the checkpoint, key in `replaced`.
    pub replaced: BTreeMap<String, String>,
    /// Rows of embeddings and heads that are replaced: name of the tensor in the checkpoint, key of the rows in
    /// [`Adapter::replaced`].
    pub rows: BTreeMap<String, String>,
    /// Tied tensors that are not in the checkpoint: new tensor, tensor that it starts as a copy of. Those of
    /// [`kept`](Self::kept) are one with it after the merge too; the others part ways.
    pub untied: BTreeMap<String, String>,
    /// Names of tied tensors that need no tensor of their own, as they change like those that they are tied to.
    pub kept: BTreeSet<String>,
    /// Whether tensors that the model ties stay tied.
    pub ties: TieOutcome,
    /// How the adapter's module names become the checkpoint's.
    pub naming: Naming,
    /// What the configuration says about each module that could be adapted.
    pub targets: TargetReport,
    /// What the user should know.
    pub notes: Vec<Note>,
}

/// Whether tensors that a model ties stay tied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TieOutcome {
    /// What the model ties is not known, and the file has what may be tied.
    #[default]
    Unknown,
    /// None of them changes, or all of them alike.
    Kept,
    /// They part ways: `config.json` has to say so.
    Parted,
}

/// Finds every tensor of an adapter its place in a checkpoint.
///
/// # Errors
/// A layer of the adapter has no place, a module that the configuration targets has no layer although the adapter has some
/// for the part of the model that it is in, a shape does not fit, or a bias or saved module is missing. The error names the
/// tensor.
pub fn bind(adapter: &Adapter, checkpoint: &Checkpoint) -> Result<Binding> {
    let matcher = Matcher::new(&adapter.config)?;
    let naming = Naming::find(adapter, checkpoint);
    let targets = find_targets(&matcher, checkpoint, &naming)?;
    let ties = ties::of(checkpoint.model_config(), checkpoint.tensors().keys(), |name| {
        checkpoint.tensors().contains_key(name)
    });
    let binder = Binder { adapter, checkpoint, matcher, naming: &naming.clone(), ties };
    let absent = &mut Absent::of(adapter, checkpoint);
    binder.check_complete(&targets.matched, absent)?;
    let mut binding = Binding { naming, targets, ..Binding::default() };
    let parameters = binder.parameters(absent)?;
    for (key, layer) in &adapter.layers {
        layer.check(key)?;
        let site = match parameters.get(key) {
            Some(parameter) => binder.parameter_site(key, layer, parameter)?,
            None => binder.module_site(key, layer, &mut binding.untied)?,
        };
        binding.sites.push(site);
    }
    binder.replace(&mut binding, absent)?;
    binder.settle_ties(&mut binding)?;
    binder.check_vocabulary(&binding)?;
    binding.notes.extend(absent.note());
    Ok(binding)
}

/// Biases that an adapter trained and its file has lost: with `bias` = `lora_only`, older versions of PEFT (0.10 and 0.14
/// among them) save none. Like PEFT's, a merge keeps the base model's.
pub fn lost_biases<'a>(adapter: &Adapter, binding: &'a Binding) -> impl Iterator<Item = &'a str> {
    let lost = has_lost_biases(adapter);
    binding.sites.iter().filter(move |_| lost).filter_map(|site| site.bias.as_deref())
}

fn has_lost_biases(adapter: &Adapter) -> bool {
    let has_bias = |module: &String| adapter.replaced.contains_key(&format!("{module}.bias"));
    adapter.config.bias == BiasMode::LoraOnly && !adapter.layers.keys().any(has_bias)
}

/// [`bind`], after the modules of other programs' adapters were given the checkpoint's names ([`place`]), and the adapter's
/// layers were made to fit what the checkpoint has as one matrix and what it has as several: stacked experts (see
/// [`apart`](super::apart)), and fused queries, keys and values, gates and ups.
///
/// # Errors
/// As [`bind`].
pub fn fit<'a>(adapter: &'a Adapter, checkpoint: &Checkpoint) -> Result<(Cow<'a, Adapter>, Binding)> {
    let (placed, notes) = place(adapter, checkpoint)?;
    let regrouped = refitted(placed, checkpoint, regrouped::regrouped)?;
    let adapter = refitted(regrouped, checkpoint, separate_experts::apart)?;
    let mut binding = bind(&adapter, checkpoint)?;
    binding.notes.extend(notes);
    Ok((adapter, binding))
}

fn refitted<'a>(
    adapter: Cow<'a, Adapter>,
    checkpoint: &Checkpoint,
    refit: for<'b, 'c> fn(&'b Adapter, &'c Checkpoint) -> Result<Cow<'b, Adapter>>,
) -> Result<Cow<'a, Adapter>> {
    let new = match refit(&adapter, checkpoint)? {
        Cow::Owned(new) => Some(new),
        Cow::Borrowed(_) => None,
    };
    Ok(new.map_or(adapter, Cow::Owned))
}

pub(super) struct Binder<'a> {
    pub adapter: &'a Adapter,
    pub checkpoint: &'a Checkpoint,
    matcher: Matcher,
    naming: &'a Naming,
    pub ties: Ties,
}

impl Binder<'_> {
    pub fn file_name(&self, name: &str) -> String {
        self.naming.to_file(name, self.checkpoint)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.tensors().get(name).map(|info| info.shape.as_slice())
    }

    /// Every module that the configuration targets must have a layer, unless it is of a part for which there are none.
    fn check_complete(&self, targets: &[Target], absent: &mut Absent) -> Result<()> {
        let without = targets.iter().filter(|target| !self.adapter.layers.contains_key(&target.module));
        for target in without {
            if absent.covers(&target.module) {
                continue;
            }
            let ending =
                if target.kind == LayerKind::Embedding { "lora_embedding_A" } else { "lora_A.weight" };
            return Err(Error::tensor(
                format!("base_model.model.{}.{ending}", target.module),
                format!(
                    "missing, although the configuration targets this module{}",
                    self.in_the_file(&format!("{}.weight", target.module))
                ),
            ));
        }
        Ok(())
    }

    /// What the file calls a tensor, where the model calls it otherwise.
    fn in_the_file(&self, name: &str) -> String {
        match self.file_name(name) {
            file if file == name => String::new(),
            file => format!("; the checkpoint's name is `{file}`"),
        }
    }

    fn module_site(
        &self,
        key: &str,
        layer: &AdapterLayer,
        untied: &mut BTreeMap<String, String>,
    ) -> Result<Site> {
        let targeted = self.adapter.config.target_modules.is_none()
            || self.matcher.matches(key)? == Match::Targeted
            // PEFT gives them the layer of what they are tied to, and takes their names out of the configuration.
            || self.adapter.config.ensure_weight_tying && self.is_tied(&self.file_name(&format!("{key}.weight")));
        if !targeted {
            return Err(Error::module(
                key,
                "the file has an adapter for it, but the configuration does not target it",
            ));
        }
        let weight = self.file_name(&format!("{key}.weight"));
        quantized::check_module(self.checkpoint, weight.trim_end_matches(".weight"))?;
        let source = match self.shape(&weight) {
            Some(_) => weight.clone(),
            None => {
                let source = self.tied_source(key, &weight, layer)?;
                untied.insert(weight.clone(), source.clone());
                source
            }
        };
        let shape = self.shape(&source).unwrap_or_default();
        let kind = self.kind(key, layer, self.new_shape(key, &source).unwrap_or(shape))?;
        let bias = self.file_name(&format!("{key}.bias"));
        let bias = self.checkpoint.tensors().contains_key(&bias).then_some(bias);
        if layer.bias.is_some() && bias.is_none() {
            return Err(Error::module(
                key,
                "its adapter has a bias (`lora_bias`), but the module has none to add it to",
            ));
        }
        let rank = self.matcher.rank(key)?;
        if layer.a.shape()[0] != rank {
            return Err(Error::tensor(
                format!("base_model.model.{key}.lora_A.weight"),
                format!("has rank {}, but the configuration says {rank}", layer.a.shape()[0]),
            ));
        }
        Ok(Site { layer: key.to_owned(), weight, bias, kind, rank, scale: self.matcher.scale(key)? })
    }

    /// The kind of layer that makes A and B fit the weight.
    fn kind(&self, key: &str, layer: &AdapterLayer, shape: &[usize]) -> Result<LayerKind> {
        let (a, b) = (layer.a.shape(), layer.b.shape());
        let unfit =
            || Error::module(key, format!("A {a:?} and B {b:?} do not fit the base weight {shape:?}"));
        if a.len() > 2 {
            if shape.first() == Some(&b[0]) && shape.get(2..) == Some(&a[2..]) && shape[1] < a[1] {
                return Err(Error::module(key, "a grouped convolution; its adapter cannot be merged"));
            }
            let fits = shape.len() == a.len() && shape[0] == b[0] && shape[1..] == a[1..];
            return if fits { Ok(LayerKind::Convolution) } else { Err(unfit()) };
        }
        let (input, output) = (a[1], b[0]);
        if layer.embedding {
            return if shape == [input, output] { Ok(LayerKind::Embedding) } else { Err(unfit()) };
        }
        match (shape == [output, input], shape == [input, output]) {
            (true, true) if self.is_transposed(key) => Ok(LayerKind::TransposedLinear),
            (true, _) => Ok(LayerKind::Linear),
            (_, true) => Ok(LayerKind::TransposedLinear),
            _ => Err(unfit()),
        }
    }

    /// Square weights fit both ways; the model's type knows, and otherwise the adapter's configuration.
    fn is_transposed(&self, key: &str) -> bool {
        match checkpoint::is_transposed_model(self.checkpoint) {
            Some(transposed) => transposed && checkpoint::is_transposed_module(key),
            None => self.adapter.config.fan_in_fan_out,
        }
    }

    /// The checkpoint has no such module; perhaps it has none of the adapter's.
    fn missing(&self, key: &str) -> Error {
        let is_found = |module: &String| self.shape(&self.file_name(&format!("{module}.weight"))).is_some();
        if self.adapter.layers.keys().any(is_found) {
            let weight = format!("{key}.weight");
            return Error::module(
                key,
                format!("the checkpoint has no such module{}", self.in_the_file(&weight)),
            );
        }
        let base = self.adapter.config.other.get("base_model_name_or_path").and_then(Value::as_str);
        Error::NoMatch(format!(
            "the checkpoint has none of the adapter's modules, `{key}` for one; the adapter was made for {}",
            base.map_or("another model".to_owned(), |base| format!("`{base}`"))
        ))
    }

    /// The shape of a module's weight where the adapter brings the weight along, its own or that of what it is tied to: that of
    /// a vocabulary with other tokens.
    fn new_shape(&self, key: &str, source: &str) -> Option<&[usize]> {
        let own = self.adapter.replaced.get(&format!("{key}.weight"));
        let tied = || self.adapter.replaced.get(&self.naming.to_model(source));
        own.or_else(tied).map(Tensor::shape).filter(|shape| {
            self.shape(source).is_some_and(|old| self.may_become(&format!("{key}.weight"), old, shape))
        })
    }

    /// The weight that a missing one of this name is tied to.
    fn tied_source(&self, key: &str, weight: &str, layer: &AdapterLayer) -> Result<String> {
        if let Some(source) = self.known_source(weight) {
            return Ok(source);
        }
        let missing = || self.missing(key);
        if !checkpoint::is_output_head(key) || layer.a.shape().len() != 2 {
            return Err(missing());
        }
        let wanted = [layer.b.shape()[0], layer.a.shape()[1]];
        let embedding = self.checkpoint.tensors().iter().find(|(name, info)| {
            name.strip_suffix(".weight").is_some_and(checkpoint::is_input_embedding) && info.shape == wanted
        });
        embedding.map(|(name, _)| name.clone()).ok_or_else(missing)
    }

    /// Which parameter each layer for `target_parameters` belongs to; each must have one.
    fn parameters(&self, absent: &mut Absent) -> Result<BTreeMap<String, String>> {
        let config = &self.adapter.config;
        let found = parameters::targeted(config, &self.matcher, self.checkpoint, self.naming)?;
        let without = |(key, _): &(&String, &String)| !self.adapter.layers.contains_key(*key);
        for (key, name) in found.iter().filter(without) {
            if !absent.covers(name) {
                return Err(Error::tensor(
                    format!("base_model.model.{key}.lora_A.weight"),
                    format!(
                        "missing, although the configuration targets the parameter `{name}`{}",
                        self.in_the_file(name)
                    ),
                ));
            }
        }
        Ok(found)
    }

    fn parameter_site(&self, key: &str, layer: &AdapterLayer, parameter: &str) -> Result<Site> {
        let weight = self.file_name(parameter);
        quantized::check_tensor(self.checkpoint, &weight)?;
        let shape = self.shape(&weight).unwrap_or_default();
        let (a, b) = (layer.a.shape(), layer.b.shape());
        let rank = self.matcher.rank(parameter)?;
        let kind = match *shape {
            [out, input] if *a == [rank, input] && *b == [out, rank] => LayerKind::Linear,
            [experts, rows, columns] if a[0] == experts * rank && b[1] == a[0] => {
                match ([b[0], a[1]] == [rows, columns], [a[1], b[0]] == [rows, columns]) {
                    (true, true) if checkpoint::marks_transposed_experts(self.checkpoint) => {
                        LayerKind::TransposedExperts
                    }
                    (true, _) => LayerKind::Experts,
                    (_, true) => LayerKind::TransposedExperts,
                    _ => return Err(self.unfit_parameter(key, layer, parameter, shape)),
                }
            }
            _ => return Err(self.unfit_parameter(key, layer, parameter, shape)),
        };
        let bias = parameters::bias_beside(self.checkpoint, &weight);
        let scale = self.matcher.scale(parameter)?;
        Ok(Site { layer: key.to_owned(), weight, bias, kind, rank, scale })
    }

    fn unfit_parameter(&self, key: &str, layer: &AdapterLayer, parameter: &str, shape: &[usize]) -> Error {
        Error::module(
            key,
            format!(
                "A {:?} and B {:?} do not fit the parameter `{parameter}` {shape:?}",
                layer.a.shape(),
                layer.b.shape()
            ),
        )
    }

    /// Biases, saved modules and embeddings: each must have the shape of what it replaces, and none may be missing.
    fn replace(&self, binding: &mut Binding, absent: &mut Absent) -> Result<()> {
        let in_place: HashSet<&str> = self.adapter.in_place()?.into_iter().collect();
        for (key, tensor) in &self.adapter.replaced {
            if let Some(module) = key.strip_suffix(TOKEN_ROWS) {
                self.replace_rows(module, key, tensor, binding)?;
                continue;
            }
            let name = self.file_name(key);
            let Some(shape) = self.shape(&name) else {
                match self.known_source(&name) {
                    // A tied tensor that is as it was.
                    Some(source) if self.is_as_before(&source, tensor)? => {}
                    None if in_place.contains(key.as_str()) => {
                        return Err(Error::tensor(
                            format!("base_model.model.{key}"),
                            "nothing uses it: neither the configuration asks for it nor has the checkpoint such a tensor",
                        ));
                    }
                    // A head that the base checkpoint never had, or had under another name.
                    _ => {
                        binding.replaced.insert(name, key.clone());
                    }
                }
                continue;
            };
            if shape != tensor.shape() && !self.may_become(key, shape, tensor.shape()) {
                return Err(Error::tensor(
                    format!("base_model.model.{key}"),
                    format!("has shape {:?}, but the base model's has {shape:?}", tensor.shape()),
                ));
            }
            quantized::check_tensor(self.checkpoint, &name)?;
            // PEFT saves adapted embeddings along, usually unchanged.
            if !self.is_as_before(&name, tensor)? {
                binding.replaced.insert(name, key.clone());
            }
        }
        self.check_token_rows(binding)?;
        let has_lost_biases = has_lost_biases(self.adapter);
        for name in self.checkpoint.tensors().keys() {
            let name = self.naming.to_model(name);
            let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
            let key = match self.adapter.config.bias {
                BiasMode::All if self.is_foreign(&name) => continue,
                BiasMode::All if name == "bias" || name.ends_with(".bias") => "bias",
                BiasMode::LoraOnly if name.ends_with(".bias") && self.adapter.layers.contains_key(module) => {
                    if has_lost_biases {
                        continue;
                    }
                    "bias"
                }
                _ if self.saves(module) => "modules_to_save",
                _ => continue,
            };
            if !self.adapter.replaced.contains_key(&name) && !absent.covers(module) {
                return Err(Error::tensor(
                    format!("base_model.model.{name}"),
                    format!("missing, although `{key}` asks for it"),
                ));
            }
        }
        Ok(())
    }

    /// Whether a tensor of the file belongs to a head, or a pooler, that the class of the adapter's model does not have: files of
    /// BERT have those of its pretraining.
    fn is_foreign(&self, name: &str) -> bool {
        let own = |part: &str| {
            let adapter = self.adapter.replaced.keys().chain(self.adapter.layers.keys());
            adapter.into_iter().any(|own| own.starts_with(part))
        };
        let head = name.split_once('.').is_some_and(|(head, _)| !own(&format!("{head}.")));
        let pooler = name.split_once(".pooler.").is_some_and(|(outer, _)| !own(&format!("{outer}.pooler.")));
        head || pooler
    }

    /// Whether `modules_to_save` names a module or one that it is in.
    pub fn saves(&self, module: &str) -> bool {
        std::iter::successors(Some(module), |path| path.rsplit_once('.').map(|(parent, _)| parent))
            .any(|path| !path.is_empty() && self.matcher.saves(path))
    }

    /// Whether a tensor of the file holds these values.
    fn is_as_before(&self, name: &str, tensor: &Tensor) -> Result<bool> {
        let info = self.checkpoint.info(name)?;
        match float_type(info.dtype) {
            Some(dtype) if info.shape == tensor.shape() => {
                self.checkpoint.holds(name, tensor.cast(dtype).bytes())
            }
            _ => Ok(false),
        }
    }
}

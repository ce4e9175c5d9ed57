//! Which weights of a checkpoint an adapter changes, with everything checked before a byte is written.

use super::naming::Naming;
use super::site::Site;
use super::targets::{Target, TargetReport, find_targets};
use super::{parameters, separate_experts};
use crate::adapter::{Adapter, AdapterLayer, BiasMode, Match, Matcher};
use crate::checkpoint::{self, Checkpoint, LayerKind, quantized};
use crate::formats::place;
use crate::note::Note;
use crate::tensor::float_type;
use crate::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What an adapter does to a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The weights that change, in the order of the adapter's layers.
    pub sites: Vec<Site>,
    /// Tensors of the checkpoint that [`Adapter::replaced`] replaces or adds: name in the checkpoint, key in `replaced`.
    pub replaced: BTreeMap<String, String>,
    /// Tied tensors that part ways, because only one of them changes: new tensor, tensor that it starts as a copy of.
    pub untied: BTreeMap<String, String>,
    /// How the adapter's module names become the checkpoint's.
    pub naming: Naming,
    /// What the configuration says about each module that could be adapted.
    pub targets: TargetReport,
    /// What was decided on the way.
    pub notes: Vec<Note>,
}

/// Finds every tensor of an adapter its place in a checkpoint.
///
/// # Errors
/// A layer of the adapter has no place, a module that the configuration targets has no layer, a shape does not fit, or
/// a bias or saved module is missing. The error names the tensor.
pub fn bind(adapter: &Adapter, checkpoint: &Checkpoint) -> Result<Binding> {
    let matcher = Matcher::new(&adapter.config)?;
    let naming = Naming::find(adapter, checkpoint);
    let targets = find_targets(&matcher, checkpoint, &naming)?;
    let binder = Binder { adapter, checkpoint, matcher, naming: &naming.clone() };
    binder.check_complete(&targets.matched)?;
    let mut binding = Binding {
        sites: Vec::new(),
        replaced: BTreeMap::new(),
        untied: BTreeMap::new(),
        naming,
        targets,
        notes: Vec::new(),
    };
    let parameters = binder.parameters()?;
    for (key, layer) in &adapter.layers {
        layer.check(key)?;
        let site = match parameters.get(key) {
            Some(parameter) => binder.parameter_site(key, layer, parameter)?,
            None => binder.module_site(key, layer, &mut binding.untied)?,
        };
        binding.sites.push(site);
    }
    binder.replace(&mut binding)?;
    binder.untie_heads(&mut binding)?;
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

/// [`bind`], after giving the modules of other programs' adapters the checkpoint's names ([`place`]) and taking stacked
/// experts apart where the checkpoint has them apart ([`apart`](super::apart)).
///
/// # Errors
/// As [`bind`].
pub fn fit<'a>(adapter: &'a Adapter, checkpoint: &Checkpoint) -> Result<(Cow<'a, Adapter>, Binding)> {
    let (placed, notes) = place(adapter, checkpoint)?;
    let adapter = match placed {
        Cow::Borrowed(adapter) => separate_experts::apart(adapter, checkpoint)?,
        Cow::Owned(placed) => Cow::Owned(separate_experts::apart(&placed, checkpoint)?.into_owned()),
    };
    let mut binding = bind(&adapter, checkpoint)?;
    binding.notes.extend(notes);
    Ok((adapter, binding))
}

struct Binder<'a> {
    adapter: &'a Adapter,
    checkpoint: &'a Checkpoint,
    matcher: Matcher,
    naming: &'a Naming,
}

impl Binder<'_> {
    fn file_name(&self, name: &str) -> String {
        self.naming.to_file(name, self.checkpoint)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.tensors().get(name).map(|info| info.shape.as_slice())
    }

    /// Every module that the configuration targets must have a layer.
    fn check_complete(&self, targets: &[Target]) -> Result<()> {
        match targets.iter().find(|target| !self.adapter.layers.contains_key(&target.module)) {
            Some(target) => {
                let ending =
                    if target.kind == LayerKind::Embedding { "lora_embedding_A" } else { "lora_A.weight" };
                Err(Error::tensor(
                    format!("base_model.model.{}.{ending}", target.module),
                    "missing, although the configuration targets this module",
                ))
            }
            None => Ok(()),
        }
    }

    fn module_site(
        &self,
        key: &str,
        layer: &AdapterLayer,
        untied: &mut BTreeMap<String, String>,
    ) -> Result<Site> {
        if self.adapter.config.target_modules.is_some() && self.matcher.matches(key)? != Match::Targeted {
            return Err(Error::module(
                key,
                "the file has an adapter for it, but the configuration does not target it",
            ));
        }
        let weight = self.file_name(&format!("{key}.weight"));
        quantized::check_module(self.checkpoint, weight.trim_end_matches(".weight"))?;
        let shape = match self.shape(&weight) {
            Some(shape) => shape,
            None => {
                let source = self.tied_source(key, layer)?;
                untied.insert(weight.clone(), source.clone());
                self.shape(&source).unwrap_or_default()
            }
        };
        let kind = self.kind(key, layer, shape)?;
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
            return Error::module(key, "the checkpoint has no such module");
        }
        let base = self.adapter.config.other.get("base_model_name_or_path").and_then(Value::as_str);
        Error::NoMatch(format!(
            "the checkpoint has none of the adapter's modules, `{key}` for one; the adapter was made for {}",
            base.map_or("another model".to_owned(), |base| format!("`{base}`"))
        ))
    }

    /// The input embedding that a missing output head shares its weight with.
    fn tied_source(&self, key: &str, layer: &AdapterLayer) -> Result<String> {
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
    fn parameters(&self) -> Result<BTreeMap<String, String>> {
        let config = &self.adapter.config;
        let found = parameters::targeted(config, &self.matcher, self.checkpoint, self.naming)?;
        match found.iter().find(|(key, _)| !self.adapter.layers.contains_key(*key)) {
            Some((key, name)) => Err(Error::tensor(
                format!("base_model.model.{key}.lora_A.weight"),
                format!("missing, although the configuration targets the parameter `{name}`"),
            )),
            None => Ok(found),
        }
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
    fn replace(&self, binding: &mut Binding) -> Result<()> {
        for (key, tensor) in &self.adapter.replaced {
            let name = self.file_name(key);
            let Some(shape) = self.shape(&name) else {
                // A head that the base checkpoint never had.
                binding.replaced.insert(name, key.clone());
                continue;
            };
            if shape != tensor.shape() {
                return Err(Error::tensor(
                    format!("base_model.model.{key}"),
                    format!("has shape {:?}, but the base model's has {shape:?}", tensor.shape()),
                ));
            }
            quantized::check_tensor(self.checkpoint, &name)?;
            // PEFT saves adapted embeddings along, usually unchanged.
            let unchanged = match float_type(self.checkpoint.info(&name)?.dtype) {
                Some(dtype) => self.checkpoint.holds(&name, tensor.cast(dtype).bytes())?,
                None => false,
            };
            if !unchanged {
                binding.replaced.insert(name, key.clone());
            }
        }
        let has_lost_biases = has_lost_biases(self.adapter);
        for name in self.checkpoint.tensors().keys() {
            let name = self.naming.to_model(name);
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let key = match self.adapter.config.bias {
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
            if !self.adapter.replaced.contains_key(&name) {
                return Err(Error::tensor(
                    format!("base_model.model.{name}"),
                    format!("missing, although `{key}` asks for it"),
                ));
            }
        }
        Ok(())
    }

    fn saves(&self, module: &str) -> bool {
        std::iter::successors(Some(module), |path| path.rsplit_once('.').map(|(parent, _)| parent))
            .any(|path| !path.is_empty() && self.matcher.saves(path))
    }

    /// An input embedding that changes while its tied head is not in the file leaves the head as it was.
    fn untie_heads(&self, binding: &mut Binding) -> Result<()> {
        let changed = binding.sites.iter().map(|site| &site.weight).chain(binding.replaced.keys());
        let embedding = changed
            .filter_map(|name| name.strip_suffix(".weight"))
            .find(|path| checkpoint::is_input_embedding(path))
            .map(str::to_owned);
        let Some(embedding) = embedding else {
            return Ok(());
        };
        let has_head = |name: &String| name.strip_suffix(".weight").is_some_and(checkpoint::is_output_head);
        let head_known = self.checkpoint.tensors().keys().any(has_head)
            || binding.replaced.keys().any(has_head)
            || binding.untied.keys().any(has_head);
        if head_known || !self.expects_head() {
            return Ok(());
        }
        let head = match embedding.rsplit('.').next() {
            Some("embed_tokens" | "wte") => "lm_head.weight",
            Some("embed_in") => "embed_out.weight",
            Some("word_embeddings") => "cls.predictions.decoder.weight",
            _ => {
                return Err(Error::module(
                    embedding,
                    "is tied to an output head of unknown name; untie them in the base checkpoint first",
                ));
            }
        };
        binding.untied.insert(head.to_owned(), format!("{embedding}.weight"));
        Ok(())
    }

    /// Whether the model's architecture has an output head, so that one missing from the file must be tied.
    fn expects_head(&self) -> bool {
        let config = self.checkpoint.model_config();
        let architecture = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        architecture.is_some_and(|name| {
            ["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"]
                .iter()
                .any(|end| name.ends_with(end))
        })
    }
}

//! An adapter from the contents of its files: every tensor has a use, and none is missing.

use super::block_diagonal::write_out;
use super::layer::{IN_PLACE, PREFIX, names};
use super::tensor_names::TensorNames;
use super::{Adapter, AdapterConfig, AdapterLayer, BiasMode, Matcher, TOKEN_ROWS};
use crate::checkpoint::{header_error, is_vocabulary};
use crate::families::ties::is_tied_somewhere;
use crate::files::WEIGHTS_FILE;
use crate::tensor::{Tensor, float_type};
use crate::{Error, Result};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

impl Adapter {
    /// Puts an adapter together from its configuration and the contents of its weights' file.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_parts(config: AdapterConfig, weights: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(weights)
            .map_err(|error| Error::malformed(Path::new(WEIGHTS_FILE), header_error(&error)))?;
        let clean = TensorNames::of(file.iter().map(|(name, _)| name))?;
        let tensors = file.iter().map(|(name, view)| Ok((name.to_owned(), read(name, &view)?)));
        Self::from_named(config, clean, &in_place(weights)?, tensors)
    }

    /// Puts an adapter together from its configuration and its tensors under PEFT's names.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_tensors(config: AdapterConfig, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let clean = TensorNames::of(tensors.keys().map(String::as_str))?;
        Self::from_named(config, clean, &BTreeSet::new(), tensors.into_iter().map(Ok))
    }

    fn from_named(
        mut config: AdapterConfig,
        mut clean: TensorNames,
        in_place: &BTreeSet<String>,
        tensors: impl Iterator<Item = Result<(String, Tensor)>>,
    ) -> Result<Self> {
        let matcher = Matcher::new(&config)?;
        let mut unfinished: BTreeMap<String, UnfinishedLayer> = BTreeMap::new();
        let mut replaced = BTreeMap::new();
        let mut repeated = Vec::new();
        for named in tensors {
            let (name, tensor) = named?;
            let name = name.as_str();
            let cleaned = clean.clean(name);
            let own = cleaned.strip_prefix(PREFIX).ok_or_else(|| {
                Error::tensor(name, format!("nothing uses it: names of LoRA tensors start with `{PREFIX}`"))
            })?;
            match layer_tensor(own) {
                Some((module, which)) => {
                    if !unfinished.entry(module.to_owned()).or_default().put(which, tensor) {
                        return Err(Error::tensor(name, "found twice, under two names"));
                    }
                }
                None if is_original_of_saved(own, &config, &matcher) => {}
                None if TRAINING_ONLY.iter().any(|part| own.contains(part)) => {}
                None if own.contains(SAVED_COPY) => {
                    repeated.push((name.to_owned(), own.replacen(SAVED_COPY, ".", 1), tensor));
                }
                None => {
                    let base = without_wrappers(&own.replace(TOKEN_BASE, "."));
                    if !is_used(&base, &config, &matcher) && !in_place.contains(&base) {
                        return Err(Error::tensor(
                            name,
                            "nothing uses it: neither `modules_to_save` nor `bias` asks for it",
                        ));
                    }
                    if replaced.insert(base, tensor).is_some() {
                        return Err(Error::tensor(name, "found twice, under two names"));
                    }
                }
            }
        }
        for (name, twin, tensor) in repeated {
            // In memory there is no other copy than the one that has the adapter's name.
            if clean.name().is_some() && !replaced.contains_key(&twin) && is_used(&twin, &config, &matcher) {
                replaced.insert(twin, tensor);
                continue;
            }
            if replaced.get(&twin) != Some(&tensor) {
                return Err(Error::tensor(
                    name,
                    format!("nothing uses it: PEFT writes it only beside an equal `{PREFIX}{twin}`"),
                ));
            }
        }
        let layers = unfinished
            .into_iter()
            .map(|(module, layer)| layer.finish(&module, &config, &matcher))
            .collect::<Result<_>>()?;
        config.block_diagonal = None;
        Ok(Adapter { config, layers, replaced, notes: clean.notes() })
    }
}

/// A tensor of a file, which must be finite.
pub(crate) fn read(name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let dtype = float_type(view.dtype()).ok_or_else(|| {
        Error::tensor(name, format!("holds {}; F32, F16 or BF16 is expected", view.dtype()))
    })?;
    let tensor = Tensor::from_bytes(dtype, view.shape(), view.data());
    if !tensor.is_finite() {
        return Err(Error::tensor(name, "holds NaN or infinity"));
    }
    Ok(tensor)
}

/// Which tensor of a layer one of the file's is.
#[derive(Clone, Copy)]
enum LayerTensor {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Bias,
    Magnitude,
}

fn layer_tensor(name: &str) -> Option<(&str, LayerTensor)> {
    let endings = [
        (".lora_A.weight", LayerTensor::A),
        (".lora_B.weight", LayerTensor::B),
        (".lora_embedding_A", LayerTensor::EmbeddingA),
        (".lora_embedding_B", LayerTensor::EmbeddingB),
        (".lora_B.bias", LayerTensor::Bias),
        (".lora_magnitude_vector", LayerTensor::Magnitude),
        // As the parameter is called in memory since PEFT 0.12; it loads this name too.
        (".lora_magnitude_vector.weight", LayerTensor::Magnitude),
    ];
    endings.into_iter().find_map(|(ending, tensor)| Some((name.strip_suffix(ending)?, tensor)))
}

/// With saved embeddings or biases, PEFT writes modules of `modules_to_save` three times: under their own name, as
/// `….modules_to_save.…`, and as `….original_module.…`, which is what they were before training.
const SAVED_COPY: &str = ".modules_to_save.";
const SAVED_ORIGINAL: &str = ".original_module.";

/// What PEFT calls the weight of an embedding of which some tokens are trained by themselves.
const TOKEN_BASE: &str = ".token_adapter.base_layer.";
/// Parts of the names of what VeLoRA and MonteCLoRA need in training only.
const TRAINING_ONLY: [&str; 2] = [".lora_velora_embed", ".lora_monteclora_sampler."];

/// Whether this is what a saved module was before training: the saved one takes its place. PEFT also saves those that are tied
/// to a saved module.
fn is_original_of_saved(name: &str, config: &AdapterConfig, matcher: &Matcher) -> bool {
    name.split_once(SAVED_ORIGINAL).is_some_and(|(module, _)| {
        matcher.saves(module) || config.ensure_weight_tying && is_of_vocabulary(module)
    })
}

/// Whether a module is an embedding or the output head of a language model, as far as its name says.
fn is_of_vocabulary(module: &str) -> bool {
    is_vocabulary(module) || is_tied_somewhere(&format!("{module}.weight"))
}

/// Names of the tensors that an extraction wrote for the base model itself.
fn in_place(weights: &[u8]) -> Result<BTreeSet<String>> {
    let malformed = |reason: String| Error::malformed(Path::new(WEIGHTS_FILE), reason);
    let (_, metadata) =
        SafeTensors::read_metadata(weights).map_err(|error| malformed(header_error(&error)))?;
    match metadata.metadata().as_ref().and_then(|metadata| metadata.get(IN_PLACE)) {
        None => Ok(BTreeSet::new()),
        Some(names) => serde_json::from_str(names)
            .map_err(|error| malformed(format!("`{IN_PLACE}` of its metadata is no list of names: {error}"))),
    }
}

/// PEFT finds the own tensors of an adapted module below `base_layer`, once for each of its adapters.
fn without_wrappers(name: &str) -> String {
    name.split('.').filter(|part| *part != "base_layer").collect::<Vec<_>>().join(".")
}

/// Whether a tensor that is not LoRA's own has a reason to be in the file.
pub(super) fn is_used(name: &str, config: &AdapterConfig, matcher: &Matcher) -> bool {
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    // The tensor may belong to a module inside the one that is saved.
    let saved = std::iter::successors(Some(module), |path| path.rsplit_once('.').map(|(parent, _)| parent))
        .any(|path| matcher.saves(path));
    let bias = config.bias != BiasMode::None && (name == "bias" || name.ends_with(".bias"));
    let rows = name.strip_suffix(TOKEN_ROWS).is_some_and(|module| config.tokens_of(module).is_some());
    // PEFT adds embeddings and heads that are adapted or have been resized, with their biases.
    let whole = [".weight", ".bias"].iter().any(|end| name.ends_with(end)) && is_of_vocabulary(module);
    saved || bias || rows || whole
}

/// The tensors of a layer that were found so far.
#[derive(Default)]
struct UnfinishedLayer {
    a: Option<Tensor>,
    b: Option<Tensor>,
    embedding_a: Option<Tensor>,
    embedding_b: Option<Tensor>,
    bias: Option<Tensor>,
    magnitude: Option<Tensor>,
}

impl UnfinishedLayer {
    /// Whether the place was free.
    fn put(&mut self, which: LayerTensor, tensor: Tensor) -> bool {
        let place = match which {
            LayerTensor::A => &mut self.a,
            LayerTensor::B => &mut self.b,
            LayerTensor::EmbeddingA => &mut self.embedding_a,
            LayerTensor::EmbeddingB => &mut self.embedding_b,
            LayerTensor::Bias => &mut self.bias,
            LayerTensor::Magnitude => &mut self.magnitude,
        };
        place.replace(tensor).is_none()
    }

    /// A and B must both be there and fit each other, the configuration and the rank it gives this module.
    fn finish(
        self,
        module: &str,
        config: &AdapterConfig,
        matcher: &Matcher,
    ) -> Result<(String, AdapterLayer)> {
        let embedding = self.embedding_a.is_some() || self.embedding_b.is_some();
        if embedding && (self.a.is_some() || self.b.is_some()) {
            return Err(Error::module(
                module,
                "has tensors of an embedding's and of a linear layer's adapter",
            ));
        }
        let name = |ending: &str| format!("{PREFIX}{module}.{ending}");
        let (a_name, b_name) = (name(names(embedding).0), name(names(embedding).1));
        let missing = |name: &str| Error::tensor(name, "missing");
        let a = self.a.or(self.embedding_a).ok_or_else(|| missing(&a_name))?;
        let b = self.b.or(self.embedding_b).ok_or_else(|| missing(&b_name))?;
        check_optional(&name("lora_B.bias"), self.bias.is_some(), config.lora_bias, "lora_bias")?;
        check_optional(&name("lora_magnitude_vector"), self.magnitude.is_some(), config.dora, "use_dora")?;

        let mut layer = AdapterLayer { a, b, bias: self.bias, magnitude: self.magnitude, embedding };
        if let Some(blocks) = &config.block_diagonal {
            write_out(&mut layer, module, blocks)?;
        }
        layer.check(module)?;
        let rank = matcher.rank(module)?;
        if config.target_parameters.is_empty() && layer.a.shape()[0] != rank {
            return Err(Error::tensor(
                a_name,
                format!("has shape {:?}, but the configuration says rank {rank}", layer.a.shape()),
            ));
        }
        Ok((module.to_owned(), layer))
    }
}

fn check_optional(name: &str, found: bool, wanted: bool, key: &str) -> Result<()> {
    match (found, wanted) {
        (true, false) => Err(Error::tensor(name, format!("nothing uses it: `{key}` is off"))),
        (false, true) => Err(Error::tensor(name, format!("missing, although `{key}` is on"))),
        _ => Ok(()),
    }
}

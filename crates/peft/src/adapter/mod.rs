//! An adapter in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod layer;
mod matching;
mod pattern;
mod plain_patterns;
mod suffixes;
mod weighted;

pub use crate::files::{CONFIG_FILE, WEIGHTS_FILE};
pub use config::{AdapterConfig, BiasMode, Init, ModuleNames};
pub use layer::AdapterLayer;
pub use matching::{ALL_LINEAR, Match, Matcher};
pub use weighted::Weighted;

use crate::checkpoint::{header_error, is_vocabulary};
use crate::error::AtPath;
use crate::files::{Snapshot, SourceFile};
use crate::tensor::{Tensor, file_type, float_type};
use crate::{Error, Result};
use layer::{PREFIX, names};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A configuration and the tensors that go with it.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `adapter_config.json`.
    pub config: AdapterConfig,
    /// Layers by the dotted path of their module. The second and further parameters that `target_parameters` names
    /// in one module have `.base_layer` appended once or more.
    pub layers: BTreeMap<String, AdapterLayer>,
    /// Tensors that replace the base model's own: biases, `modules_to_save` and embeddings. By the tensor's name in
    /// the base model.
    pub replaced: BTreeMap<String, Tensor>,
}

impl Adapter {
    /// Loads an adapter's directory.
    ///
    /// # Errors
    /// A file is missing or malformed; a key cannot be honoured; a tensor has no use, has not its partner, has the
    /// wrong shape, or holds NaN or infinity. The error names it.
    pub fn load(directory: &Path) -> Result<Self> {
        check_place(directory)?;
        let path = directory.join(WEIGHTS_FILE);
        let paths = [directory.join(CONFIG_FILE), path.clone()];
        let before: Vec<Snapshot> = paths.iter().filter_map(|path| Snapshot::take(path).ok()).collect();
        let config = AdapterConfig::load(directory)?;
        let bytes = SourceFile::open(&path)?.read_all()?;
        // A configuration and weights that do not belong together may well fit each other.
        before.iter().try_for_each(Snapshot::check)?;
        Self::from_parts(config, &bytes).map_err(|error| match error {
            Error::Malformed { reason, .. } => Error::malformed(&path, reason),
            other => other,
        })
    }

    /// Puts an adapter together from its configuration and the contents of its weights' file.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_parts(config: AdapterConfig, weights: &[u8]) -> Result<Self> {
        let matcher = Matcher::new(&config)?;
        let file = SafeTensors::deserialize(weights)
            .map_err(|error| Error::malformed(Path::new(WEIGHTS_FILE), header_error(&error)))?;
        let mut unfinished: BTreeMap<String, UnfinishedLayer> = BTreeMap::new();
        let mut replaced = BTreeMap::new();
        let mut repeated = Vec::new();
        for (name, view) in file.iter() {
            let tensor = read(name, &view)?;
            let own = name.strip_prefix(PREFIX).ok_or_else(|| {
                Error::tensor(name, format!("nothing uses it: names of LoRA tensors start with `{PREFIX}`"))
            })?;
            match layer_tensor(own) {
                Some((module, which)) => {
                    if !unfinished.entry(module.to_owned()).or_default().put(which, tensor) {
                        return Err(Error::tensor(name, "found twice, under two names"));
                    }
                }
                None if is_original_of_saved(own, &matcher) => {}
                None if own.contains(SAVED_COPY) => {
                    repeated.push((name.to_owned(), own.replacen(SAVED_COPY, ".", 1), tensor));
                }
                None => {
                    let base = own.replace(".base_layer.", ".");
                    if !is_used(&base, &config, &matcher) {
                        return Err(Error::tensor(
                            name,
                            "nothing uses it: neither `modules_to_save` nor `bias` asks for it",
                        ));
                    }
                    replaced.insert(base, tensor);
                }
            }
        }
        for (name, twin, tensor) in repeated {
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
        Ok(Adapter { config, layers, replaced })
    }

    /// The contents of the weights' file.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the tensors cannot be serialized.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors: BTreeMap<String, &Tensor> = BTreeMap::new();
        for (module, layer) in &self.layers {
            let (a, b) = names(layer.embedding);
            tensors.insert(format!("{PREFIX}{module}.{a}"), &layer.a);
            tensors.insert(format!("{PREFIX}{module}.{b}"), &layer.b);
            if let Some(bias) = &layer.bias {
                tensors.insert(format!("{PREFIX}{module}.lora_B.bias"), bias);
            }
            if let Some(magnitude) = &layer.magnitude {
                tensors.insert(format!("{PREFIX}{module}.lora_magnitude_vector"), magnitude);
            }
        }
        for (name, tensor) in &self.replaced {
            tensors.insert(format!("{PREFIX}{}", self.replaced_name(name)), tensor);
        }
        let malformed = |error| Error::malformed(Path::new(WEIGHTS_FILE), format!("{error:?}"));
        let views = tensors
            .iter()
            .map(|(name, tensor)| {
                let view =
                    TensorView::new(file_type(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes());
                Ok((name.as_str(), view.map_err(malformed)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata)).map_err(malformed)
    }

    /// Writes both files into a directory, which is created if it does not exist.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).at(directory)?;
        self.config.save(directory)?;
        let path = directory.join(WEIGHTS_FILE);
        std::fs::write(&path, self.to_bytes()?).at(&path)
    }

    /// PEFT finds the own tensors of an adapted module below `base_layer`.
    fn replaced_name(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((module, last)) if self.layers.contains_key(module) => format!("{module}.base_layer.{last}"),
            _ => name.to_owned(),
        }
    }

    /// Number of elements of all tensors.
    pub fn parameters(&self) -> u64 {
        let layer = |layer: &AdapterLayer| {
            let optional = layer.bias.iter().chain(&layer.magnitude).map(Tensor::len).sum::<usize>();
            layer.a.len() + layer.b.len() + optional
        };
        let layers: usize = self.layers.values().map(layer).sum();
        let replaced: usize = self.replaced.values().map(Tensor::len).sum();
        (layers + replaced) as u64
    }
}

/// Says what is there instead where there is no adapter.
fn check_place(directory: &Path) -> Result<()> {
    if !std::fs::metadata(directory).at(directory)?.is_dir() {
        return Err(Error::malformed(
            directory,
            "not a directory; an adapter is the directory that holds its files",
        ));
    }
    let holds = |directory: &Path, file: &str| directory.join(file).exists();
    if !holds(directory, CONFIG_FILE) {
        // PEFT saves adapters that have a name of their own in directories of that name.
        let entries = std::fs::read_dir(directory).at(directory)?.flatten();
        let inside = entries.map(|entry| entry.path()).filter(|path| holds(path, CONFIG_FILE));
        let mut inside: Vec<String> = inside.map(|path| format!("`{}`", path.display())).collect();
        inside.sort();
        return Err(Error::malformed(
            directory,
            match inside.is_empty() {
                true => format!("not an adapter: it has no {CONFIG_FILE}"),
                false => format!("no {CONFIG_FILE} here, but in {}", inside.join(", ")),
            },
        ));
    }
    if !holds(directory, WEIGHTS_FILE) && holds(directory, "adapter_model.bin") {
        return Err(Error::malformed(
            directory,
            "it has adapter_model.bin, which can hold programs and is not read; load and save it with PEFT to get \
             adapter_model.safetensors",
        ));
    }
    Ok(())
}

fn read(name: &str, view: &TensorView<'_>) -> Result<Tensor> {
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

/// Whether this is what a saved module was before training: the saved one takes its place.
fn is_original_of_saved(name: &str, matcher: &Matcher) -> bool {
    name.split_once(SAVED_ORIGINAL).is_some_and(|(module, _)| matcher.saves(module))
}

/// Whether a tensor that is not LoRA's own has a reason to be in the file.
fn is_used(name: &str, config: &AdapterConfig, matcher: &Matcher) -> bool {
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    // The tensor may belong to a module inside the one that is saved.
    let saved = std::iter::successors(Some(module), |path| path.rsplit_once('.').map(|(parent, _)| parent))
        .any(|path| matcher.saves(path));
    let bias = config.bias != BiasMode::None && (name == "bias" || name.ends_with(".bias"));
    // PEFT adds embeddings that are adapted or have been resized.
    saved || bias || (name.ends_with(".weight") && is_vocabulary(module))
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

        let layer = AdapterLayer { a, b, bias: self.bias, magnitude: self.magnitude, embedding };
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

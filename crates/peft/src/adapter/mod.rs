//! An adapter in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod layer;
mod matching;
mod pattern;
mod plain_patterns;
mod read;
mod suffixes;
mod weighted;

pub use crate::files::{CONFIG_FILE, WEIGHTS_FILE};
pub use config::{AdapterConfig, BiasMode, Init, ModuleNames};
pub use layer::AdapterLayer;
pub(crate) use layer::PREFIX;
pub use matching::{ALL_LINEAR, Match, Matcher};
pub(crate) use read::read as read_tensor;
pub use weighted::Weighted;

use crate::error::AtPath;
use crate::files::{Snapshot, SourceFile};
use crate::tensor::{Tensor, file_type};
use crate::{Error, Result};
use layer::names;
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
            "it has adapter_model.bin and no adapter_model.safetensors; `formats::load` reads such adapters",
        ));
    }
    Ok(())
}

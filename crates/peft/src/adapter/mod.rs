//! An adapter in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

mod block_diagonal;
mod config;
mod layer;
mod matching;
mod pattern;
mod plain_patterns;
mod read;
mod suffixes;
mod tensor_names;
mod weighted;

pub use crate::files::{CONFIG_FILE, WEIGHTS_FILE};
pub(crate) use config::is_named;
pub use config::{AdapterConfig, BiasMode, BlockDiagonal, Init, ModuleNames, TokenIndices};
pub use layer::AdapterLayer;
pub(crate) use layer::PREFIX;
pub use matching::{ALL_LINEAR, Match, Matcher};
pub(crate) use read::read as read_tensor;
pub use weighted::Weighted;

use crate::error::AtPath;
use crate::files::{Snapshot, SourceFile, foreign, hub_cache};
use crate::note::Note;
use crate::tensor::{Tensor, file_type};
use crate::{Error, Result};
use layer::{IN_PLACE, names};
use safetensors::tensor::TensorView;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What follows the path of a module in the name of the rows that replace some of its weight's.
pub const TOKEN_ROWS: &str = ".token_adapter.trainable_tokens_delta";

/// A configuration and the tensors that go with it.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `adapter_config.json`.
    pub config: AdapterConfig,
    /// Layers by the dotted path of their module. The second and further parameters that `target_parameters` names
    /// in one module have `.base_layer` appended once or more.
    pub layers: BTreeMap<String, AdapterLayer>,
    /// Tensors that replace the base model's own: biases, `modules_to_save` and embeddings. By the tensor's name in
    /// the base model. Rows \[tokens, features\] that replace some of an embedding's (`trainable_token_indices`) are here
    /// under the module's path and [`TOKEN_ROWS`].
    pub replaced: BTreeMap<String, Tensor>,
    /// What was not as it should be in the files, and how it was taken.
    pub notes: Vec<Note>,
}

/// Whether a path is that of an adapter's directory, or of the root of one in the hub's cache.
pub fn is_adapter(path: &Path) -> bool {
    let snapshot = || hub_cache::snapshot(path).ok().flatten();
    path.join(CONFIG_FILE).exists()
        || snapshot().is_some_and(|snapshot| path.join(snapshot).join(CONFIG_FILE).exists())
}

/// The path of a layer's module: [`Adapter::layers`] has `.base_layer` after those of further parameters.
pub(crate) fn without_base_layer(key: &str) -> &str {
    key.trim_end_matches(".base_layer")
}

impl Adapter {
    /// Loads an adapter's directory, which may be the root of an adapter in the hub's cache. What wrappers have put into the names
    /// of tensors is left out; [`notes`](Self::notes) says so.
    ///
    /// # Errors
    /// A file is missing or malformed; a key cannot be honoured; a tensor has no use, has not its partner, has the
    /// wrong shape, or holds NaN or infinity. The error names it.
    pub fn load(directory: &Path) -> Result<Self> {
        if directory.is_dir()
            && !directory.join(CONFIG_FILE).exists()
            && let Some(snapshot) = hub_cache::snapshot(directory)?
        {
            let mut adapter = Self::load(&directory.join(&snapshot))?;
            adapter.notes.insert(0, Note::HubCache { snapshot });
            return Ok(adapter);
        }
        check_place(directory)?;
        let path = directory.join(WEIGHTS_FILE);
        let paths = [directory.join(CONFIG_FILE), path.clone()];
        let before: Vec<Snapshot> = paths.iter().filter_map(|path| Snapshot::take(path).ok()).collect();
        let config = AdapterConfig::load(directory)?;
        let source = SourceFile::open(&path)?;
        foreign::refuse(&source)?;
        let bytes = source.read_all()?;
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
        let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let in_place = self.in_place()?;
        if !in_place.is_empty() {
            metadata.insert(IN_PLACE.to_owned(), json!(in_place).to_string());
        }
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

    /// Names of replaced tensors that no key of the configuration asks for: they take the place of the base model's own,
    /// as PEFT loads whatever the model has under that name.
    ///
    /// # Errors
    /// [`Error::Config`] if a pattern cannot be compiled.
    pub fn in_place(&self) -> Result<Vec<&str>> {
        let matcher = Matcher::new(&self.config)?;
        let names = self.replaced.keys().map(String::as_str);
        Ok(names.filter(|name| !read::is_used(name, &self.config, &matcher)).collect())
    }

    /// PEFT finds the own tensors of an adapted module below `base_layer`, once for each of its adapters.
    fn replaced_name(&self, name: &str) -> String {
        let Some((module, last)) = name.rsplit_once('.') else {
            return name.to_owned();
        };
        let mut module = module.to_owned();
        while self.layers.contains_key(&module) {
            module += ".base_layer";
        }
        format!("{module}.{last}")
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

//! Base checkpoints: one safetensors file, or shards with an index.

pub(crate) mod checksum;
mod header;
mod layer_kind;
pub(crate) mod quantized;
mod writer;

pub(crate) use header::{header_error, read_header};
pub use layer_kind::{LayerKind, adaptable_modules, is_output_head, is_vocabulary};
pub(crate) use layer_kind::{
    has_transposed_experts, is_input_embedding, is_transposed_model, is_transposed_module,
    is_transposed_type, marks_transposed_experts,
};
pub(crate) use writer::write_synced;
pub use writer::{Outline, ShardWriter};

use crate::error::AtPath;
use crate::files::{CONFIG_FILE, Snapshot, SourceFile, zeroed};
use crate::tensor::{Dtype, Tensor, float_type};
use crate::{Error, Result};
use quantized::QuantizedWeight;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names that a directory's checkpoint may have, the first found counting.
const STEMS: [&str; 3] = ["model", "diffusion_pytorch_model", "pytorch_model"];

/// Bytes that are read at a time where a tensor is only looked through.
const PIECE: usize = 1 << 20;

/// What a file says about a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Which of the checkpoint's files holds it.
    pub shard: usize,
    /// Where its bytes lie in that file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// Bytes of the tensor.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    file_name: String,
    source: Arc<SourceFile>,
    metadata: BTreeMap<String, String>,
    names: Vec<String>,
}

impl Shard {
    /// The file's name in the checkpoint's directory.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors in the order of the file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn source(&self) -> &SourceFile {
        &self.source
    }
}

/// An open checkpoint: headers in memory, tensors read one at a time when they are asked for.
///
/// The files stay open, and everything is read through these handles: a file that is replaced meanwhile is still read
/// as it was, one that is written to or shortened gives an error. [`check_unchanged`](Self::check_unchanged) tells both.
#[derive(Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    shards: Vec<Shard>,
    /// The index and `config.json`, as far as there are any.
    beside: Vec<Snapshot>,
    tensors: BTreeMap<String, TensorInfo>,
    index: Option<Index>,
    model_config: Map<String, Value>,
    /// What `config.json` says, where that differs.
    stored_config: Option<Map<String, Value>>,
    /// What the files hold in place of plain numbers.
    stored: BTreeMap<String, TensorInfo>,
    /// Weights whose plain numbers are computed from their parts.
    quantized: BTreeMap<String, Arc<QuantizedWeight>>,
    owns_directory: bool,
}

/// The index of a sharded checkpoint.
#[derive(Clone, Debug)]
struct Index {
    file_name: String,
    metadata: Map<String, Value>,
}

impl Checkpoint {
    /// Opens a directory, a `.safetensors` file or a `.safetensors.index.json` file.
    ///
    /// # Errors
    /// A file is missing or malformed, the index names a tensor that its shard does not hold, or a shard holds a
    /// tensor that the index does not name.
    pub fn open(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { find(path)? } else { path.to_owned() };
        let directory = file.parent().map(Path::to_owned).unwrap_or_default();
        let file_name = name_of(&file)?;
        let mut beside = Vec::new();
        let model_config = read_model_config(&directory, &mut beside)?;
        let mut checkpoint = Checkpoint {
            directory,
            shards: Vec::new(),
            beside,
            tensors: BTreeMap::new(),
            index: None,
            model_config,
            stored_config: None,
            stored: BTreeMap::new(),
            quantized: BTreeMap::new(),
            owns_directory: path.is_dir() || file_name.ends_with(".json"),
        };
        if file_name.ends_with(".json") {
            checkpoint.open_shards(&file, file_name)?;
        } else {
            checkpoint.open_shard(&file, file_name)?;
        }
        // Shards that were exchanged one after the other while this opened them do not belong together.
        checkpoint.check_unchanged()?;
        Ok(checkpoint)
    }

    fn open_shards(&mut self, path: &Path, file_name: String) -> Result<()> {
        let malformed = |reason: String| Error::malformed(path, reason);
        let source = SourceFile::open(path)?;
        let index: Value =
            serde_json::from_slice(&source.read_all()?).map_err(|error| malformed(error.to_string()))?;
        self.beside.push(source.snapshot().clone());
        let Some(weight_map) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(malformed(
                "not the index of a checkpoint: it has no `weight_map`; a checkpoint is its directory, its \
                 .safetensors file or its .safetensors.index.json"
                    .into(),
            ));
        };
        let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, shard) in weight_map {
            let shard = shard
                .as_str()
                .ok_or_else(|| malformed(format!("`{tensor}` is not mapped to a file name")))?;
            // An index that names itself, another index or a file elsewhere is refused here.
            if !shard.ends_with(".safetensors")
                || Path::new(shard).components().count() != 1
                || shard.contains('\\')
            {
                return Err(malformed(format!(
                    "`{tensor}` is mapped to `{shard}`, which is not a safetensors file beside the index"
                )));
            }
            files.entry(shard).or_default().insert(tensor);
        }
        for shard in files.keys() {
            let shard_path = self.directory.join(shard);
            std::fs::metadata(&shard_path).at(&shard_path)?;
        }
        for (shard, expected) in files {
            let shard_path = self.directory.join(shard);
            self.open_shard(&shard_path, shard.to_owned())?;
            let found = self.shards.last().map(Shard::names).unwrap_or_default();
            let held: HashSet<&str> = found.iter().map(String::as_str).collect();
            if let Some(missing) = expected.iter().find(|name| !held.contains(*name)) {
                return Err(Error::tensor(
                    *missing,
                    format!("the index says that `{shard}` holds it, but it does not"),
                ));
            }
            if let Some(extra) = found.iter().find(|name| !expected.contains(name.as_str())) {
                return Err(Error::tensor(
                    extra,
                    format!("`{shard}` holds it, but the index does not name it"),
                ));
            }
        }
        let metadata = index.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        self.index = Some(Index { file_name, metadata });
        Ok(())
    }

    fn open_shard(&mut self, path: &Path, file_name: String) -> Result<()> {
        let source = SourceFile::open(path)?;
        let (metadata, data) = read_header(&source)?;
        let names = metadata.offset_keys();
        for name in &names {
            let Some(info) = metadata.info(name) else { continue };
            let range = data + info.data_offsets.0 as u64..data + info.data_offsets.1 as u64;
            let shard = self.shards.len();
            let info = TensorInfo { dtype: info.dtype, shape: info.shape.clone(), shard, range };
            if self.tensors.insert(name.clone(), info).is_some() {
                return Err(Error::tensor(name, format!("found twice, the second time in `{file_name}`")));
            }
        }
        let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        self.shards.push(Shard { file_name, source: Arc::new(source), metadata, names });
        Ok(())
    }

    /// The same files without some of their tensors, and with another `config.json`: what a checkpoint was before it was
    /// given these.
    pub(crate) fn without(&self, hidden: &[String], model_config: &Map<String, Value>) -> Self {
        let hidden: HashSet<&String> = hidden.iter().collect();
        let shard = |shard: &Shard| Shard {
            file_name: shard.file_name.clone(),
            source: Arc::clone(&shard.source),
            metadata: shard.metadata.clone(),
            names: shard.names.iter().filter(|name| !hidden.contains(name)).cloned().collect(),
        };
        let mut tensors = self.tensors.clone();
        tensors.retain(|name, _| !hidden.contains(name));
        Checkpoint {
            directory: self.directory.clone(),
            shards: self.shards.iter().map(shard).collect(),
            beside: self.beside.clone(),
            tensors,
            index: self.index.clone(),
            model_config: model_config.clone(),
            stored_config: self.stored_config.clone(),
            stored: self.stored.clone(),
            quantized: self.quantized.clone(),
            owns_directory: self.owns_directory,
        }
    }

    /// The directory that holds the files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the files beside the checkpoint belong to it: it was opened as a directory or by its index.
    pub(crate) fn owns_directory(&self) -> bool {
        self.owns_directory
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Every tensor by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The index's file name, if the checkpoint has an index.
    pub fn index_file_name(&self) -> Option<&str> {
        self.index.as_ref().map(|index| index.file_name.as_str())
    }

    /// The index's `metadata`.
    pub fn index_metadata(&self) -> Map<String, Value> {
        self.index.as_ref().map(|index| index.metadata.clone()).unwrap_or_default()
    }

    /// The model's `config.json`; empty if there is none.
    pub fn model_config(&self) -> &Map<String, Value> {
        &self.model_config
    }

    /// Whether a tensor's values are computed from quantised parts, so that its bytes are in no file.
    pub(crate) fn is_computed(&self, name: &str) -> bool {
        self.quantized.contains_key(name)
    }

    /// How a weight is quantised that is shown as plain numbers.
    pub(crate) fn quantized_weight(&self, name: &str) -> Option<&QuantizedWeight> {
        self.quantized.get(name).map(Arc::as_ref)
    }

    /// The weights that are shown as plain numbers.
    pub(crate) fn quantized_weights(&self) -> impl Iterator<Item = &QuantizedWeight> {
        self.quantized.values().map(Arc::as_ref)
    }

    /// Where a tensor's bytes lie, a quantised weight's too.
    pub(crate) fn stored_info(&self, name: &str) -> Result<&TensorInfo> {
        self.stored.get(name).map_or_else(|| self.info(name), Ok)
    }

    /// Whether quantised weights are shown as plain numbers.
    pub(crate) fn is_dequantized(&self) -> bool {
        !self.quantized.is_empty()
    }

    /// Whether a tensor keeps its type while quantised weights become plain numbers of another.
    pub(crate) fn keeps_type(&self, name: &str) -> bool {
        self.is_dequantized() && quantized::KEPT_IN_F32.iter().any(|ending| name.ends_with(ending))
    }

    /// What the file `config.json` says; empty if there is none.
    pub(crate) fn stored_config(&self) -> &Map<String, Value> {
        self.stored_config.as_ref().unwrap_or(&self.model_config)
    }

    fn dequantize(&self, weight: &QuantizedWeight) -> Result<Tensor> {
        weight.dequantize(|info| {
            let mut bytes = zeroed(info.bytes(), || "a part of a quantised weight".into())?;
            self.shards[info.shard].source.read(&mut bytes, info.range.start)?;
            Ok(bytes)
        })
    }

    /// What the file says about a tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none of that name.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::tensor(name, "not in the checkpoint"))
    }

    /// The bytes of a tensor, read into memory.
    ///
    /// # Errors
    /// There is no such tensor, no memory for it, or the file cannot be read or was changed.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.info(name)?;
        if let Some(weight) = self.quantized.get(name) {
            return Ok(self.dequantize(weight)?.bytes().to_vec());
        }
        let mut bytes = zeroed(info.bytes(), || format!("tensor `{name}`"))?;
        self.shards[info.shard].source.read(&mut bytes, info.range.start)?;
        Ok(bytes)
    }

    /// A tensor, read into memory.
    ///
    /// # Errors
    /// There is no such tensor, its elements are not `f32`, `f16` or `bf16`, there is no memory for it, or the file
    /// cannot be read or was changed.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        if let Some(weight) = self.quantized.get(name) {
            return self.dequantize(weight);
        }
        let dtype = float_type(info.dtype).ok_or_else(|| {
            Error::tensor(name, format!("holds {}; only F32, F16 and BF16 can be computed with", info.dtype))
        })?;
        let mut tensor = Tensor::room_for(dtype, &info.shape, || format!("tensor `{name}`"))?;
        self.shards[info.shard].source.read(tensor.bytes_mut(), info.range.start)?;
        Ok(tensor)
    }

    /// Looks through a tensor's bytes in pieces of bounded size, in order, for as long as `look` answers `true`.
    pub(crate) fn for_each_piece(
        &self,
        name: &str,
        mut look: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let info = self.info(name)?;
        if let Some(weight) = self.quantized.get(name) {
            let tensor = self.dequantize(weight)?;
            for piece in tensor.bytes().chunks(PIECE) {
                if !look(piece)? {
                    break;
                }
            }
            return Ok(());
        }
        let mut buffer = vec![0; PIECE.min(info.bytes() as usize)];
        let mut start = info.range.start;
        while start < info.range.end {
            let len = (info.range.end - start).min(PIECE as u64);
            let piece = &mut buffer[..len as usize];
            self.shards[info.shard].source.read(piece, start)?;
            if !look(piece)? {
                break;
            }
            start += len;
        }
        Ok(())
    }

    /// Whether a tensor's bytes are these.
    pub(crate) fn holds(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let mut rest = bytes;
        let mut same = self.info(name)?.bytes() == bytes.len() as u64;
        if same {
            self.for_each_piece(name, |piece| {
                let (expected, others) = rest.split_at(piece.len());
                (same, rest) = (expected == piece, others);
                Ok(same)
            })?;
        }
        Ok(same)
    }

    /// Checks that the files are what they were when the checkpoint was opened: by size, time of modification and
    /// inode, of the open files as of those that now stand in their place.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the first file that is not.
    pub fn check_unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.source.check())?;
        self.beside.iter().try_for_each(Snapshot::check)
    }
}

fn name_of(path: &Path) -> Result<String> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::malformed(path, "not a file name")),
    }
}

fn find(directory: &Path) -> Result<PathBuf> {
    for stem in STEMS {
        for ending in ["safetensors", "safetensors.index.json"] {
            let path = directory.join(format!("{stem}.{ending}"));
            if path.exists() {
                return Ok(path);
            }
        }
    }
    let names: Vec<String> = STEMS.iter().map(|stem| format!("{stem}.safetensors")).collect();
    let entries = std::fs::read_dir(directory).at(directory)?.flatten();
    let others = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut others: Vec<String> = others.filter(|name| is_other_format(name)).collect();
    others.sort();
    let hint = match others.first() {
        _ if directory.join("model_index.json").exists() => {
            "; it holds a diffusers pipeline, whose parts are checkpoints: give its unet, transformer or text_encoder".to_owned()
        }
        Some(name) if name == CONFIG_FILE => "; it holds an adapter".to_owned(),
        Some(name) => format!("; `{name}` is of a format that is not read, save the model as safetensors"),
        None => String::new(),
    };
    Err(Error::malformed(
        directory,
        format!("no checkpoint: none of {} (or its index) found{hint}", names.join(", ")),
    ))
}

/// Files that stand where a checkpoint was looked for.
fn is_other_format(name: &str) -> bool {
    name == CONFIG_FILE
        || [".bin", ".pt", ".pth", ".ckpt", ".gguf"].iter().any(|ending| name.ends_with(ending))
}

fn read_model_config(directory: &Path, beside: &mut Vec<Snapshot>) -> Result<Map<String, Value>> {
    let path = directory.join("config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let source = SourceFile::open(&path)?;
    beside.push(source.snapshot().clone());
    serde_json::from_slice(&source.read_all()?).map_err(|error| Error::malformed(&path, error.to_string()))
}

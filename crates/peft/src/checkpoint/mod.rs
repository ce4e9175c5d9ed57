//! Base checkpoints: one safetensors file, or shards with an index.

pub(crate) mod checksum;
mod header;
mod index;
mod layer_kind;
mod place;
pub(crate) mod quantized;
mod unbuilt;
pub(crate) mod wrapped;
mod writer;

pub(crate) use header::{header_error, read_header};
pub use layer_kind::{LayerKind, adaptable_modules, is_output_head, is_vocabulary};
pub(crate) use layer_kind::{
    has_transposed_experts, is_input_embedding, is_transposed_model, is_transposed_module,
    is_transposed_type, layer_kind_by_name, marks_transposed_experts,
};
pub(crate) use unbuilt::Unbuilt;
pub(crate) use writer::write_synced;
pub use writer::{Outline, ShardWriter};

use crate::files::{Snapshot, SourceFile, WEIGHTS_FILE, foreign, zeroed};
use crate::note::Note;
use crate::tensor::{Dtype, Tensor, float_type};
use crate::{Error, Result};
use index::Index;
use place::Place;
use quantized::QuantizedWeight;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    notes: Vec<Note>,
}

impl Checkpoint {
    /// Opens a directory, a `.safetensors` file or a `.safetensors.index.json` file. A directory may be the root of a model in
    /// the hub's cache. What wrappers (`torch.compile`, DDP, FSDP, PEFT) have put into names is left out of them;
    /// [`notes`](Self::notes) says so.
    ///
    /// # Errors
    /// A file is missing, malformed or of another format, the index names a tensor that its shard does not hold and the model
    /// needs, or a shard holds a tensor that the index does not name.
    pub fn open(path: &Path) -> Result<Self> {
        let Place { directory, files, owns_directory, notes } = Place::of(path)?;
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
            owns_directory,
            notes,
        };
        match files {
            place::Files::One(name) => checkpoint.open_shard(name, |_| Ok(true))?,
            place::Files::Index(name) => checkpoint.open_index(name)?,
            place::Files::WithoutIndex { index, shards } => checkpoint.open_without_index(index, shards)?,
        }
        checkpoint.unwrap_names()?;
        // Shards that were exchanged one after the other while this opened them do not belong together.
        checkpoint.check_unchanged()?;
        Ok(checkpoint)
    }

    /// Opens a file beside the others. `takes` says of each tensor whether it is the checkpoint's.
    fn open_shard(&mut self, file_name: String, mut takes: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        let source = SourceFile::open(&self.directory.join(&file_name))?;
        let (metadata, data) = read_header(&source)?;
        let mut names = Vec::new();
        for name in metadata.offset_keys() {
            if !takes(&name)? {
                continue;
            }
            let Some(info) = metadata.info(&name) else { continue };
            let range = data + info.data_offsets.0 as u64..data + info.data_offsets.1 as u64;
            let shard = self.shards.len();
            let info = TensorInfo { dtype: info.dtype, shape: info.shape.clone(), shard, range };
            if self.tensors.insert(name.clone(), info).is_some() {
                return Err(Error::tensor(name, format!("found twice, the second time in `{file_name}`")));
            }
            names.push(name);
        }
        let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        self.shards.push(Shard { file_name, source: Arc::new(source), metadata, names });
        Ok(())
    }

    /// Leaves out of the names what wrappers have put there.
    fn unwrap_names(&mut self) -> Result<()> {
        if self.shards.iter().any(|shard| shard.file_name == WEIGHTS_FILE) {
            // An adapter, whose names are its own.
            return Ok(());
        }
        let Some(unwrapped) = wrapped::unwrapped(self.tensors.keys().map(String::as_str))? else {
            return Ok(());
        };
        let mut tensors = BTreeMap::new();
        for (name, info) in std::mem::take(&mut self.tensors) {
            let Some(inner) = unwrapped.names.get(&name) else { continue };
            if tensors.insert(inner.clone(), info).is_some() {
                return Err(Error::tensor(name, format!("found twice, as another tensor is `{inner}` too")));
            }
        }
        self.tensors = tensors;
        for shard in &mut self.shards {
            let inner = |name: String| unwrapped.names.get(&name).cloned();
            shard.names = std::mem::take(&mut shard.names).into_iter().filter_map(inner).collect();
        }
        self.notes.extend(unwrapped.notes);
        Ok(())
    }

    /// The same files without some of their tensors, with other shapes of some, and with another `config.json`: what a
    /// checkpoint was before it was given these.
    pub(crate) fn without(
        &self,
        hidden: &[String],
        resized: &BTreeMap<&str, &[usize]>,
        model_config: &Map<String, Value>,
    ) -> Self {
        let hidden: HashSet<&String> = hidden.iter().collect();
        let shard = |shard: &Shard| Shard {
            file_name: shard.file_name.clone(),
            source: Arc::clone(&shard.source),
            metadata: shard.metadata.clone(),
            names: shard.names.iter().filter(|name| !hidden.contains(name)).cloned().collect(),
        };
        let mut tensors = self.tensors.clone();
        tensors.retain(|name, _| !hidden.contains(name));
        for (name, shape) in resized {
            if let Some(info) = tensors.get_mut(*name) {
                info.shape = shape.to_vec();
            }
        }
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
            notes: self.notes.clone(),
        }
    }

    /// What was not as it should be, and how it was taken.
    pub fn notes(&self) -> &[Note] {
        &self.notes
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

fn read_model_config(directory: &Path, beside: &mut Vec<Snapshot>) -> Result<Map<String, Value>> {
    let path = directory.join("config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let source = SourceFile::open(&path)?;
    foreign::refuse(&source)?;
    beside.push(source.snapshot().clone());
    serde_json::from_slice(&source.read_all()?).map_err(|error| Error::malformed(&path, error.to_string()))
}

//! Base checkpoints: one safetensors file, or shards with an index.

use crate::config::CONFIG_FILE;
use crate::error::AtPath;
use crate::tensor::{Dtype, Tensor, float_type};
use crate::{Error, Result, input};
use memmap2::{Mmap, MmapOptions};
use safetensors::SafeTensorError;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Names that a directory's checkpoint may have, the first found counting.
const STEMS: [&str; 3] = ["model", "diffusion_pytorch_model", "pytorch_model"];

/// Bytes of a header, at most: as the safetensors crate has it.
const MAX_HEADER: u64 = 100_000_000;

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
    path: PathBuf,
    file: File,
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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The bytes of one tensor, mapped from its file for as long as this lives.
#[derive(Debug)]
pub struct MappedBytes {
    map: Option<Mmap>,
}

impl std::ops::Deref for MappedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

/// An open checkpoint: headers in memory, tensors mapped one at a time when they are asked for.
///
/// The files must not be changed by others while it is open.
#[derive(Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
    index: Option<Index>,
    model_config: Map<String, Value>,
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
        let model_config = read_model_config(&directory)?;
        let mut checkpoint = Checkpoint {
            directory,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            index: None,
            model_config,
            owns_directory: path.is_dir() || file_name.ends_with(".json"),
        };
        if file_name.ends_with(".json") {
            checkpoint.open_shards(&file, file_name)?;
        } else {
            checkpoint.open_shard(&file, file_name)?;
        }
        Ok(checkpoint)
    }

    fn open_shards(&mut self, path: &Path, file_name: String) -> Result<()> {
        let malformed = |reason: String| Error::malformed(path, reason);
        let bytes = input::read(path)?;
        let index: Value = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
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
            let held: BTreeSet<&str> = found.iter().map(String::as_str).collect();
            if let Some(missing) = expected.difference(&held).next() {
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
        let file = input::open(path)?;
        let (metadata, data) = read_header(&file, path)?;
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
        self.shards.push(Shard { file_name, path: path.to_owned(), file, metadata, names });
        Ok(())
    }

    /// The same files without some of their tensors, and with another `config.json`: what a checkpoint was before it was
    /// given these.
    pub(crate) fn without(&self, hidden: &[String], model_config: &Map<String, Value>) -> Result<Self> {
        let shard = |shard: &Shard| {
            Ok(Shard {
                file_name: shard.file_name.clone(),
                path: shard.path.clone(),
                file: shard.file.try_clone().at(&shard.path)?,
                metadata: shard.metadata.clone(),
                names: shard.names.iter().filter(|name| !hidden.contains(name)).cloned().collect(),
            })
        };
        let mut tensors = self.tensors.clone();
        tensors.retain(|name, _| !hidden.contains(name));
        Ok(Checkpoint {
            directory: self.directory.clone(),
            shards: self.shards.iter().map(shard).collect::<Result<_>>()?,
            tensors,
            index: self.index.clone(),
            model_config: model_config.clone(),
            owns_directory: self.owns_directory,
        })
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

    /// What the file says about a tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none of that name.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::tensor(name, "not in the checkpoint"))
    }

    /// The bytes of a tensor, mapped.
    ///
    /// # Errors
    /// There is no such tensor, or the file cannot be mapped.
    pub fn bytes(&self, name: &str) -> Result<MappedBytes> {
        let info = self.info(name)?;
        let shard = &self.shards[info.shard];
        if info.bytes() == 0 {
            return Ok(MappedBytes { map: None });
        }
        Ok(MappedBytes { map: Some(map(&shard.file, &shard.path, info.range.clone())?) })
    }

    /// A tensor, copied into memory.
    ///
    /// # Errors
    /// There is no such tensor, or its elements are not `f32`, `f16` or `bf16`.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let dtype = float_type(info.dtype).ok_or_else(|| {
            Error::tensor(name, format!("holds {}; only F32, F16 and BF16 can be computed with", info.dtype))
        })?;
        // Reading is cheaper than mapping for bytes that are used once and copied anyway.
        let mut tensor = Tensor::zeros(dtype, &info.shape);
        let path = &self.shards[info.shard].path;
        let mut file = File::open(path).at(path)?;
        file.seek(SeekFrom::Start(info.range.start)).at(path)?;
        file.read_exact(tensor.bytes_mut()).at(path)?;
        Ok(tensor)
    }
}

/// The header, checked against the file's length, and where the data begins.
fn read_header(file: &File, path: &Path) -> Result<(Metadata, u64)> {
    let len = file.metadata().at(path)?.len();
    let malformed = |error: &SafeTensorError| Error::malformed(path, header_error(error));
    if len < 8 {
        return Err(malformed(&SafeTensorError::HeaderTooSmall));
    }
    let size = map(file, path, 0..8)?;
    let size = size.iter().rev().fold(0, |size: u64, byte| size << 8 | u64::from(*byte));
    if size > MAX_HEADER {
        return Err(malformed(&SafeTensorError::HeaderTooLarge));
    }
    if 8 + size > len {
        return Err(malformed(&SafeTensorError::InvalidHeaderLength));
    }
    // Only the header is mapped: the whole file may be larger than the memory that this process may have.
    let header = map(file, path, 0..8 + size)?;
    let text = std::str::from_utf8(&header[8..])
        .map_err(|error| malformed(&SafeTensorError::InvalidHeader(error)))?;
    let metadata: Metadata = serde_json::from_str(text)
        .map_err(|error| malformed(&SafeTensorError::InvalidHeaderDeserialization(error)))?;
    if 8 + size + metadata.data_len() as u64 != len {
        return Err(malformed(&SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((metadata, 8 + size))
}

fn map(file: &File, path: &Path, range: Range<u64>) -> Result<Mmap> {
    let len = usize::try_from(range.end - range.start)
        .map_err(|_| Error::malformed(path, "larger than the address space"))?;
    // SAFETY: the mapping is read only, and `Checkpoint` documents that the file must not change while it is open.
    // The range lies in the file: it was checked against the file's length when the header was read.
    unsafe { MmapOptions::new().offset(range.start).len(len).map(file) }.at(path)
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

fn read_model_config(directory: &Path) -> Result<Map<String, Value>> {
    let path = directory.join("config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let bytes = input::read(&path)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::malformed(&path, error.to_string()))
}

/// The safetensors crate's errors in words for users.
pub(crate) fn header_error(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => "not a safetensors file: shorter than 8 bytes".into(),
        SafeTensorError::HeaderTooLarge => {
            "not a safetensors file: the header would be larger than 100 MB".into()
        }
        SafeTensorError::InvalidHeaderLength => "truncated: the file ends inside its header".into(),
        SafeTensorError::MetadataIncompleteBuffer => {
            "truncated or too long: the file's length is not what its header says".into()
        }
        SafeTensorError::InvalidHeader(error) => format!("the header is not UTF-8: {error}"),
        SafeTensorError::InvalidHeaderDeserialization(error) => format!("the header is malformed: {error}"),
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor `{name}` has offsets that overlap or leave a gap")
        }
        other => format!("not a valid safetensors file: {other:?}"),
    }
}

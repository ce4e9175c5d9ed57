//! Reading the restore records of a merged checkpoint.

use super::record_format::{BLOCK_TENSORS, CHECKSUM, LIST, VERSION, list_checksum, method_of};
use super::undo::{Undo, WAY_OUT, damaged};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::checksum::{self, Checksum, unhex};
use crate::error::AtPath;
use crate::files::{RECORD_DIRECTORY, SourceFile};
use crate::tensor::Tensor;
use crate::{Error, Result};
use lora_kernels::fingerprint::Fingerprint;
use lora_kernels::restore::{DeltaOrder, Escape, Recorded, RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Shape};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// The records of a merged checkpoint.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    method: RestoreMethod,
    adapters: Vec<(String, f64)>,
    tensors: BTreeMap<String, Entry>,
    unchanged: BTreeMap<String, u64>,
    added: Vec<String>,
    model_config: Option<Map<String, Value>>,
}

/// What the list says of a tensor that the merge changed.
#[derive(Debug)]
struct Entry {
    path: PathBuf,
    merged: u64,
    original: u64,
    /// The shape of what the tensor was, if the merge gave it another.
    shape: Option<Vec<usize>>,
    codes: Option<Codes>,
}

#[derive(Debug)]
struct Codes {
    contents: u64,
    blocks: Vec<(RestoreMethod, Recorded)>,
}

impl Records {
    /// Opens the records of a merged checkpoint; `None` if it has none.
    ///
    /// # Errors
    /// The list cannot be read, is damaged or malformed, or the checkpoint does not have the tensors that it lists.
    pub fn open(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let directory = checkpoint.directory().join(RECORD_DIRECTORY);
        if !directory.try_exists().at(&directory)? {
            return Ok(None);
        }
        let path = directory.join(LIST);
        let damaged = |reason: &str| damaged(&path, reason);
        if !path.try_exists().at(&path)? {
            return Err(damaged("it is missing"));
        }
        let text = SourceFile::open(&path)?.read_all()?;
        let list: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
        if list.get("version") != Some(&json!(VERSION)) {
            let found = list.get("version").unwrap_or(&Value::Null);
            return Err(damaged(&format!("version {found} of restore records is not known, only {VERSION}")));
        }
        let sum = list.get(CHECKSUM).and_then(Value::as_str).and_then(unhex);
        if sum != Some(list_checksum(&list)) {
            return Err(damaged("its checksum is not that of what it says"));
        }
        let records = Self::from_list(&directory, &list).ok_or_else(|| damaged("it is malformed"))?;
        records.check_tensors(checkpoint, &path)?;
        Ok(Some(records))
    }

    /// `None` if anything is not as it is written.
    fn from_list(directory: &Path, list: &Map<String, Value>) -> Option<Self> {
        let adapters = list.get("adapters")?.as_array()?.iter();
        let adapters =
            adapters.map(|adapter| Some((adapter["name"].as_str()?.to_owned(), adapter["weight"].as_f64()?)));
        let tensors = list.get("tensors")?.as_object()?.iter();
        let unchanged = list.get("unchanged")?.as_object()?.iter();
        let added = list.get("added")?.as_array()?.iter();
        let config = list.get("config")?;
        Some(Records {
            directory: directory.to_owned(),
            method: method_of(list.get("method")?.as_str()?)?,
            adapters: adapters.collect::<Option<_>>()?,
            tensors: tensors
                .map(|(name, entry)| Some((name.clone(), Entry::from_json(directory, entry)?)))
                .collect::<Option<_>>()?,
            unchanged: unchanged
                .map(|(name, sum)| Some((name.clone(), unhex(sum.as_str()?)?)))
                .collect::<Option<_>>()?,
            added: added.map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            model_config: if config.is_null() { None } else { Some(config.as_object()?.clone()) },
        })
    }

    /// The checkpoint must have the tensors that the list names, and no others.
    fn check_tensors(&self, checkpoint: &Checkpoint, list: &Path) -> Result<()> {
        let added: HashSet<&str> = self.added.iter().map(String::as_str).collect();
        let mut listed = self.tensors.keys().chain(self.unchanged.keys()).chain(&self.added);
        if let Some(missing) = listed.find(|name| !checkpoint.tensors().contains_key(*name)) {
            return Err(damaged(list, &format!("it lists `{missing}`, which the checkpoint does not have")));
        }
        let known = |name: &String| {
            self.tensors.contains_key(name)
                || self.unchanged.contains_key(name)
                || added.contains(name.as_str())
        };
        match checkpoint.tensors().keys().find(|name| !known(name)) {
            Some(name) => Err(damaged(list, &format!("the checkpoint has `{name}`, which it does not list"))),
            None => Ok(()),
        }
    }

    /// How the merge was asked to keep the old weights.
    pub fn method(&self) -> RestoreMethod {
        self.method
    }

    /// Names and weights of the adapters that were merged.
    pub fn adapters(&self) -> &[(String, f64)] {
        &self.adapters
    }

    /// Tensors that the merge added.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The base model's `config.json`, if the merge changed it.
    pub(crate) fn model_config(&self) -> Option<&Map<String, Value>> {
        self.model_config.as_ref()
    }

    /// Names of the tensors that the merge changed.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape that a tensor had before the merge, if the merge gave it another.
    pub(crate) fn original_shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name)?.shape.as_deref()
    }

    /// Tensors that the merge gave another shape, with the one that they had.
    pub(crate) fn resized(&self) -> BTreeMap<&str, &[usize]> {
        self.tensors
            .iter()
            .filter_map(|(name, entry)| Some((name.as_str(), entry.shape.as_deref()?)))
            .collect()
    }

    /// Whether there is a record of a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether the record of a tensor gives it back only together with the adapters.
    pub(crate) fn needs_adapters(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|entry| entry.codes.is_some())
    }

    /// Checks that a tensor is what the merge left it as.
    pub(crate) fn check_unchanged(&self, name: &str, found: u64) -> Result<()> {
        match self.unchanged.get(name) {
            Some(&sum) if sum != found => Err(self.changed(name)),
            _ => Ok(()),
        }
    }

    /// The record of a tensor, which must be what the merge made of it; `None` if the merge left it as it was.
    pub(crate) fn read(&self, name: &str, found: &Tensor) -> Result<Option<Undo>> {
        let sum = checksum::of(found);
        let Some(entry) = self.tensors.get(name) else {
            self.check_unchanged(name, sum)?;
            return Ok(None);
        };
        if sum != entry.merged {
            return Err(self.changed(name));
        }
        entry.read().map(Some).map_err(|error| {
            let reason = match error {
                Error::OutOfMemory { .. } => return error,
                Error::Malformed { reason, .. } => reason,
                Error::Io { source, .. } => source.to_string(),
                other => other.to_string(),
            };
            damaged(&entry.path, &format!("the record of `{name}`: {reason}"))
        })
    }

    fn changed(&self, name: &str) -> Error {
        Error::Record(format!(
            "`{name}` is not what the merge left: it has been changed since, or {} is of another merge; {WAY_OUT}",
            self.directory.display()
        ))
    }
}

impl Entry {
    fn from_json(directory: &Path, entry: &Value) -> Option<Self> {
        let file = entry["file"].as_str().filter(|file| is_file_name(file))?;
        let sum = |key: &str| unhex(entry[key].as_str()?);
        let codes = match &entry["parts"] {
            Value::Null => None,
            blocks => Some(Codes {
                contents: sum("contents")?,
                blocks: blocks.as_array()?.iter().map(block_from_json).collect::<Option<_>>()?,
            }),
        };
        let shape = match &entry["shape"] {
            Value::Null => None,
            sizes => {
                let size = |size: &Value| usize::try_from(size.as_u64()?).ok();
                Some(sizes.as_array()?.iter().map(size).collect::<Option<Vec<_>>>()?)
            }
        };
        Some(Entry {
            path: directory.join(file),
            merged: sum("merged")?,
            original: sum("original")?,
            shape,
            codes,
        })
    }

    fn read(&self) -> Result<Undo> {
        let file = Checkpoint::open(&self.path)?;
        let malformed = |reason: &str| Error::malformed(&self.path, reason);
        let Some(codes) = &self.codes else {
            let original = file.tensor("original")?;
            return match checksum::of(&original) == self.original {
                true => Ok(Undo::Original(original)),
                false => Err(malformed("it is not what the merge wrote")),
            };
        };
        let mut sum = Checksum::new();
        let mut records = Vec::new();
        for (index, block) in codes.blocks.iter().enumerate() {
            let record = read_block(&file, index, block, &mut sum)?;
            records.push(record.ok_or_else(|| malformed(&format!("part {index} of it is malformed")))?);
        }
        match sum.finish() == codes.contents {
            true => Ok(Undo::Records { records, original: self.original, file: Some(self.path.clone()) }),
            false => Err(malformed("it is not what the merge wrote")),
        }
    }
}

/// Whether a name stays in its directory.
fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}

fn block_from_json(block: &Value) -> Option<(RestoreMethod, Recorded)> {
    let size = |index: usize| usize::try_from(block["shape"][index].as_u64()?).ok();
    let recorded = Recorded {
        shape: Shape::new(size(0)?, size(1)?),
        dtype: match block["dtype"].as_str()? {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::Bf16,
            _ => return None,
        },
        order: (block["order"].as_u64()? == DeltaOrder::AscendingFma as u64)
            .then_some(DeltaOrder::AscendingFma)?,
        adapter: Fingerprint(unhex(block["adapter"].as_str()?)?),
        weight: Fingerprint(unhex(block["weight"].as_str()?)?),
        original: Fingerprint(unhex(block["original"].as_str()?)?),
        checksum: Fingerprint(unhex(block["checksum"].as_str()?)?),
    };
    recorded.shape.rows.checked_mul(recorded.shape.cols)?.checked_mul(recorded.dtype.size())?;
    Some((method_of(block["method"].as_str()?)?, recorded))
}

/// `None` if the file does not hold what the list says.
fn read_block(
    file: &Checkpoint,
    index: usize,
    (method, recorded): &(RestoreMethod, Recorded),
    sum: &mut Checksum,
) -> Result<Option<RestoreRecord>> {
    let mut read = |tensor: usize| -> Result<Option<Vec<u8>>> {
        let (tensor, dtype) = BLOCK_TENSORS[tensor];
        let name = format!("{index}.{tensor}");
        let sound = file.tensors().get(&name).is_some_and(|info| info.dtype == dtype);
        let bytes = if sound { Some(file.bytes(&name)?) } else { None };
        bytes.iter().for_each(|bytes| sum.add(bytes));
        Ok(bytes)
    };
    let (Some(indices), Some(bits), Some(codes)) = (read(0)?, read(1)?, read(2)?) else { return Ok(None) };
    let (indices, bits) = (indices.as_chunks::<8>().0, bits.as_chunks::<4>().0);
    let elements = (recorded.shape.rows * recorded.shape.cols) as u64;
    let expected = RestoreRecord::<Vec<u8>>::code_bytes(*method, recorded.shape, recorded.dtype);
    if codes.len() != expected || indices.len() != bits.len() {
        return Ok(None);
    }
    let escapes = indices
        .iter()
        .zip(bits)
        .map(|(index, bits)| Escape { index: u64::from_le_bytes(*index), bits: u32::from_le_bytes(*bits) });
    let escapes: Vec<Escape> = escapes.collect();
    let inside = escapes.iter().all(|escape| escape.index < elements);
    Ok(inside.then(|| RestoreRecord::from_parts(*method, *recorded, codes, escapes)))
}

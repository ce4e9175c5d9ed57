//! Restore records of a merged checkpoint, in the directory `lora_restore` inside it.
//!
//! `restore.json` lists every tensor of the checkpoint: those that the merge changed, with checksums of what they were and
//! of what they became, those that it left as they were, with a checksum, and those that it added. For each changed one
//! there is a safetensors file, either with the codes and escapes of [`RestoreRecord`]s for blocks of the tensor, or with
//! the original tensor. The files' contents have checksums in the list, and the list has one of its own.
//!
//! Nothing is used before its checksum was compared, and what comes of it is compared with the checksum of the original:
//! a damaged record is an error that names the file, never wrong weights. All checksums are XXH3 of 64 bits, against
//! accidents and not against forgery.

use super::undo::{Undo, WAY_OUT, damaged};
use crate::checkpoint::checksum::{self, Checksum, hex, unhex};
use crate::checkpoint::{Checkpoint, Outline, ShardWriter, write_synced};
use crate::error::AtPath;
use crate::files::{RECORD_DIRECTORY, SourceFile};
use crate::tensor::{Dtype, Tensor, file_type};
use crate::{Error, Result};
use lora_kernels::fingerprint::Fingerprint;
use lora_kernels::restore::{DeltaOrder, Escape, Recorded, RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Shape};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

const LIST: &str = "restore.json";
const VERSION: u64 = 2;
const CHECKSUM: &str = "checksum";

/// What a merge made of a checkpoint, besides its tensors.
#[derive(Debug)]
pub(crate) struct Description<'a> {
    pub method: RestoreMethod,
    /// Names and weights.
    pub adapters: &'a [(String, f64)],
    /// Checksums of the tensors that are as they were.
    pub unchanged: &'a BTreeMap<String, u64>,
    /// Tensors that the base model does not have.
    pub added: &'a [String],
    /// The base model's `config.json`, if it was changed.
    pub model_config: Option<&'a Map<String, Value>>,
}

/// Writes records while a checkpoint is being merged.
#[derive(Debug)]
pub(crate) struct RecordWriter {
    directory: PathBuf,
    tensors: Map<String, Value>,
}

impl RecordWriter {
    pub fn create(checkpoint: &Path) -> Result<Self> {
        let directory = checkpoint.join(RECORD_DIRECTORY);
        std::fs::create_dir(&directory).at(&directory)?;
        Ok(RecordWriter { directory, tensors: Map::new() })
    }

    /// Adds the record of a tensor that has become `changed`.
    pub fn add(&mut self, name: &str, undo: &Undo, changed: &Tensor) -> Result<()> {
        let file = format!("{:05}.safetensors", self.tensors.len());
        let path = self.directory.join(&file);
        let mut entry = Map::new();
        entry.insert("file".into(), json!(file));
        entry.insert("merged".into(), json!(hex(checksum::of(changed))));
        match undo {
            Undo::Records { records, original, .. } => {
                let (blocks, contents) = write_blocks(&path, name, records)?;
                entry.insert("original".into(), json!(hex(*original)));
                entry.insert("contents".into(), json!(hex(contents)));
                entry.insert("parts".into(), blocks);
            }
            Undo::Original(original) => {
                let outline = Outline {
                    name: "original".into(),
                    dtype: file_type(original.dtype()),
                    shape: original.shape().to_vec(),
                };
                let mut writer = ShardWriter::create(&path, &BTreeMap::new(), &[outline])?;
                writer.write(original.bytes())?;
                writer.finish()?;
                entry.insert("original".into(), json!(hex(checksum::of(original))));
            }
        }
        self.tensors.insert(name.to_owned(), Value::Object(entry));
        Ok(())
    }

    /// Writes the list.
    pub fn finish(self, description: &Description<'_>) -> Result<()> {
        let adapters = description.adapters.iter();
        let adapters: Vec<Value> =
            adapters.map(|(name, weight)| json!({ "name": name, "weight": weight })).collect();
        let unchanged: Map<String, Value> =
            description.unchanged.iter().map(|(name, sum)| (name.clone(), json!(hex(*sum)))).collect();
        let mut list = Map::new();
        list.insert("version".into(), json!(VERSION));
        list.insert("method".into(), json!(method_name(description.method)));
        list.insert("adapters".into(), json!(adapters));
        list.insert("tensors".into(), Value::Object(self.tensors));
        list.insert("unchanged".into(), Value::Object(unchanged));
        list.insert("added".into(), json!(description.added));
        list.insert("config".into(), json!(description.model_config));
        seal(&mut list);
        let text = format!("{:#}\n", Value::Object(list));
        write_synced(&self.directory.join(LIST), text.as_bytes())?;
        std::fs::File::open(&self.directory).and_then(|directory| directory.sync_all()).at(&self.directory)
    }
}

/// The checksum of a list is that of its text without the checksum and without spaces.
fn list_checksum(list: &Map<String, Value>) -> u64 {
    let mut list = list.clone();
    list.shift_remove(CHECKSUM);
    let mut sum = Checksum::new();
    sum.add(Value::Object(list).to_string().as_bytes());
    sum.finish()
}

/// Gives a list of records the checksum that belongs to it. For tests of what comes after the checksum.
#[doc(hidden)]
pub fn seal(list: &mut Map<String, Value>) {
    let sum = list_checksum(list);
    list.insert(CHECKSUM.into(), json!(hex(sum)));
}

/// The records' descriptions, and the checksum of the file's contents.
fn write_blocks(path: &Path, name: &str, records: &[RestoreRecord]) -> Result<(Value, u64)> {
    let mut outlines = Vec::new();
    let mut blocks = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let recorded =
            record.recorded().ok_or_else(|| Error::Record(format!("`{name}` has an empty record")))?;
        let escapes = record.escapes().len();
        let lengths = [escapes, escapes, record.codes().len()];
        for ((tensor, dtype), len) in BLOCK_TENSORS.into_iter().zip(lengths) {
            outlines.push(Outline { name: format!("{index}.{tensor}"), dtype, shape: vec![len] });
        }
        blocks.push(json!({
            "method": method_name(record.method()),
            "shape": [recorded.shape.rows, recorded.shape.cols],
            "dtype": recorded.dtype.to_string(),
            "order": recorded.order as u32,
            "adapter": hex(recorded.adapter.0),
            "weight": hex(recorded.weight.0),
            "original": hex(recorded.original.0),
            "checksum": hex(recorded.checksum.0),
        }));
    }
    let mut writer = ShardWriter::create(path, &BTreeMap::new(), &outlines)?;
    let mut sum = Checksum::new();
    for record in records {
        let indices: Vec<u8> = record.escapes().iter().flat_map(|e| e.index.to_le_bytes()).collect();
        let bits: Vec<u8> = record.escapes().iter().flat_map(|e| e.bits.to_le_bytes()).collect();
        for bytes in [&indices, &bits, record.codes()] {
            sum.add(bytes);
            writer.write(bytes)?;
        }
    }
    writer.finish()?;
    Ok((json!(blocks), sum.finish()))
}

/// The tensors of one record, in the order of the file.
const BLOCK_TENSORS: [(&str, Dtype); 3] =
    [("escape_index", Dtype::U64), ("escape_bits", Dtype::U32), ("codes", Dtype::U8)];

fn method_name(method: RestoreMethod) -> &'static str {
    match method {
        RestoreMethod::Codes => "codes",
        RestoreMethod::Backup => "backup",
    }
}

fn method_of(name: &str) -> Option<RestoreMethod> {
    [RestoreMethod::Codes, RestoreMethod::Backup].into_iter().find(|&method| method_name(method) == name)
}

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
        Some(Entry { path: directory.join(file), merged: sum("merged")?, original: sum("original")?, codes })
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

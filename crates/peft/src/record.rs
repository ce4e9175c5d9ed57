//! Restore records of a merged checkpoint, in the directory `lora_restore` inside it.
//!
//! `restore.json` lists the tensors that the merge changed, each with a checksum (XXH3, 64 bits) of what it became. For
//! each there is one safetensors file, either with the codes and escapes of a [`RestoreRecord`] for each matrix of the
//! tensor, or with the original tensor.

use crate::checkpoint::Checkpoint;
use crate::error::AtPath;
use crate::tensor::{Dtype, Tensor, file_type};
use crate::writer::{Outline, ShardWriter, write_synced};
use crate::{Error, Result};
use lora_kernels::fingerprint::Fingerprint;
use lora_kernels::restore::{DeltaOrder, Escape, Recorded, RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Shape};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directory inside a merged checkpoint.
pub const RECORD_DIRECTORY: &str = "lora_restore";
const LIST: &str = "restore.json";
const VERSION: u64 = 1;

/// What gives back one tensor.
#[derive(Debug)]
pub(crate) enum TensorRecord {
    /// One record for each matrix of the tensor.
    Codes(Vec<RestoreRecord>),
    /// The tensor itself.
    Original(Tensor),
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
    pub fn add(&mut self, name: &str, record: &TensorRecord, changed: &Tensor) -> Result<()> {
        let checksum = hex(checksum(changed));
        let file = format!("{:05}.safetensors", self.tensors.len());
        let path = self.directory.join(&file);
        let entry = match record {
            TensorRecord::Codes(records) => {
                let mut outlines = Vec::new();
                let mut parts = Vec::new();
                for (index, record) in records.iter().enumerate() {
                    let recorded = record
                        .recorded()
                        .ok_or_else(|| Error::Record(format!("`{name}` has an empty record")))?;
                    let escapes = record.escapes().len();
                    let outline = |part: &str, dtype, len| Outline {
                        name: format!("{index}.{part}"),
                        dtype,
                        shape: vec![len],
                    };
                    outlines.push(outline("escape_index", Dtype::U64, escapes));
                    outlines.push(outline("escape_bits", Dtype::U32, escapes));
                    outlines.push(outline("codes", Dtype::U8, record.codes().len()));
                    parts.push(json!({
                        "method": match record.method() { RestoreMethod::Codes => "codes", RestoreMethod::Backup => "backup" },
                        "shape": [recorded.shape.rows, recorded.shape.cols],
                        "dtype": recorded.dtype.to_string(),
                        "order": recorded.order as u32,
                        "adapter": hex(recorded.adapter.0),
                        "weight": hex(recorded.weight.0),
                    }));
                }
                let mut writer = ShardWriter::create(&path, &BTreeMap::new(), &outlines)?;
                for record in records {
                    let indices: Vec<u8> =
                        record.escapes().iter().flat_map(|e| e.index.to_le_bytes()).collect();
                    let bits: Vec<u8> = record.escapes().iter().flat_map(|e| e.bits.to_le_bytes()).collect();
                    writer.write(&indices)?;
                    writer.write(&bits)?;
                    writer.write(record.codes())?;
                }
                writer.finish()?;
                json!({ "file": file, "checksum": checksum, "parts": parts })
            }
            TensorRecord::Original(original) => {
                let outline = Outline {
                    name: "original".into(),
                    dtype: file_type(original.dtype()),
                    shape: original.shape().to_vec(),
                };
                let mut writer = ShardWriter::create(&path, &BTreeMap::new(), &[outline])?;
                writer.write(original.bytes())?;
                writer.finish()?;
                json!({ "file": file, "checksum": checksum })
            }
        };
        self.tensors.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Writes the list. `adapters` are names and weights; `added` are tensors that the base model does not have.
    pub fn finish(
        self,
        adapters: &[(String, f64)],
        added: &[String],
        model_config: Option<&Map<String, Value>>,
    ) -> Result<()> {
        let adapters: Vec<Value> =
            adapters.iter().map(|(name, weight)| json!({ "name": name, "weight": weight })).collect();
        let list = json!({
            "version": VERSION, "adapters": adapters, "tensors": self.tensors, "added": added, "config": model_config,
        });
        write_synced(&self.directory.join(LIST), format!("{list:#}\n").as_bytes())?;
        std::fs::File::open(&self.directory).and_then(|directory| directory.sync_all()).at(&self.directory)
    }
}

/// The records of a merged checkpoint.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    adapters: Vec<(String, f64)>,
    tensors: Map<String, Value>,
    added: Vec<String>,
    model_config: Option<Map<String, Value>>,
}

impl Records {
    /// Opens the records of a merged checkpoint; `None` if it has none.
    ///
    /// # Errors
    /// The list cannot be read or is malformed.
    pub fn open(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let directory = checkpoint.directory().join(RECORD_DIRECTORY);
        let path = directory.join(LIST);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = crate::input::read(&path)?;
        let list: Value =
            serde_json::from_slice(&bytes).map_err(|error| Error::malformed(&path, error.to_string()))?;
        if list["version"] != json!(VERSION) {
            return Err(Error::malformed(&path, format!("version {} is not known", list["version"])));
        }
        let tensors = list["tensors"].as_object().cloned();
        let tensors = tensors.ok_or_else(|| Error::malformed(&path, "no `tensors`"))?;
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let adapters = list["adapters"].as_array().into_iter().flatten();
        let adapters =
            adapters.filter_map(|a| Some((a["name"].as_str()?.to_owned(), a["weight"].as_f64()?))).collect();
        let model_config = list["config"].as_object().cloned();
        Ok(Some(Records { directory, adapters, tensors, added: strings(&list["added"]), model_config }))
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
        self.tensors.get(name).is_some_and(|entry| entry["parts"].is_array())
    }

    /// The record of a tensor, which must be what the merge made of it.
    pub(crate) fn read(&self, name: &str, found: &Tensor) -> Result<TensorRecord> {
        let path = self.directory.join(LIST);
        let malformed = || Error::malformed(&path, format!("the entry of `{name}` is malformed"));
        let entry =
            self.tensors.get(name).ok_or_else(|| Error::Record(format!("there is none for `{name}`")))?;
        let recorded = entry["checksum"].as_str().and_then(unhex).ok_or_else(malformed)?;
        if checksum(found) != recorded {
            return Err(Error::Record(format!(
                "`{name}` has been changed since the merge that the record is of"
            )));
        }
        let file = entry["file"].as_str().filter(|file| Path::new(file).components().count() == 1);
        let file = Checkpoint::open(&self.directory.join(file.ok_or_else(malformed)?))?;
        let Some(parts) = entry["parts"].as_array() else {
            return Ok(TensorRecord::Original(file.tensor("original")?));
        };
        let records = parts
            .iter()
            .enumerate()
            .map(|(index, part)| read_part(&file, index, part)?.ok_or_else(malformed));
        Ok(TensorRecord::Codes(records.collect::<Result<_>>()?))
    }
}

fn read_part(file: &Checkpoint, index: usize, part: &Value) -> Result<Option<RestoreRecord>> {
    let indices = file.bytes(&format!("{index}.escape_index"))?;
    let bits = file.bytes(&format!("{index}.escape_bits"))?;
    let codes = file.bytes(&format!("{index}.codes"))?.to_vec();
    let escapes: Vec<Escape> = indices
        .chunks_exact(8)
        .zip(bits.chunks_exact(4))
        .filter_map(|(index, bits)| {
            Some(Escape {
                index: u64::from_le_bytes(index.try_into().ok()?),
                bits: u32::from_le_bytes(bits.try_into().ok()?),
            })
        })
        .collect();
    let read = || {
        let method = match part["method"].as_str()? {
            "codes" => RestoreMethod::Codes,
            "backup" => RestoreMethod::Backup,
            _ => return None,
        };
        let recorded = Recorded {
            shape: Shape::new(part["shape"][0].as_u64()? as usize, part["shape"][1].as_u64()? as usize),
            dtype: match part["dtype"].as_str()? {
                "f32" => DType::F32,
                "f16" => DType::F16,
                "bf16" => DType::Bf16,
                _ => return None,
            },
            order: (part["order"].as_u64()? == DeltaOrder::AscendingFma as u64)
                .then_some(DeltaOrder::AscendingFma)?,
            adapter: Fingerprint(unhex(part["adapter"].as_str()?)?),
            weight: Fingerprint(unhex(part["weight"].as_str()?)?),
        };
        let elements = recorded.shape.rows.checked_mul(recorded.shape.cols)?;
        elements.checked_mul(4)?;
        let expected = RestoreRecord::<Vec<u8>>::code_bytes(method, recorded.shape, recorded.dtype);
        let fits = codes.len() == expected && escapes.iter().all(|escape| escape.index < elements as u64);
        fits.then(|| RestoreRecord::from_parts(method, recorded, codes, escapes))
    };
    Ok(read())
}

fn hex(value: u64) -> String {
    format!("{value:016x}")
}

fn unhex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// A number that tells a changed tensor from an unchanged one. Records are no protection against forgery.
fn checksum(tensor: &Tensor) -> u64 {
    twox_hash::XxHash3_64::oneshot(tensor.bytes())
}

//! Writing the restore records of a checkpoint that is being merged.

use super::record_format::{BLOCK_TENSORS, LIST, VERSION, method_name, seal};
use super::undo::Undo;
use crate::checkpoint::checksum::{self, Checksum, hex};
use crate::checkpoint::{Outline, ShardWriter, write_synced};
use crate::error::AtPath;
use crate::files::RECORD_DIRECTORY;
use crate::tensor::{Tensor, file_type};
use crate::{Error, Result};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
                if original.shape() != changed.shape() {
                    entry.insert("shape".into(), json!(original.shape()));
                }
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

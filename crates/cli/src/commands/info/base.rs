//! What a base checkpoint holds.

use super::grouped::{grouped, pattern};
use crate::failure::{About, Result};
use crate::table::Table;
use crate::units;
use lora_peft::Checkpoint;
use lora_peft::checkpoint::{LayerKind, adaptable_modules};
use lora_peft::merge::Records;
use lora_peft::printable::{self, NAME, PARAGRAPH, line};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug)]
pub struct BaseInfo<'a> {
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    modules: Vec<(String, LayerKind)>,
    records: Option<Records>,
    /// Formats of quantised weights, or why they cannot be read.
    quantized: Result<BTreeMap<String, usize>, String>,
}

impl<'a> BaseInfo<'a> {
    pub fn new(path: &'a Path, checkpoint: &'a Checkpoint) -> Result<Self> {
        let records = Records::open(checkpoint).about(path)?;
        let quantized = checkpoint.quantized_formats().map_err(|error| error.to_string());
        Ok(BaseInfo { path, checkpoint, modules: adaptable_modules(checkpoint), records, quantized })
    }

    fn bytes(&self) -> u64 {
        self.checkpoint.tensors().values().map(|info| info.bytes()).sum()
    }

    fn model_type(&self) -> Option<&str> {
        self.checkpoint.model_config().get("model_type").and_then(Value::as_str)
    }

    /// Element type, tensors and bytes.
    fn types(&self) -> Vec<(String, usize, u64)> {
        let tensors = self.checkpoint.tensors().values();
        grouped(tensors.map(|info| (info.dtype.to_string(), info.bytes())))
            .into_iter()
            .map(|(dtype, bytes)| (dtype, bytes.len(), bytes.iter().sum()))
            .collect()
    }

    pub fn json(&self) -> Value {
        let modules = self.modules.iter().filter_map(|(module, kind)| {
            let info = self.checkpoint.tensors().get(&format!("{module}.weight"))?;
            Some(json!({
                "module": module, "kind": kind_name(*kind), "dtype": info.dtype.to_string(), "shape": info.shape,
                "bytes": info.bytes(),
            }))
        });
        let types: Map<String, Value> = self
            .types()
            .into_iter()
            .map(|(dtype, tensors, bytes)| (dtype, json!({ "tensors": tensors, "bytes": bytes })))
            .collect();
        let record = self.records.as_ref().map(|records| {
            let adapters: Vec<Value> = records
                .adapters()
                .iter()
                .map(|(name, weight)| json!({ "name": name, "weight": weight }))
                .collect();
            json!({ "adapters": adapters, "tensors": records.tensors().count() })
        });
        json!({
            "path": self.path.display().to_string(),
            "type": "base",
            "model_type": self.model_type(),
            "files": self.checkpoint.shards().iter().map(|shard| shard.file_name()).collect::<Vec<_>>(),
            "tensors": self.checkpoint.tensors().len(),
            "parameters": parameters(self.checkpoint),
            "bytes": self.bytes(),
            "dtypes": types,
            "modules": modules.collect::<Vec<_>>(),
            "restore_record": record,
            "quantized": self.quantized.as_ref().ok(),
        })
    }

    fn quantized_text(&self) -> String {
        let what = match &self.quantized {
            Err(error) => error.clone(),
            Ok(formats) if formats.is_empty() => return String::new(),
            Ok(formats) => {
                let names: Vec<String> =
                    formats.iter().map(|(format, count)| format!("{format} ({count} weights)")).collect();
                format!("{}; merge with --dequantize bf16", names.join(", "))
            }
        };
        format!("  quantised       {}\n", line(&what, PARAGRAPH))
    }

    pub fn text(&self) -> String {
        let model = self.model_type().map_or_else(String::new, |name| format!(" ({})", line(name, NAME)));
        let files = self.checkpoint.shards().len();
        let record = match &self.records {
            None => "none".into(),
            Some(records) => {
                let name = |(name, weight): &(String, f64)| {
                    let name = line(name, NAME);
                    if *weight == 1.0 { name } else { format!("{name} × {weight}") }
                };
                let names: Vec<String> = records.adapters().iter().map(name).collect();
                format!("of {} ({} tensors)", names.join(" + "), records.tensors().count())
            }
        };
        let types: Vec<String> = self
            .types()
            .iter()
            .map(|(dtype, tensors, bytes)| format!("{dtype} ({tensors} tensors, {})", units::bytes(*bytes)))
            .collect();
        let mut text = format!(
            "{}: base checkpoint{model}\n  files           {files}\n  parameters      {}\n  size            {}\n  \
             element types   {}\n  restore record  {record}\n{}\n",
            printable::path(self.path),
            units::count(parameters(self.checkpoint)),
            units::bytes(self.bytes()),
            types.join(", "),
            self.quantized_text(),
        );
        let mut table = Table::new(&["module", "kind", "type", "shape", "count", "size"]);
        let modules = self.modules.iter().filter_map(|(module, kind)| {
            let info = self.checkpoint.tensors().get(&format!("{module}.weight"))?;
            Some(((pattern(module), *kind, info.dtype.to_string(), info.shape.clone()), info.bytes()))
        });
        for ((module, kind, dtype, shape), bytes) in grouped(modules) {
            let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
            table.row(vec![
                module,
                kind_name(kind).into(),
                dtype,
                shape.join(" × "),
                bytes.len().to_string(),
                units::bytes(bytes.iter().sum()),
            ]);
        }
        text += &table.text();
        text
    }
}

/// Elements of all tensors.
pub fn parameters(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().values().map(|info| info.elements() as u64).sum()
}

/// A kind of layer in a word.
pub fn kind_name(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Linear => "linear",
        LayerKind::TransposedLinear => "conv1d",
        LayerKind::Embedding => "embedding",
        LayerKind::Convolution => "convolution",
        LayerKind::Experts => "experts",
        LayerKind::TransposedExperts => "experts-transposed",
    }
}

//! mlx-lm's adapters: `lora_a` \[in, r\], `lora_b` \[r, out\], and one scale for all modules: W + scale·(a·b)ᵀ.

use super::assemble::{Scaled, assemble};
use super::contents::Contents;
use crate::adapter::{Adapter, AdapterConfig, AdapterLayer};
use crate::checkpoint::is_input_embedding;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Values};
use lora_kernels::Element;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What mlx-lm's `adapter_config.json` says about the numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    scale: f64,
    dropout: f32,
    dora: bool,
}

/// Whether a configuration is mlx-lm's.
pub(super) fn is_config(config: &Value) -> bool {
    config.get("peft_type").is_none()
        && ["fine_tune_type", "lora_parameters", "lora_layers", "adapter_path"]
            .iter()
            .any(|key| config.get(key).is_some())
}

impl Scale {
    /// Reads `adapter_config.json`. `alpha`, which old versions wrote, was never used beside `scale`.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let config: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::malformed(Path::new(""), error.to_string()))?;
        let expects = |key: &str, what: &str, found: Option<&Value>| {
            let found = found.map_or("nothing".to_owned(), Value::to_string);
            Error::config(key, format!("{what} expected, found {found} (mlx-lm's configuration)"))
        };
        let kind = match config.get("fine_tune_type") {
            // Versions before 0.20 have no such key.
            None if config.get("use_dora") == Some(&Value::Bool(true)) => "dora",
            None => "lora",
            Some(kind) => kind.as_str().unwrap_or_default(),
        };
        if kind == "full" {
            return Err(Error::config(
                "fine_tune_type",
                "`full`: the file holds whole weights and no adapter; fuse them with `mlx_lm.fuse`, and take the \
                 result as a checkpoint",
            ));
        }
        if !["lora", "dora"].contains(&kind) {
            return Err(expects("fine_tune_type", "`lora` or `dora`", config.get("fine_tune_type")));
        }
        let parameters = config.get("lora_parameters").unwrap_or(&Value::Null);
        let scale = parameters.get("scale");
        let number = scale.and_then(Value::as_f64).filter(|scale| scale.is_finite());
        let dropout = parameters.get("dropout").map_or(Some(0.0), Value::as_f64).map(|p| p as f32);
        Ok(Scale {
            scale: number.ok_or_else(|| expects("lora_parameters.scale", "a number", scale))?,
            dropout: dropout.filter(|p| (0.0..1.0).contains(p)).ok_or_else(|| {
                expects("lora_parameters.dropout", "a probability", parameters.get("dropout"))
            })?,
            dora: kind == "dora",
        })
    }
}

#[derive(Default)]
struct Unfinished {
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
}

/// The adapter.
pub(super) fn adapter(scale: Scale, contents: Contents) -> Result<Adapter> {
    let mut modules: BTreeMap<String, Unfinished> = BTreeMap::new();
    for (name, tensor) in contents.tensors {
        let Some((module, ending)) = name.rsplit_once('.') else {
            return Err(unused(name));
        };
        let layer = modules.entry(module.to_owned()).or_default();
        match ending {
            "lora_a" => layer.a = Some(tensor),
            "lora_b" => layer.b = Some(tensor),
            "m" if scale.dora => layer.magnitude = Some(tensor),
            _ => return Err(unused(name)),
        }
    }
    let mut layers = BTreeMap::new();
    let mut has_embedding = false;
    for (module, found) in modules {
        let missing = |ending: &str| Error::tensor(format!("{module}.{ending}"), "missing");
        let (a, b) = (found.a.ok_or_else(|| missing("lora_a"))?, found.b.ok_or_else(|| missing("lora_b"))?);
        if scale.dora && found.magnitude.is_none() {
            return Err(missing("m"));
        }
        if a.shape().len() == 3 && b.shape().len() == 3 {
            if scale.dora {
                return Err(Error::module(&module, "DoRA on stacked experts is not supported"));
            }
            for (expert, layer) in experts(&module, &a, &b)? {
                let alpha = scale.scale * layer.a.shape()[0] as f64;
                layers.insert(expert, Scaled { layer, alpha });
            }
            continue;
        }
        let fits = a.shape().len() == 2 && b.shape().len() == 2 && a.shape()[1] == b.shape()[0];
        if !fits || a.is_empty() || b.is_empty() {
            return Err(Error::tensor(
                format!("{module}.lora_a"),
                format!(
                    "[in, r] and `lora_b` [r, out] are expected, found {:?} and {:?}",
                    a.shape(),
                    b.shape()
                ),
            ));
        }
        let (rank, out) = (a.shape()[1], b.shape()[1]);
        let embedding = is_input_embedding(&module);
        has_embedding |= embedding;
        if let Some(magnitude) = &found.magnitude
            && magnitude.shape() != [out]
        {
            return Err(Error::tensor(
                format!("{module}.m"),
                format!("has shape {:?}, but [{out}] is needed", magnitude.shape()),
            ));
        }
        let layer = AdapterLayer {
            a: transposed(&a),
            b: transposed(&b),
            bias: None,
            magnitude: found.magnitude,
            embedding,
        };
        layers.insert(module, Scaled { layer, alpha: scale.scale * rank as f64 });
    }
    let mut config = AdapterConfig { dropout: scale.dropout, ..AdapterConfig::default() };
    if has_embedding {
        // mlx-lm's tied heads run through the adapted embedding.
        config.other.insert("ensure_weight_tying".into(), json!(true));
    }
    assemble(layers, config)
}

/// `switch_mlp` stacks what the hub's files keep apart: A \[experts, r, in\], B \[experts, out, r\].
fn experts(module: &str, a: &Tensor, b: &Tensor) -> Result<Vec<(String, AdapterLayer)>> {
    let (one, two) = (a.shape(), b.shape());
    let place = module.rsplit_once(".switch_mlp.");
    let (Some((parent, projection)), true) = (place, one[0] == two[0] && one[1] == two[2] && !a.is_empty())
    else {
        return Err(Error::tensor(
            format!("{module}.lora_a"),
            format!(
                "has shape {one:?} beside {two:?}; only `switch_mlp` has stacked adapters that are known"
            ),
        ));
    };
    let part = |tensor: &Tensor, expert: usize| {
        let size: usize = tensor.shape()[1..].iter().product();
        let range = expert * size..(expert + 1) * size;
        Tensor::of(&tensor.shape()[1..], tensor.f32_range(range).into_owned()).cast(tensor.dtype())
    };
    let layer = |expert: usize| {
        let layer = AdapterLayer {
            a: part(a, expert),
            b: part(b, expert),
            bias: None,
            magnitude: None,
            embedding: false,
        };
        (format!("{parent}.experts.{expert}.{projection}"), layer)
    };
    Ok((0..one[0]).map(layer).collect())
}

/// Rows as columns.
pub(super) fn transposed(tensor: &Tensor) -> Tensor {
    fn turned<T: Element>(values: &[T], shape: &[usize]) -> Tensor {
        let (rows, columns) = (shape[0], shape[1]);
        let new = (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column]));
        Tensor::of(&[columns, rows], new.collect())
    }
    match tensor.values() {
        Values::F32(values) => turned(values, tensor.shape()),
        Values::F16(values) => turned(values, tensor.shape()),
        Values::Bf16(values) => turned(values, tensor.shape()),
    }
}

fn unused(name: String) -> Error {
    Error::tensor(name, "nothing uses it: mlx-lm's adapters have `lora_a`, `lora_b` and, of DoRA, `m`")
}

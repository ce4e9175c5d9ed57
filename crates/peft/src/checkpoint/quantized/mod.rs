//! Weights that are stored quantised: adapters are merged into the plain numbers that they stand for, if that is asked for.

mod find;
mod float8;
mod four_bit;
mod int8;
mod mxfp4;
mod packed;
mod part;
mod requantize;
mod scaled;
mod weight;

pub(crate) use weight::QuantizedWeight;

use super::{Checkpoint, TensorInfo};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, file_type, float_type};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keys of `config.json` that speak of quantisation.
const CONFIG_KEYS: [&str; 2] = [CONFIG_KEY, "compression_config"];
const CONFIG_KEY: &str = "quantization_config";

/// Files beside a checkpoint that say that it is quantised.
pub(crate) const SIDE_FILES: [&str; 3] =
    ["quantize_config.json", "quant_config.json", "hf_quant_config.json"];

/// Tensors beside quantised weights that decide between experts by small differences: transformers too keeps them in `f32`
/// (`_keep_in_fp32_modules_strict`), whatever the type of the others.
pub(crate) const KEPT_IN_F32: [&str; 1] = [".e_score_correction_bias"];

/// `quantization_config`, or null.
fn configuration(checkpoint: &Checkpoint) -> &Value {
    CONFIG_KEYS.iter().find_map(|key| checkpoint.model_config().get(*key)).unwrap_or(&Value::Null)
}

impl Checkpoint {
    /// The same checkpoint with its quantised weights as plain numbers: FP8 with scales for tensors, rows or blocks,
    /// 8-bit integers, bitsandbytes' NF4, FP4 and int8, GPTQ, AWQ, and MXFP4 of gpt-oss. They are computed when they are
    /// read, in `f32`, or in `bf16` if that holds them exactly; `config.json` no longer speaks of quantisation.
    ///
    /// # Errors
    /// No weight is quantised, a part of one is missing or does not fit, or the format is not read.
    pub fn dequantized(mut self) -> Result<Self> {
        let found = find::find(&self)?;
        if found.is_empty() {
            let reason = match method(&self) {
                Some(method) => {
                    format!("no weight of a quantised format that is read was found (config.json: {method})")
                }
                None => "nothing in it is quantised".into(),
            };
            return Err(Error::malformed(&self.directory, reason));
        }
        let mut renamed: BTreeMap<&String, &String> = BTreeMap::new();
        let mut hidden: BTreeSet<&String> = BTreeSet::new();
        for (name, weight) in &found {
            renamed.insert(&weight.parts[0].0, name);
            hidden.extend(weight.parts[1..].iter().map(|(part, _)| part));
            hidden.extend(&weight.beside);
        }
        let stored = |name: &&String| Some(((*name).clone(), self.tensors.get(*name)?.clone()));
        self.stored = hidden.iter().chain(renamed.keys()).filter_map(stored).collect();
        for shard in &mut self.shards {
            shard.names.retain(|name| !hidden.contains(name));
            shard.names.iter_mut().for_each(|name| {
                if let Some(new) = renamed.get(&*name) {
                    *name = (*new).clone();
                }
            });
        }
        self.tensors.retain(|name, _| !hidden.contains(name) && !renamed.contains_key(name));
        for (name, weight) in &found {
            let elements =
                weight.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64));
            let bytes = elements.and_then(|elements| elements.checked_mul(weight.dtype.size() as u64));
            let bytes =
                bytes.ok_or_else(|| Error::tensor(name, format!("shape {:?} is too large", weight.shape)))?;
            let info = TensorInfo {
                dtype: file_type(weight.dtype),
                shape: weight.shape.clone(),
                shard: weight.parts[0].1.shard,
                range: 0..bytes,
            };
            if self.tensors.insert(name.clone(), info).is_some() {
                return Err(Error::tensor(name, "is there both quantised and in plain numbers"));
            }
        }
        self.stored_config = Some(self.model_config.clone());
        CONFIG_KEYS.iter().for_each(|key| drop(self.model_config.shift_remove(*key)));
        self.quantized = found.into_iter().map(|(name, weight)| (name, Arc::new(weight))).collect();
        Ok(self)
    }

    /// Formats of the quantised weights, and how many have each: of a checkpoint as it is stored.
    ///
    /// # Errors
    /// As [`dequantized`](Self::dequantized), except that there may be none.
    pub fn quantized_formats(&self) -> Result<BTreeMap<String, usize>> {
        let mut formats = BTreeMap::new();
        find::find(self)?.into_values().for_each(|weight| *formats.entry(weight.format).or_default() += 1);
        Ok(formats)
    }
}

/// Tensors that stand beside a quantised `weight` (FP8, compressed-tensors, bitsandbytes).
const BESIDE: [&str; 6] =
    ["weight_scale", "weight_scale_inv", "weight_scale_2", "SCB", "weight.absmax", "weight.quant_map"];
/// Tensors that stand in its place (GPTQ, AWQ, compressed-tensors, HQQ, AQLM).
const INSTEAD: [&str; 5] = ["qweight", "weight_packed", "W_q", "codes", "qzeros"];
/// What a stacked parameter is followed by instead (MXFP4).
const PARAMETER_ENDINGS: [&str; 2] = ["_blocks", "_scales"];

/// Checks that the weight of a module, if there is one, is there in plain numbers.
///
/// # Errors
/// [`Error::Tensor`] naming the tensor that says otherwise.
pub(crate) fn check_module(checkpoint: &Checkpoint, module: &str) -> Result<()> {
    let weight = format!("{module}.weight");
    let found = if checkpoint.tensors().contains_key(&weight) {
        check_tensor(checkpoint, &weight)?;
        &BESIDE[..]
    } else {
        &INSTEAD[..]
    };
    match found
        .iter()
        .map(|name| format!("{module}.{name}"))
        .find(|name| checkpoint.tensors().contains_key(name))
    {
        Some(name) => Err(refused(checkpoint, &name)),
        None => Ok(()),
    }
}

/// Checks that a tensor that is to change is floating-point.
///
/// # Errors
/// [`Error::Tensor`] naming it.
pub(crate) fn check_tensor(checkpoint: &Checkpoint, name: &str) -> Result<()> {
    match checkpoint.tensors().get(name) {
        Some(info) if float_type(info.dtype).is_none() => Err(refused(checkpoint, name)),
        _ => Ok(()),
    }
}

/// Checks that a parameter which the checkpoint does not have is not there in another form.
///
/// # Errors
/// [`Error::Tensor`] naming that form.
pub(crate) fn check_missing_parameter(checkpoint: &Checkpoint, parameter: &str) -> Result<()> {
    let is_form = |name: &&String| {
        PARAMETER_ENDINGS.iter().any(|ending| name.ends_with(&format!("{parameter}{ending}")))
    };
    match checkpoint.tensors().keys().find(is_form) {
        Some(name) => Err(refused(checkpoint, name)),
        None => Ok(()),
    }
}

/// What `config.json` says of quantisation: the method, if it has a name.
pub(crate) fn method(checkpoint: &Checkpoint) -> Option<&str> {
    let config = checkpoint.model_config().get(CONFIG_KEY)?;
    config.get("quant_method").and_then(Value::as_str).or(Some("unnamed"))
}

fn refused(checkpoint: &Checkpoint, name: &str) -> Error {
    let is_double = checkpoint.tensors().get(name).is_some_and(|info| info.dtype == Dtype::F64);
    if is_double && method(checkpoint).is_none() {
        return Error::tensor(
            name,
            "holds F64, in which nothing is computed; convert the checkpoint to F32 first (`model.float()` before it is \
             saved): that loses nothing that an adapter could tell",
        );
    }
    let dtype = checkpoint.tensors().get(name).map_or_else(String::new, |info| info.dtype.to_string());
    let method = match method(checkpoint) {
        Some(method) => format!(" (`quantization_config` in config.json: {method})"),
        None => String::new(),
    };
    let way_out = match find::find(checkpoint) {
        Ok(found) if !found.is_empty() => {
            "merge with `--dequantize bf16` (`Checkpoint::dequantized`), which writes plain bf16 weights; or merge into \
             the checkpoint that this was made from, and quantise the result"
        }
        _ => {
            "if the checkpoint is quantised, merge into the one that it was made from, and quantise the result"
        }
    };
    Error::tensor(
        name,
        format!("holds {dtype}{method}; only weights in F32, F16 or BF16 can be changed: {way_out}"),
    )
}

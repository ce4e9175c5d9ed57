//! Weights that are stored quantised: adapters cannot be merged into those.

use super::Checkpoint;
use crate::tensor::{Dtype, float_type};
use crate::{Error, Result};
use serde_json::Value;

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
    let config = checkpoint.model_config().get("quantization_config")?;
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
    Error::tensor(
        name,
        format!(
            "holds {dtype}{method}; only weights in F32, F16 or BF16 can be changed. If the checkpoint is quantised, \
             merge into the one that it was made from, and quantise the result"
        ),
    )
}

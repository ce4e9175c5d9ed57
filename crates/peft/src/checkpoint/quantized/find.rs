//! Which weights of a checkpoint are quantised, and how.

use super::four_bit::FourBit;
use super::packed::{Awq, Gptq};
use super::scaled::Scaled;
use super::weight::{Method, QuantizedWeight};
use super::{configuration, mxfp4};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, float_type};
use lora_kernels::DType;
use serde_json::Value;
use std::collections::BTreeMap;

/// Names of the scales of `….weight`, or of a parameter.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// Names of scales that stand beside `weight` in files of DeepSeek's own code and of ComfyUI.
const SCALES_BESIDE: [&str; 2] = ["scale", "scale_weight"];
/// Scales of activations and of the cache, which change no weight.
const OF_ACTIVATIONS: [&str; 11] = [
    "input_scale",
    "input_scale_ub",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "activation_scale",
    "activation_scale_inv",
    "scale_input",
    "q_scale",
    "k_scale",
    "v_scale",
];
/// Parts of formats that are not read.
const UNREAD: [(&str, &str); 7] = [
    ("weight_packed", "compressed-tensors' packed integers, NVFP4 and MXFP4"),
    ("weight_scale_2", "ModelOpt's NVFP4"),
    ("W_q", "HQQ"),
    ("codes", "AQLM"),
    ("codebooks", "AQLM"),
    ("weight._data", "quanto"),
    ("Qidxs", "QuIP#"),
];

/// Every quantised weight, by the name that it has in plain numbers.
///
/// # Errors
/// A part is missing or does not fit, or a format is not read.
pub(super) fn find(checkpoint: &Checkpoint) -> Result<BTreeMap<String, QuantizedWeight>> {
    let finder = Finder { checkpoint, config: configuration(checkpoint) };
    let mut found = BTreeMap::new();
    for (name, info) in checkpoint.tensors() {
        if let Some((weight, quantized)) = finder.weight(name, info)? {
            found.insert(weight, quantized);
        }
    }
    if !found.is_empty() {
        let of_activations = |name: &&String| {
            let last = name.rsplit('.').next().unwrap_or(name);
            OF_ACTIVATIONS.contains(&last)
        };
        let beside: Vec<String> = checkpoint.tensors().keys().filter(of_activations).cloned().collect();
        if let Some(mut first) = found.first_entry() {
            first.get_mut().beside.extend(beside);
        }
    }
    Ok(found)
}

struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    /// `quantization_config`.
    config: &'a Value,
}

impl Finder<'_> {
    fn info(&self, name: &str) -> Option<(String, TensorInfo)> {
        self.checkpoint.tensors().get(name).map(|info| (name.to_owned(), info.clone()))
    }

    fn needed(&self, name: &str) -> Result<(String, TensorInfo)> {
        self.info(name).ok_or_else(|| Error::tensor(name, "missing, although the weight is quantised"))
    }

    fn weight(&self, name: &str, info: &TensorInfo) -> Result<Option<(String, QuantizedWeight)>> {
        let last = name.rsplit('.').next().unwrap_or(name);
        if let Some((_, format)) =
            UNREAD.iter().find(|(part, _)| last == *part || name.ends_with(&format!(".{part}")))
        {
            return Err(Error::tensor(
                name,
                format!(
                    "is of a quantised format that is not read ({format}); merge into the checkpoint that it was made from"
                ),
            ));
        }
        match info.dtype {
            Dtype::F8_E4M3 | Dtype::F8_E5M2 if !is_scale(name) => self.float8(name, info).map(Some),
            Dtype::I8 if name.ends_with("weight") => self.int8(name, info),
            Dtype::U8 if name.ends_with(".weight") => self.four_bit(name, info),
            Dtype::U8 => match name.strip_suffix("_blocks") {
                Some(parameter) => self.mxfp4(parameter, info),
                None => Ok(None),
            },
            Dtype::I32 => match name.strip_suffix(".qweight") {
                Some(module) => self.packed(module, info).map(Some),
                None => Ok(None),
            },
            Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ | Dtype::F4 => Err(Error::tensor(
                name,
                format!(
                    "holds {}, which is not read; merge into the checkpoint that it was made from",
                    info.dtype
                ),
            )),
            _ => Ok(None),
        }
    }

    fn scale_of(&self, name: &str) -> Option<(String, TensorInfo)> {
        let module = name.strip_suffix(".weight");
        let beside =
            module.into_iter().flat_map(|module| SCALES_BESIDE.map(|scale| format!("{module}.{scale}")));
        SCALES.iter().map(|scale| format!("{name}{scale}")).chain(beside).find_map(|name| self.info(&name))
    }

    fn float8(&self, name: &str, info: &TensorInfo) -> Result<(String, QuantizedWeight)> {
        let Some(scale) = self.scale_of(name) else {
            // Numbers of eight bits and nothing else, as files for ComfyUI hold.
            if self.config.is_null() {
                let whole = info.shape.iter().map(|&size| size.max(1)).collect::<Vec<_>>();
                let method =
                    Method::Scaled(Scaled { block: [whole.iter().product(), whole.iter().product()] });
                return Ok((name.to_owned(), self.made("FP8 without scales", (name, info), method, vec![])));
            }
            return Err(Error::tensor(name, format!("holds {}, but has no scale beside it", info.dtype)));
        };
        self.scaled(name, info, scale, "FP8")
    }

    fn scaled(
        &self,
        name: &str,
        info: &TensorInfo,
        scale: (String, TensorInfo),
        format: &str,
    ) -> Result<(String, QuantizedWeight)> {
        let Some(method) = Scaled::find(&info.shape, &scale.1.shape, self.block()) else {
            return Err(Error::tensor(
                scale.0,
                format!("has shape {:?}, which does not fit `{name}` {:?}", scale.1.shape, info.shape),
            ));
        };
        let [rows, columns] = method.block;
        let format = match scale.1.elements() {
            1 => format!("{format}, one scale a tensor"),
            _ if rows == 1 && Some(&columns) == info.shape.last() => format!("{format}, a scale a row"),
            _ => format!("{format} in blocks of {rows} × {columns}"),
        };
        if float_type(scale.1.dtype).is_none() && ![Dtype::F8_E8M0, Dtype::U8].contains(&scale.1.dtype) {
            return Err(Error::tensor(scale.0, format!("holds {}, which no scale does", scale.1.dtype)));
        }
        let zeros = self.info(&format!("{name}_zero_point")).filter(|_| info.dtype == Dtype::I8);
        if let Some((zeros, found)) = &zeros
            && (found.elements() != scale.1.elements() || found.dtype != Dtype::I8)
        {
            return Err(Error::tensor(zeros, format!("does not fit `{}`", scale.0)));
        }
        let parts = [scale].into_iter().chain(zeros).collect();
        let mut made = self.made(&format, (name, info), Method::Scaled(method), parts);
        let unused = format!("{name}_zero_point");
        if made.parts.iter().all(|(part, _)| *part != unused) && self.info(&unused).is_some() {
            made.beside.push(unused);
        }
        Ok((name.to_owned(), made))
    }

    /// A weight of as many elements as are stored, computed in `f32`.
    fn made(
        &self,
        format: &str,
        (name, info): (&str, &TensorInfo),
        method: Method,
        parts: Vec<(String, TensorInfo)>,
    ) -> QuantizedWeight {
        QuantizedWeight {
            format: format.to_owned(),
            shape: info.shape.clone(),
            dtype: DType::F32,
            parts: [(name.to_owned(), info.clone())].into_iter().chain(parts).collect(),
            beside: Vec::new(),
            method,
        }
    }

    /// The blocks that the configuration names: `weight_block_size` of FP8, `block_structure` of compressed-tensors.
    fn block(&self) -> Option<[usize; 2]> {
        let size = |value: &Value| -> Option<[usize; 2]> {
            let [rows, columns] = value.as_array()?.as_slice() else { return None };
            Some([usize::try_from(rows.as_u64()?).ok()?, usize::try_from(columns.as_u64()?).ok()?])
        };
        let groups = self.config["config_groups"].as_object();
        let structures = groups
            .into_iter()
            .flat_map(|groups| groups.values())
            .map(|group| &group["weights"]["block_structure"]);
        std::iter::once(&self.config["weight_block_size"]).chain(structures).find_map(size)
    }

    fn int8(&self, name: &str, info: &TensorInfo) -> Result<Option<(String, QuantizedWeight)>> {
        let module = name.trim_end_matches(".weight");
        if let Some(largest) = self.info(&format!("{module}.SCB")) {
            if info.shape.len() != 2
                || largest.1.elements() != info.shape[0]
                || float_type(largest.1.dtype).is_none()
            {
                return Err(Error::tensor(
                    largest.0,
                    format!("has shape {:?}, which does not fit `{name}` {:?}", largest.1.shape, info.shape),
                ));
            }
            let mut made = self.made("bitsandbytes int8", (name, info), Method::RowInt8, vec![largest]);
            made.beside.extend(self.info(&format!("{module}.weight_format")).map(|(name, _)| name));
            return Ok(Some((name.to_owned(), made)));
        }
        match self.scale_of(name) {
            Some(scale) => self.scaled(name, info, scale, "int8").map(Some),
            None => Ok(None),
        }
    }

    fn four_bit(&self, name: &str, info: &TensorInfo) -> Result<Option<(String, QuantizedWeight)>> {
        let beside = |part: &str| format!("{name}.{part}");
        let Some(largest) = self.info(&beside("absmax")) else { return Ok(None) };
        let state = ["nf4", "fp4"].iter().find_map(|kind| {
            Some((self.info(&beside(&format!("quant_state.bitsandbytes__{kind}")))?.0, kind.to_uppercase()))
        });
        let Some((state, kind)) = state else {
            return Err(Error::tensor(
                beside("quant_state.bitsandbytes__nf4"),
                "missing, although the weight is quantised",
            ));
        };
        let read = FourBit::from_slice(&self.checkpoint.bytes(&state)?);
        let (method, shape) = read.map_err(|reason| Error::tensor(&state, reason))?;
        let mut parts = vec![largest, self.needed(&beside("quant_map"))?];
        let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let fits = |elements: usize| {
            let blocks = elements.div_ceil(method.block);
            let outer = match method.nested {
                None => true,
                Some((block, _)) => {
                    let [outer, map] =
                        ["nested_absmax", "nested_quant_map"].map(|part| self.info(&beside(part)));
                    outer.is_some_and(|(_, info)| info.elements() == blocks.div_ceil(block))
                        && map.is_some_and(|(_, info)| info.elements() == 256)
                        && parts[0].1.dtype == Dtype::U8
                }
            };
            info.elements() == elements.div_ceil(2)
                && parts[0].1.elements() == blocks
                && parts[1].1.elements() == 16
                && outer
        };
        if !elements.is_some_and(fits) {
            return Err(Error::tensor(
                name,
                format!("its parts do not fit the shape {shape:?} in `{state}`"),
            ));
        }
        let format = match method.nested {
            Some(_) => format!("bitsandbytes {kind}, doubly quantised"),
            None => format!("bitsandbytes {kind}"),
        };
        if method.nested.is_some() {
            parts.push(self.needed(&beside("nested_absmax"))?);
            parts.push(self.needed(&beside("nested_quant_map"))?);
        }
        let mut made = self.made(&format, (name, info), Method::FourBit(method), parts);
        made.shape = shape;
        made.beside.push(state);
        Ok(Some((name.to_owned(), made)))
    }

    fn mxfp4(&self, parameter: &str, info: &TensorInfo) -> Result<Option<(String, QuantizedWeight)>> {
        let Some(scales) = self.info(&format!("{parameter}_scales")) else { return Ok(None) };
        let (&[experts, out, blocks, bytes], [before @ .., last]) =
            (info.shape.as_slice(), scales.1.shape.as_slice())
        else {
            return Ok(None);
        };
        if bytes != mxfp4::BLOCK / 2
            || before != [experts, out]
            || *last != blocks
            || scales.1.dtype != Dtype::U8
        {
            return Err(Error::tensor(
                scales.0,
                format!(
                    "has shape {:?}, which does not fit `{parameter}_blocks` {:?}",
                    scales.1.shape, info.shape
                ),
            ));
        }
        let mut made =
            self.made("MXFP4", (&format!("{parameter}_blocks"), info), Method::Mxfp4, vec![scales]);
        made.shape = vec![experts, blocks * mxfp4::BLOCK, out];
        // Exact: a number of four bits times a power of two.
        made.dtype = DType::Bf16;
        Ok(Some((parameter.to_owned(), made)))
    }

    fn packed(&self, module: &str, info: &TensorInfo) -> Result<(String, QuantizedWeight)> {
        let part = |name: &str| self.needed(&format!("{module}.{name}"));
        let (zeros, scales) = (part("qzeros")?, part("scales")?);
        let unfit = || {
            Error::tensor(
                format!("{module}.qweight"),
                format!(
                    "its shape {:?} fits neither GPTQ nor AWQ with scales {:?} and zeros {:?}",
                    info.shape, scales.1.shape, zeros.1.shape
                ),
            )
        };
        let (&[rows, columns], &[groups, out], &[zero_groups, zero_words]) =
            (info.shape.as_slice(), scales.1.shape.as_slice(), zeros.1.shape.as_slice())
        else {
            return Err(unfit());
        };
        if groups == 0 || out == 0 || rows == 0 || zero_groups != groups || zeros.1.dtype != Dtype::I32 {
            return Err(unfit());
        }
        let bits = zero_words * 32 / out;
        if ![2, 3, 4, 8].contains(&bits) || bits * out != zero_words * 32 {
            return Err(unfit());
        }
        let (method, input, index) = if columns == out {
            let input = rows * 32 / bits;
            let index = self.info(&format!("{module}.g_idx"));
            if index.as_ref().is_some_and(|(_, info)| info.shape != [input] || info.dtype != Dtype::I32) {
                return Err(unfit());
            }
            let group = self.config["group_size"].as_u64().and_then(|size| usize::try_from(size).ok());
            let group = group.filter(|size| *size > 0 && input.div_ceil(*size) == groups);
            let group = group.unwrap_or(input.div_ceil(groups));
            let zero_offset = if self.config["checkpoint_format"] == "gptq_v2" { 0.0 } else { 1.0 };
            (Method::Gptq(Gptq { bits, group, zero_offset }), input, index)
        } else if bits == 4 && columns * 8 == out && rows % groups == 0 && self.is_gemm() {
            (Method::Awq(Awq { group: rows / groups }), rows, None)
        } else {
            return Err(unfit());
        };
        let format = match method {
            Method::Awq(_) => "AWQ".to_owned(),
            _ => format!("GPTQ, {bits} bits"),
        };
        let parts = [zeros, scales].into_iter().chain(index).collect();
        let mut made = self.made(&format, (&format!("{module}.qweight"), info), method, parts);
        made.shape = vec![out, input];
        Ok((format!("{module}.weight"), made))
    }

    /// AWQ's other kernels pack their words in other orders.
    fn is_gemm(&self) -> bool {
        self.config["version"].as_str().is_none_or(|version| version.eq_ignore_ascii_case("gemm"))
    }
}

fn is_scale(name: &str) -> bool {
    SCALES.iter().any(|scale| name.ends_with(scale))
}

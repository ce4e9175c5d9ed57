//! One quantised weight: where its parts are, and what they mean.

use super::four_bit::FourBit;
use super::packed::{Awq, Gptq};
use super::part::Part;
use super::scaled::Scaled;
use super::{int8, mxfp4};
use crate::checkpoint::TensorInfo;
use crate::error::Result;
use crate::tensor::Tensor;
use lora_kernels::DType;

/// A weight that is stored quantised.
#[derive(Debug)]
pub(crate) struct QuantizedWeight {
    /// The format in a few words.
    pub format: String,
    /// Sizes of the weight in plain numbers.
    pub shape: Vec<usize>,
    /// The type that it is computed in: the narrowest that loses nothing, or `f32`.
    pub dtype: DType,
    /// Name and place of each part, in the order that [`Method`] expects.
    pub parts: Vec<(String, TensorInfo)>,
    /// Parts that are not needed for the values.
    pub beside: Vec<String>,
    pub method: Method,
}

/// How the values follow from the parts.
#[derive(Debug)]
pub(crate) enum Method {
    /// FP8 or 8-bit integers times a scale each: weight, scale, perhaps zero point.
    Scaled(Scaled),
    /// bitsandbytes' int8: weight, SCB.
    RowInt8,
    /// bitsandbytes' NF4 and FP4: weight, absmax, map, perhaps absmax and map of absmax.
    FourBit(FourBit),
    /// qweight, qzeros, scales, perhaps g_idx.
    Gptq(Gptq),
    /// qweight, qzeros, scales.
    Awq(Awq),
    /// gpt-oss' blocks and scales.
    Mxfp4,
}

impl QuantizedWeight {
    /// The weight in plain numbers. `read` gives the bytes of a part.
    pub fn dequantize(&self, read: impl Fn(&TensorInfo) -> Result<Vec<u8>>) -> Result<Tensor> {
        let part = |(name, info): &(String, TensorInfo)| {
            Ok(Part { name: name.clone(), info: info.clone(), bytes: read(info)? })
        };
        let parts: Vec<Part> = self.parts.iter().map(part).collect::<Result<_>>()?;
        let purpose = || format!("the plain numbers of `{}`", self.parts[0].0);
        let mut tensor = Tensor::room_for(self.dtype, &self.shape, purpose)?;
        match &self.method {
            Method::Scaled(method) => method.fill(&mut tensor, &parts)?,
            Method::RowInt8 => int8::fill(&mut tensor, &parts)?,
            Method::FourBit(method) => method.fill(&mut tensor, &parts)?,
            Method::Gptq(method) => method.fill(&mut tensor, &parts)?,
            Method::Awq(method) => method.fill(&mut tensor, &parts)?,
            Method::Mxfp4 => mxfp4::fill(&mut tensor, &parts)?,
        }
        Ok(tensor)
    }
}

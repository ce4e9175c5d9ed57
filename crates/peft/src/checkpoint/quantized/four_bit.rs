//! bitsandbytes' 4-bit types, NF4 and FP4 (Dettmers et al., arXiv 2305.14314): W = map\[q\]·absmax of the element's block. With
//! double quantisation absmax is such a product itself, of 8 bits, plus an offset.

use super::part::Part;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Values};
use rayon::prelude::*;
use serde_json::Value;

/// What `quant_state` says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FourBit {
    /// Elements of a block.
    pub block: usize,
    /// Values of absmax in a block of them, and their offset.
    pub nested: Option<(usize, f32)>,
}

/// Elements that one thread fills: an even number.
const CHUNK: usize = 1 << 16;

impl FourBit {
    /// Reads the JSON text in `….quant_state.bitsandbytes__nf4`, and the weight's shape from it.
    ///
    /// # Errors
    /// A sentence that says which key is missing or wrong.
    pub fn from_slice(text: &[u8]) -> Result<(Self, Vec<usize>), String> {
        let state: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let size = |key: &str| {
            let size =
                state[key].as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
            size.ok_or_else(|| format!("its `{key}` is no positive integer"))
        };
        let shape = state["shape"].as_array().and_then(|sizes| {
            sizes.iter().map(|size| size.as_u64().and_then(|size| usize::try_from(size).ok())).collect()
        });
        let shape: Vec<usize> = shape.ok_or("its `shape` is no list of sizes")?;
        let nested = match state.get("nested_blocksize") {
            None | Some(Value::Null) => None,
            Some(_) => {
                let offset = state["nested_offset"].as_f64().ok_or("its `nested_offset` is no number")?;
                Some((size("nested_blocksize")?, offset as f32))
            }
        };
        Ok((FourBit { block: size("blocksize")?, nested }, shape))
    }

    pub fn fill(&self, tensor: &mut Tensor, parts: &[Part]) -> Result<()> {
        let (weight, map) = (&parts[0], parts[2].floats()?);
        let largest: Vec<f32> = match self.nested {
            None => parts[1].floats()?,
            Some((block, offset)) => {
                let (outer, values) = (parts[3].floats()?, parts[4].floats()?);
                let one =
                    |(index, byte): (usize, &u8)| values[usize::from(*byte)] * outer[index / block] + offset;
                parts[1].bytes.iter().enumerate().map(one).collect()
            }
        };
        let Values::F32(new) = tensor.values_mut() else {
            return Err(Error::tensor(&weight.name, "is computed in f32"));
        };
        new.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            for (index, value) in values.iter_mut().enumerate() {
                let place = chunk * CHUNK + index;
                // The first of two elements is in the upper half of a byte.
                let code = weight.bytes[place / 2] >> (4 * (1 - place % 2)) & 15;
                *value = map[usize::from(code)] * largest[place / self.block];
            }
        });
        Ok(())
    }
}

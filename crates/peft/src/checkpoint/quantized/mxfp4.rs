//! MXFP4 (OCP Microscaling Formats 1.0) as gpt-oss has it: blocks of 32 numbers of four bits with a power of two each.
//! transformers keeps the experts \[experts, in, out\]; the blocks run along the inputs.

use super::float8::e8m0;
use super::part::Part;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Values};
use half::bf16;
use rayon::prelude::*;

/// Numbers of one bit of sign, two of exponent and one of mantissa.
const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Numbers of a block.
pub(super) const BLOCK: usize = 32;

pub(super) fn fill(tensor: &mut Tensor, parts: &[Part]) -> Result<()> {
    let (blocks, scales) = (&parts[0].bytes, &parts[1].bytes);
    let &[_, input, out] = tensor.shape() else {
        return Err(parts[0].error("belongs to no stacked experts"));
    };
    let Values::Bf16(values) = tensor.values_mut() else {
        return Err(Error::tensor(&parts[0].name, "is computed in bf16"));
    };
    values.par_chunks_mut(out.max(1)).enumerate().for_each(|(row, values)| {
        let (expert, index) = (row / input, row % input);
        for (output, value) in values.iter_mut().enumerate() {
            let place = (expert * out + output) * input + index;
            // The first of two numbers is in the lower half of a byte.
            let code = blocks[place / 2] >> (4 * (place % 2)) & 15;
            *value = bf16::from_f32(VALUES[usize::from(code)] * e8m0(scales[place / BLOCK]));
        }
    });
    Ok(())
}

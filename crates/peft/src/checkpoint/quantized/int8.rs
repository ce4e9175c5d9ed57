//! bitsandbytes' int8: W = Q·SCB / 127, a row's largest magnitude being SCB (Dettmers et al., arXiv 2208.07339).

use super::part::{Part, fill_rows};
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) fn fill(tensor: &mut Tensor, parts: &[Part]) -> Result<()> {
    let (weight, largest) = (&parts[0], parts[1].floats()?);
    let columns = tensor.shape()[1];
    fill_rows(tensor, |index, row| {
        for (new, byte) in row.iter_mut().zip(&weight.bytes[index * columns..]) {
            *new = (f64::from(*byte as i8) * f64::from(largest[index]) / 127.0) as f32;
        }
    });
    Ok(())
}

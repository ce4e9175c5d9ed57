//! What all quantised formats are read with.

use crate::checkpoint::TensorInfo;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Values, float_type};
use rayon::prelude::*;

/// One part, read.
pub(crate) struct Part {
    pub name: String,
    pub info: TensorInfo,
    pub bytes: Vec<u8>,
}

impl Part {
    /// The elements as `f32`.
    pub fn floats(&self) -> Result<Vec<f32>> {
        let dtype = float_type(self.info.dtype)
            .ok_or_else(|| self.error(format!("holds {}; F32, F16 or BF16 is expected", self.info.dtype)))?;
        Ok(Tensor::from_bytes(dtype, &self.info.shape, &self.bytes).to_f32())
    }

    /// The elements as 32-bit words.
    pub fn words(&self) -> Vec<u32> {
        let words =
            self.bytes.chunks_exact(4).filter_map(|word| word.try_into().ok().map(u32::from_le_bytes));
        words.collect()
    }

    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::tensor(&self.name, reason)
    }
}

/// Fills an `f32` tensor row by row, on several threads.
pub(super) fn fill_rows(tensor: &mut Tensor, row: impl Fn(usize, &mut [f32]) + Sync) {
    let columns = tensor.shape().last().copied().unwrap_or(1).max(1);
    if let Values::F32(values) = tensor.values_mut() {
        values.par_chunks_mut(columns).enumerate().for_each(|(index, values)| row(index, values));
    }
}

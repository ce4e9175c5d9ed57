//! The frozen layer alone.

use super::Cpu;
use super::convert::Convert;
use super::view::{View, ViewMut};
use super::wide::{Frozen, wide_product};
use crate::ops::WriteMode;
use crate::ops::check::frozen_layer;
use crate::{DType, MatrixMut, MatrixRef, Result};
use half::{bf16, f16};

impl Cpu {
    /// Y = X·W: a layer without adapter, and what LoRA's overhead is measured against.
    ///
    /// X \[M, in\], W \[in, out\] and Y \[M, out\] have one element type and may be transposed views. Sums are `f32`
    /// and are rounded once.
    ///
    /// # Errors
    /// A shape or an element type does not fit.
    pub fn frozen(&mut self, x: MatrixRef<'_>, w: MatrixRef<'_>, y: MatrixMut<'_>) -> Result<()> {
        frozen_layer(x, w, y.as_ref())?;
        match x.dtype() {
            DType::F32 => self.frozen_typed::<f32>(x, w, y),
            DType::F16 => self.frozen_typed::<f16>(x, w, y),
            DType::Bf16 => self.frozen_typed::<bf16>(x, w, y),
        }
    }

    fn frozen_typed<T: Convert>(&self, x: MatrixRef<'_>, w: MatrixRef<'_>, y: MatrixMut<'_>) -> Result<()> {
        let product = Frozen { left: View::<T>::new(x)?, right: View::new(w)? };
        wide_product(&self.scratch, &[product], None, WriteMode::Overwrite, ViewMut::new(y)?);
        Ok(())
    }
}

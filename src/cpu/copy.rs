//! Copies between host matrices of any layouts.

use super::adapters::{Packed, write};
use super::scratch::Scratch;
use super::view::{View, ViewMut};
use crate::memory::Host;
use crate::ops::check::named;
use crate::ops::{Conversion, Output};
use crate::{DType, Element, MatrixMut, MatrixRef, Result};
use half::{bf16, f16};

/// Copies between any layouts and element types. All arguments are checked.
pub(super) fn convert(scratch: &Scratch, op: Conversion<'_>) -> Result<()> {
    let Conversion { source, mut target } = op;
    if source.dtype() == target.dtype() {
        return target.copy_from(source);
    }
    let wide = Packed::stacked(scratch, &[source])?;
    write(wide.view(), Output::overwrite(target))
}

impl MatrixMut<'_, Host> {
    /// Copies a matrix of the same shape and element type, whatever the layouts of the two.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) or [`Error::DTypeMismatch`](crate::Error::DTypeMismatch).
    pub fn copy_from(&mut self, source: MatrixRef<'_>) -> Result<()> {
        let from = named("source", source);
        from.has_shape(self.shape(), &named("self", self.as_ref()))?;
        from.has_dtype(&[self.dtype()], "self")?;
        match self.dtype() {
            DType::F32 => copy::<f32>(source, self.reborrow()),
            DType::F16 => copy::<f16>(source, self.reborrow()),
            DType::Bf16 => copy::<bf16>(source, self.reborrow()),
        }
    }
}

fn copy<T: Element>(from: MatrixRef<'_>, to: MatrixMut<'_>) -> Result<()> {
    let (mut from, mut to) = (View::<T>::new(from)?, ViewMut::<T>::new(to)?);
    if to.col_stride() != 1 {
        (from, to) = (from.t(), to.t());
    }
    for i in 0..to.rows() {
        if let (Some(source), Some(row)) = (from.row(i), to.row(i)) {
            row.copy_from_slice(source);
            continue;
        }
        for j in 0..to.cols() {
            to.set(i, j, from.get(i, j));
        }
    }
    Ok(())
}

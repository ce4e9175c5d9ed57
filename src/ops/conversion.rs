//! Copies of matrices.

use super::check::named;
use crate::memory::{Host, Memory};
use crate::{MatrixMut, MatrixRef, Result};

/// Copies a matrix into another of any layout and element type.
///
/// Between equal types the bits are copied. `f32` is rounded once, to nearest with ties to even; to `f32` values are exact; the
/// 16-bit types are converted to each other by way of `f32`.
#[derive(Debug)]
pub struct Conversion<'a, D: Memory = Host> {
    /// What is copied.
    pub source: MatrixRef<'a, D>,
    /// A matrix of the same shape, overwritten.
    pub target: MatrixMut<'a, D>,
}

impl<D: Memory> Conversion<'_, D> {
    /// Checks every argument; backends call it before they write anything.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn check(&self) -> Result<()> {
        named("target", self.target.as_ref()).has_shape(self.source.shape(), &named("source", self.source))
    }
}

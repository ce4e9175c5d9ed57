//! s·A·B as a matrix.

use super::Adapter;
use super::check::named;
use crate::memory::{Host, Memory};
use crate::{MatrixMut, Result, Shape};

/// Writes Δ = s·A·B, summed as [`WeightUpdate`](super::WeightUpdate) sums it and rounded once.
///
/// Merging needs no such matrix; this is for looking at Δ or for sending it elsewhere.
#[derive(Debug)]
pub struct Delta<'a, D: Memory = Host> {
    /// A, B and s.
    pub adapter: Adapter<'a, D>,
    /// Δ \[in, out\], overwritten; any element type.
    pub delta: MatrixMut<'a, D>,
}

impl<D: Memory> Delta<'_, D> {
    /// Checks every argument; backends call it before they write anything.
    ///
    /// # Errors
    /// Which argument does not fit, and why.
    pub fn check(&self) -> Result<()> {
        self.adapter.check()?;
        let (rows, cols) = (self.adapter.in_features(), self.adapter.out_features());
        let delta = named("delta", self.delta.as_ref());
        delta.has_shape(Shape::new(rows, delta.matrix.cols()), &named("a", self.adapter.a))?;
        delta.has_shape(Shape::new(rows, cols), &named("b", self.adapter.b))
    }
}

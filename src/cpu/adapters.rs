//! The adapters of sibling projections as packed `f32` matrices.

use super::convert::Convert;
use super::panel;
use super::scratch::{Buffer, Scratch};
use super::view::{View, ViewMut};
use crate::memory::Host;
use crate::ops::{Adapter, Output};
use crate::{DType, Dropout, MatrixRef, Result};
use half::{bf16, f16};
use std::ops::Range;

/// A of all projections side by side, \[in, R\] with R the sum of the ranks; B of all projections one after the other.
///
/// So one pass over X serves all projections.
pub(super) struct Adapters<'a> {
    a: Buffer<'a>,
    b: Vec<Buffer<'a>>,
    features: usize,
    widths: Vec<usize>,
    /// The columns of each projection in what has R columns.
    pub columns: Vec<Range<usize>>,
    /// The factor of each of the R columns of S: s/(1 − p).
    pub scales: Vec<f32>,
}

impl<'a> Adapters<'a> {
    pub fn new(scratch: &'a Scratch, adapters: &[Adapter<'_>], dropout: Option<Dropout>) -> Result<Self> {
        let keep_scale = dropout.map_or(1.0, |dropout| dropout.keep_scale());
        let features = adapters.first().map_or(0, Adapter::in_features);
        let (mut columns, mut scales, mut widths, mut b) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for adapter in adapters {
            let start = scales.len();
            scales.resize(start + adapter.rank(), adapter.scale * keep_scale);
            columns.push(start..scales.len());
            widths.push(adapter.out_features());
            let mut packed = scratch.take(adapter.rank() * adapter.out_features());
            widen(adapter.b, ViewMut::packed(&mut packed, adapter.rank(), adapter.out_features()))?;
            b.push(packed);
        }
        let mut a = scratch.take(features * scales.len());
        let mut rest = ViewMut::packed(&mut a, features, scales.len());
        for (adapter, columns) in adapters.iter().zip(&columns) {
            widen(adapter.a, rest.block(0..features, columns.clone()))?;
        }
        Ok(Adapters { a, b, features, widths, columns, scales })
    }

    /// The sum of the ranks.
    pub fn rank(&self) -> usize {
        self.scales.len()
    }

    /// A of all projections, \[in, R\].
    pub fn a(&self) -> View<'_, f32> {
        View::packed(&self.a, self.features, self.rank())
    }

    /// B of one projection, \[r, out\].
    pub fn b(&self, projection: usize) -> View<'_, f32> {
        View::packed(&self.b[projection], self.columns[projection].len(), self.widths[projection])
    }
}

/// A matrix of any element type as `f32`.
pub(super) fn widen(from: MatrixRef<'_, Host>, to: ViewMut<'_, f32>) -> Result<()> {
    match from.dtype() {
        DType::F32 => panel::widen(View::<f32>::new(from)?, to),
        DType::F16 => panel::widen(View::<f16>::new(from)?, to),
        DType::Bf16 => panel::widen(View::<bf16>::new(from)?, to),
    }
    Ok(())
}

/// Rounds `f32` sums to an output of any element type.
pub(super) fn write(sums: View<'_, f32>, output: Output<'_, Host>) -> Result<()> {
    fn typed<T: Convert>(sums: View<'_, f32>, output: Output<'_, Host>) -> Result<()> {
        panel::store(sums, output.mode, &mut ViewMut::<T>::new(output.matrix)?);
        Ok(())
    }
    match output.matrix.dtype() {
        DType::F32 => typed::<f32>(sums, output),
        DType::F16 => typed::<f16>(sums, output),
        DType::Bf16 => typed::<bf16>(sums, output),
    }
}

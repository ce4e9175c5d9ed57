//! Adapters as packed `f32` matrices, in the layout that each product likes.

use super::convert::Convert;
use super::panel;
use super::scratch::{Buffer, Scratch};
use super::view::{View, ViewMut};
use crate::memory::Host;
use crate::ops::{Adapter, Output};
use crate::{DType, Dropout, MatrixRef, Result};
use half::{bf16, f16};
use std::ops::Range;

/// Where each projection's part lies in matrices that hold all projections, so that one read of X serves all.
pub(super) struct Ranks {
    /// The columns of each projection among all R columns of S and dS.
    pub columns: Vec<Range<usize>>,
    /// The factor of each of the R columns: s/(1 − p).
    pub scales: Vec<f32>,
}

impl Ranks {
    pub fn new(adapters: &[Adapter<'_>], dropout: Option<Dropout>) -> Self {
        let keep_scale = dropout.map_or(1.0, |dropout| dropout.keep_scale());
        let (mut columns, mut scales) = (Vec::with_capacity(adapters.len()), Vec::new());
        for adapter in adapters {
            let start = scales.len();
            scales.resize(start + adapter.rank(), adapter.scale * keep_scale);
            columns.push(start..scales.len());
        }
        Ranks { columns, scales }
    }

    /// R: the sum of the ranks.
    pub fn total(&self) -> usize {
        self.scales.len()
    }
}

/// A row-major `f32` matrix without gaps.
pub(super) struct Packed<'a> {
    data: Buffer<'a>,
    rows: usize,
    cols: usize,
}

impl<'a> Packed<'a> {
    /// Copies matrices of equal height into one, side by side.
    pub fn side_by_side(scratch: &'a Scratch, parts: &[MatrixRef<'_>]) -> Result<Self> {
        let rows = parts.first().map_or(0, MatrixRef::rows);
        let cols = parts.iter().map(MatrixRef::cols).sum();
        let mut data = scratch.take(rows * cols);
        let (mut to, mut start) = (ViewMut::packed(&mut data, rows, cols), 0);
        for part in parts {
            widen(*part, to.block(0..rows, start..start + part.cols()))?;
            start += part.cols();
        }
        Ok(Packed { data, rows, cols })
    }

    /// Copies matrices of equal width into one, one below the other.
    pub fn stacked(scratch: &'a Scratch, parts: &[MatrixRef<'_>]) -> Result<Self> {
        let rows = parts.iter().map(MatrixRef::rows).sum();
        let cols = parts.first().map_or(0, MatrixRef::cols);
        let mut data = scratch.take(rows * cols);
        let (mut to, mut start) = (ViewMut::packed(&mut data, rows, cols), 0);
        for part in parts {
            widen(*part, to.block(start..start + part.rows(), 0..cols))?;
            start += part.rows();
        }
        Ok(Packed { data, rows, cols })
    }

    pub fn view(&self) -> View<'_, f32> {
        View::packed(&self.data, self.rows, self.cols)
    }

    /// The elements, row after row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
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

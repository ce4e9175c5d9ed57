//! Products with the frozen weight, and the rank-r part that goes with them.

use super::convert::Convert;
use super::mask::Mask;
use super::panel::{load, store, widen};
use super::product::{Onto, multiply};
use super::scratch::{Buffer, Scratch};
use super::view::{Tile, View, ViewMut, chunks};
use crate::ops::WriteMode;
use crate::{DType, Dropout};
use rayon::prelude::*;

/// Rows and columns of a task.
const HEIGHT: usize = 512;
const WIDTH: usize = 256;
/// Elements along the summed dimension that are converted to `f32` at once.
const DEPTH: usize = 512;

/// One frozen product: left \[M, K\] · right \[K, N\].
#[derive(Clone, Copy)]
pub(super) struct Frozen<'a, T> {
    pub left: View<'a, T>,
    pub right: View<'a, T>,
}

/// What is added to the frozen products: drop(left \[M, R\] · right \[R, N\]), without dropout's factor.
#[derive(Clone, Copy)]
pub(super) struct LowRank<'a> {
    pub left: View<'a, f32>,
    pub right: View<'a, f32>,
    pub dropout: Option<Dropout>,
}

/// destination \[M, N\] = (or +=) Σ frozen products + the low-rank part + bias \[N\], rounded once.
///
/// `f32` sums are formed in the destination itself where that is possible. For 16-bit types the left operands are
/// converted once for each panel of rows, and the right operands piece by piece: no copy as large as W is made.
pub(super) fn wide_product<T: Convert>(
    scratch: &Scratch,
    frozen: &[Frozen<'_, T>],
    low_rank: Option<LowRank<'_>>,
    bias: Option<&[f32]>,
    mode: WriteMode,
    destination: ViewMut<'_, T>,
) {
    let in_place = T::DTYPE == DType::F32 && mode == WriteMode::Overwrite && destination.col_stride() == 1;
    let height = if T::DTYPE == DType::F32 { destination.rows().max(1) } else { HEIGHT };
    let width = destination.cols().max(1);
    for panel in destination.tiles(height, width) {
        let rows = panel.rows();
        let mut buffers: Vec<Buffer<'_>> =
            frozen.iter().map(|product| left_buffer(scratch, product, rows.len())).collect();
        let products: Vec<Product<'_, T>> = frozen
            .iter()
            .zip(&mut buffers)
            .map(|(&Frozen { left, right }, buffer)| {
                let left = left.block(rows.clone(), 0..left.cols());
                Product { left: left.as_f32().unwrap_or_else(|| widen_rows(left, buffer)), right }
            })
            .collect();
        let low_rank = low_rank.map(|low_rank| LowRank {
            left: low_rank.left.block(rows.clone(), 0..low_rank.left.cols()),
            ..low_rank
        });
        let task = |mut tile: Tile<'_, T>| {
            let part = Part {
                products: &products,
                low_rank,
                bias,
                first_row: rows.start,
                row: tile.row,
                col: tile.col,
            };
            if in_place && let Some(mut sums) = tile.view.as_f32() {
                return part.sum(scratch, &mut sums);
            }
            let (rows, cols) = (tile.view.rows(), tile.view.cols());
            let mut sums = scratch.take(rows * cols);
            let mut sums = ViewMut::packed(&mut sums, rows, cols);
            part.sum(scratch, &mut sums);
            store(sums.as_view(), mode, &mut tile.view);
        };
        panel.view.tiles(HEIGHT, WIDTH).into_par_iter().for_each(task);
    }
}

/// A frozen product in a panel of rows, with its left operand in `f32`.
#[derive(Clone, Copy)]
struct Product<'a, T> {
    left: View<'a, f32>,
    right: View<'a, T>,
}

fn left_buffer<'a, T: Convert>(scratch: &'a Scratch, product: &Frozen<'_, T>, rows: usize) -> Buffer<'a> {
    scratch.take(if T::DTYPE == DType::F32 { 0 } else { rows * product.left.cols() })
}

/// A matrix as `f32` in its own storage order, converted on all threads.
fn widen_rows<'a, T: Convert>(from: View<'_, T>, buffer: &'a mut [f32]) -> View<'a, f32> {
    if from.col_stride() != 1 {
        return widen_rows(from.t(), buffer).t();
    }
    let (rows, cols) = (from.rows(), from.cols());
    let task = |tile: Tile<'_, f32>| widen(from.block(tile.rows(), tile.cols()), tile.view);
    ViewMut::packed(buffer, rows, cols).tiles(8, cols.max(1)).into_par_iter().for_each(task);
    View::packed(buffer, rows, cols)
}

/// The part of a panel that begins at (`row`, `col`) of it; the panel begins at `first_row` of the destination.
struct Part<'a, T> {
    products: &'a [Product<'a, T>],
    low_rank: Option<LowRank<'a>>,
    bias: Option<&'a [f32]>,
    first_row: usize,
    row: usize,
    col: usize,
}

impl<T: Convert> Part<'_, T> {
    /// Writes the part to `sums`, whose rows are contiguous.
    fn sum(&self, scratch: &Scratch, sums: &mut ViewMut<'_, f32>) {
        let rows = self.row..self.row + sums.rows();
        let cols = self.col..self.col + sums.cols();
        let mut onto = Onto::Nothing;
        // The low-rank part goes first: the sums are then in cache when the frozen products are added to them.
        if let Some(LowRank { left, right, dropout }) = self.low_rank {
            let left = left.block(rows.clone(), 0..left.cols());
            let right = right.block(0..right.rows(), cols.clone());
            multiply(sums, onto, left, right);
            onto = Onto::Destination;
            if let Some(dropout) = dropout {
                let mask = Mask { dropout, row: self.first_row + self.row, col: self.col };
                for i in 0..rows.len() {
                    let Some(row) = sums.row(i) else { return };
                    mask.apply(i, row);
                }
            }
        }
        if let Some(bias) = self.bias.map(|bias| &bias[cols.clone()]) {
            for i in 0..rows.len() {
                let Some(row) = sums.row(i) else { return };
                match onto {
                    Onto::Nothing => row.copy_from_slice(bias),
                    Onto::Destination => row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias),
                }
            }
            onto = Onto::Destination;
        }
        let converts = T::DTYPE != DType::F32;
        let mut buffer = scratch.take(if converts { DEPTH * cols.len() } else { 0 });
        for &Product { left, right } in self.products {
            for depth in chunks(left.cols(), if converts { DEPTH } else { left.cols().max(1) }) {
                let left = left.block(rows.clone(), depth.clone());
                let right = load(right.block(depth, cols.clone()), None, &mut buffer);
                multiply(sums, onto, left, right);
                onto = Onto::Destination;
            }
        }
    }
}

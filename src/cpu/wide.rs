//! Products with the frozen weight, and the rank-r part that goes with them.

use super::convert::Convert;
use super::mask::Mask;
use super::panel::{load, store};
use super::product::{Onto, multiply};
use super::scratch::Scratch;
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

/// What is added to the frozen products: drop(left \[M, R\] · right \[R, N\]) + bias, without dropout's factor.
#[derive(Clone, Copy)]
pub(super) struct LowRank<'a> {
    pub left: View<'a, f32>,
    pub right: View<'a, f32>,
    pub dropout: Option<Dropout>,
    pub bias: Option<&'a [f32]>,
}

/// destination \[M, N\] = (or +=) Σ frozen products + the low-rank part, rounded once.
pub(super) fn wide_product<T: Convert>(
    scratch: &Scratch,
    frozen: &[Frozen<'_, T>],
    low_rank: Option<LowRank<'_>>,
    mode: WriteMode,
    destination: ViewMut<'_, T>,
) {
    let in_place = T::DTYPE == DType::F32 && mode == WriteMode::Overwrite && destination.col_stride() == 1;
    let task = |mut tile: Tile<'_, T>| {
        let at = (tile.row, tile.col);
        if in_place && let Some(mut sums) = tile.view.as_f32() {
            return sum(scratch, frozen, low_rank, at, &mut sums);
        }
        let (rows, cols) = (tile.view.rows(), tile.view.cols());
        let mut sums = scratch.take(rows * cols);
        let mut sums = ViewMut::packed(&mut sums, rows, cols);
        sum(scratch, frozen, low_rank, at, &mut sums);
        store(sums.as_view(), mode, &mut tile.view);
    };
    destination.tiles(HEIGHT, WIDTH).into_par_iter().for_each(task);
}

/// The tile that begins at `at`, in row-major `f32`.
fn sum<T: Convert>(
    scratch: &Scratch,
    frozen: &[Frozen<'_, T>],
    low_rank: Option<LowRank<'_>>,
    at: (usize, usize),
    sums: &mut ViewMut<'_, f32>,
) {
    let (rows, cols) = (at.0..at.0 + sums.rows(), at.1..at.1 + sums.cols());
    let mut onto = Onto::Nothing;
    // The low-rank part goes first: the sums are then in cache when the frozen product is added to them.
    if let Some(LowRank { left, right, dropout, bias }) = low_rank {
        let (left, right) =
            (left.block(rows.clone(), 0..left.cols()), right.block(0..right.rows(), cols.clone()));
        multiply(sums, onto, left, right);
        onto = Onto::Destination;
        for i in 0..rows.len() {
            let Some(row) = sums.row(i) else { return };
            if let Some(dropout) = dropout {
                Mask { dropout, row: at.0, col: at.1 }.apply(i, row);
            }
            if let Some(bias) = bias {
                for (value, bias) in row.iter_mut().zip(&bias[cols.clone()]) {
                    *value += bias;
                }
            }
        }
    }
    let converts = T::DTYPE != DType::F32;
    let (mut left_panel, mut right_panel) = (
        scratch.take(if converts { rows.len() * DEPTH } else { 0 }),
        scratch.take(if converts { DEPTH * cols.len() } else { 0 }),
    );
    for product in frozen {
        let depth = product.left.cols();
        for depth in chunks(depth, if converts { DEPTH } else { depth.max(1) }) {
            let left = load(product.left.block(rows.clone(), depth.clone()), None, &mut left_panel);
            let right = load(product.right.block(depth, cols.clone()), None, &mut right_panel);
            multiply(sums, onto, left, right);
            onto = Onto::Destination;
        }
    }
}

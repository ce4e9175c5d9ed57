//! Products with the frozen weight, and the rank-r part that goes with them.

use super::convert::Convert;
use super::panel::{Mask, load, store};
use super::product::{Onto, multiply};
use super::scratch::Scratch;
use super::view::{Tile, View, ViewMut, chunks};
use crate::Dropout;
use crate::ops::WriteMode;
use rayon::prelude::*;

/// Rows and columns of a task.
const HEIGHT: usize = 512;
const WIDTH: usize = 256;
/// Elements along the summed dimension that are converted at once.
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
    low_rank: LowRank<'_>,
    mode: WriteMode,
    destination: ViewMut<'_, T>,
) {
    let task = |mut tile: Tile<'_, T>| {
        let (rows, cols) = (tile.rows(), tile.cols());
        let mut sums = scratch.take(rows.len() * cols.len());
        let mut sums = ViewMut::packed(&mut sums, rows.len(), cols.len());
        multiply(
            &mut sums,
            Onto::Nothing,
            low_rank.left.block(rows.clone(), 0..low_rank.left.cols()),
            low_rank.right.block(0..low_rank.right.rows(), cols.clone()),
        );
        for i in 0..sums.rows() {
            let Some(row) = sums.row(i) else { return };
            if let Some(dropout) = low_rank.dropout {
                Mask { dropout, row: tile.row, col: tile.col }.apply(i, row);
            }
            if let Some(bias) = low_rank.bias {
                for (value, bias) in row.iter_mut().zip(&bias[cols.clone()]) {
                    *value += bias;
                }
            }
        }
        let (mut left, mut right) = (scratch.take(HEIGHT * DEPTH), scratch.take(DEPTH * WIDTH));
        for product in frozen {
            for depth in chunks(product.left.cols(), DEPTH) {
                let left = load(product.left.block(rows.clone(), depth.clone()), None, &mut left);
                let right = load(product.right.block(depth, cols.clone()), None, &mut right);
                multiply(&mut sums, Onto::Destination, left, right);
            }
        }
        store(sums.as_view(), mode, &mut tile.view);
    };
    destination.tiles(HEIGHT, WIDTH).into_par_iter().for_each(task);
}

//! Products with one large operand and one of r columns. The large operand is read once.

use super::convert::Convert;
use super::mask::Mask;
use super::panel::load;
use super::product::{Onto, multiply};
use super::scratch::Scratch;
use super::view::{Tile, View, ViewMut, chunks};
use crate::Dropout;
use rayon::prelude::*;

/// What a task of [`reduce_columns`] takes at a time: a panel stays in the second-level cache.
const ROWS: usize = 64;
const DEPTH: usize = 512;
/// What a task of [`reduce_rows`] takes at a time: few rows, because each row lies in pages of its own.
const COLUMNS: usize = 512;
const HEIGHT: usize = 64;

/// sums \[M, R\] = round(scales ⊙ drop(large \[M, C\]) · small \[C, R\]), with one scale a column.
///
/// The sums are rounded to `T`. Dropout's own factor belongs into the scales.
pub(super) fn reduce_columns<T: Convert>(
    scratch: &Scratch,
    large: View<'_, T>,
    dropout: Option<Dropout>,
    small: View<'_, f32>,
    scales: &[f32],
    sums: ViewMut<'_, f32>,
) {
    let width = sums.cols();
    let task = |mut tile: Tile<'_, f32>| {
        let mut buffer = scratch.take(ROWS * DEPTH);
        let mut onto = Onto::Nothing;
        for depth in chunks(large.cols(), DEPTH) {
            let mask = dropout.map(|dropout| Mask { dropout, row: tile.row, col: depth.start });
            let panel = load(large.block(tile.rows(), depth.clone()), mask, &mut buffer);
            multiply(&mut tile.view, onto, panel, small.block(depth, 0..width));
            onto = Onto::Destination;
        }
        for i in 0..tile.view.rows() {
            let Some(row) = tile.view.row(i) else { return };
            for (value, scale) in row.iter_mut().zip(scales) {
                *value = T::round(*value * scale);
            }
        }
    };
    sums.tiles(ROWS, width.max(1)).into_par_iter().for_each(task);
}

/// sums \[C, R\] = drop(large \[M, C\])ᵀ · small \[M, R\], without dropout's factor.
pub(super) fn reduce_rows<T: Convert>(
    scratch: &Scratch,
    large: View<'_, T>,
    dropout: Option<Dropout>,
    small: View<'_, f32>,
    sums: ViewMut<'_, f32>,
) {
    let width = sums.cols();
    let task = |mut tile: Tile<'_, f32>| {
        let mut buffer = scratch.take(COLUMNS * HEIGHT);
        tile.view.fill(0.0);
        for depth in chunks(large.rows(), HEIGHT) {
            let mask = dropout.map(|dropout| Mask { dropout, row: depth.start, col: tile.row });
            let panel = load(large.block(depth.clone(), tile.rows()), mask, &mut buffer);
            multiply(&mut tile.view, Onto::Destination, panel.t(), small.block(depth, 0..width));
        }
    };
    sums.tiles(COLUMNS, width.max(1)).into_par_iter().for_each(task);
}

/// Column sums of a matrix.
pub(super) fn sum_rows<T: Convert>(scratch: &Scratch, large: View<'_, T>, sums: ViewMut<'_, f32>) {
    let task = |mut tile: Tile<'_, f32>| {
        let Some(sums) = tile.view.row(0) else { return };
        sums.fill(0.0);
        let mut buffer = scratch.take(COLUMNS * HEIGHT);
        for rows in chunks(large.rows(), HEIGHT) {
            let panel = load(large.block(rows, tile.col..tile.col + sums.len()), None, &mut buffer);
            for i in 0..panel.rows() {
                match panel.row(i) {
                    Some(row) => sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value),
                    None => sums.iter_mut().enumerate().for_each(|(j, sum)| *sum += panel.get(i, j)),
                }
            }
        }
    };
    sums.tiles(1, COLUMNS).into_par_iter().for_each(task);
}

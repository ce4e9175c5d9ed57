//! s·A·B as a matrix.

use super::factors::{COLUMNS, Factors, ROWS};
use super::simd::{self, Vectorized};
use super::weight::Weight;
use crate::cpu::view::{self, ViewMut};
use rayon::prelude::*;

/// Stored rows of one task.
const TASK_ROWS: usize = 64;

/// Writes Δ into `target`, oriented as the factors are. Its rows are contiguous.
pub(super) fn write<T: Weight>(factors: &Factors<'_>, target: ViewMut<'_, T>) {
    let columns = target.cols().max(1);
    let tiles = target.tiles(TASK_ROWS, columns).into_par_iter();
    tiles.for_each_init(Vec::new, |left, target| simd::run(Task { factors, target, left }));
}

struct Task<'t, 'a, T> {
    factors: &'t Factors<'a>,
    target: view::Tile<'t, T>,
    left: &'t mut Vec<f32>,
}

impl<T: Weight> Vectorized for Task<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const WIDTH: usize>(self) {
        let Task { factors, target: view::Tile { row: first_row, view: mut target, .. }, left } = self;
        let (rows, columns) = (target.rows(), target.cols());
        factors.pack_left(first_row, rows, left);
        let mut sums = [[0.0; COLUMNS]; ROWS];
        for group in 0..rows.div_ceil(ROWS) {
            for panel in 0..columns.div_ceil(COLUMNS) {
                factors.tile::<WIDTH>(left, group, panel, &mut sums);
                let first = panel * COLUMNS;
                for (row, sums) in (group * ROWS..rows).zip(&sums) {
                    let Some(target) = target.row(row) else { return };
                    for (target, sum) in target[first..columns.min(first + COLUMNS)].iter_mut().zip(sums) {
                        *target = T::from_weight_bits(T::nearest(factors.scale * sum));
                    }
                }
            }
        }
    }
}

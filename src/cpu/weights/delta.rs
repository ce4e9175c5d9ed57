//! s·A·B as a matrix.

use super::factors::{COLUMNS, Factors, ROWS};
use super::simd::{self, Vectorized};
use super::weight::Weight;
use crate::Layout;
use rayon::prelude::*;

/// Stored rows of one task.
const TASK_ROWS: usize = 64;

/// Writes Δ into `target`, which is laid out as `layout` says.
pub(super) fn write<T: Weight>(factors: &Factors<'_>, target: &mut [T], layout: Layout) {
    let columns = if layout.is_transposed() { layout.rows() } else { layout.cols() };
    let stride = layout.stride();
    target[..layout.span()].par_chunks_mut(stride.saturating_mul(TASK_ROWS)).enumerate().for_each_init(
        Vec::new,
        |left, (task, target)| {
            simd::run(Task { factors, target, first_row: task * TASK_ROWS, columns, stride, left });
        },
    );
}

struct Task<'t, 'a, T> {
    factors: &'t Factors<'a>,
    target: &'t mut [T],
    first_row: usize,
    columns: usize,
    stride: usize,
    left: &'t mut Vec<f32>,
}

impl<T: Weight> Vectorized for Task<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const WIDTH: usize>(self) {
        let Task { factors, target, first_row, columns, stride, left } = self;
        factors.pack_left(first_row, target.len().div_ceil(stride), left);
        let mut sums = [[0.0; COLUMNS]; ROWS];
        for (group, target) in target.chunks_mut(stride.saturating_mul(ROWS)).enumerate() {
            for panel in 0..columns.div_ceil(COLUMNS) {
                factors.tile::<WIDTH>(left, group, panel, &mut sums);
                let first = panel * COLUMNS;
                for (target, sums) in target.chunks_mut(stride).zip(&sums) {
                    for (target, sum) in target[first..columns.min(first + COLUMNS)].iter_mut().zip(sums) {
                        *target = T::from_weight_bits(T::nearest(factors.scale * sum));
                    }
                }
            }
        }
    }
}

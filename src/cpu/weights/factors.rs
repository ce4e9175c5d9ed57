//! The factors of Δ in `f32`, arranged for the loop that multiplies them.

use super::weight::Weight;
use crate::cpu::view::{AnyView, View};
use crate::{Adapter, Error, Result};
use rayon::prelude::*;

/// Rows that are worked on at once.
pub(super) const ROWS: usize = 4;
/// Columns that are worked on at once.
pub(super) const COLUMNS: usize = 64;

/// Values of Δ, or anything else, for a tile of the weight.
pub(super) type Tile<V> = [[V; COLUMNS]; ROWS];

/// Δ without its scale as a product of a left and a right factor, oriented as the weight is stored.
pub(super) struct Factors<'a> {
    left: AnyView<'a>,
    /// For each panel of columns, k by k, `COLUMNS` values; missing columns are zero.
    right: Vec<f32>,
    rank: usize,
    /// The scale s.
    pub scale: f32,
}

impl<'a> Factors<'a> {
    /// For a weight stored as \[in, out\], or as \[out, in\] where `transposed`.
    ///
    /// # Errors
    /// The arranged factors would be larger than memory.
    pub fn new(adapter: &Adapter<'a>, transposed: bool) -> Result<Self> {
        // Δᵀ = Bᵀ·Aᵀ: the products and the order of their sum stay the same.
        let (left, right) = if transposed { (adapter.b.t(), adapter.a.t()) } else { (adapter.a, adapter.b) };
        let rank = adapter.rank();
        let panel = COLUMNS.checked_mul(rank);
        let elements = panel.and_then(|panel| panel.checked_mul(right.cols().div_ceil(COLUMNS)));
        // The left factor takes no more than a panel of the right one.
        let (Some(panel), Some(elements)) = (panel, elements.filter(|&n| n <= isize::MAX as usize / 4))
        else {
            return Err(Error::Unsupported(format!(
                "an adapter of rank {rank}: its factors in f32 would be larger than memory"
            )));
        };
        let mut packed = vec![0.0; elements];
        let columns_of_right = right.cols();
        let right = AnyView::new(right);
        packed.par_chunks_mut(panel).enumerate().for_each(|(panel, target)| {
            let first = panel * COLUMNS;
            let columns = COLUMNS.min(columns_of_right - first);
            copy_part(right, [0, first], [rank, columns], target, [COLUMNS, 1]);
        });
        Ok(Factors { left: AnyView::new(left), right: packed, rank, scale: adapter.scale })
    }

    /// Arranges `rows` rows of the left factor: for each group of `ROWS` rows, k by k, `ROWS` values.
    pub fn pack_left(&self, first: usize, rows: usize, target: &mut Vec<f32>) {
        target.clear();
        target.resize(rows.div_ceil(ROWS) * ROWS * self.rank, 0.0);
        for (group, target) in target.chunks_exact_mut(ROWS * self.rank).enumerate() {
            let rows = ROWS.min(rows - group * ROWS);
            copy_part(self.left, [first + group * ROWS, 0], [rows, self.rank], target, [1, ROWS]);
        }
    }

    /// Δ/s of one group of packed rows and one panel of columns: fused multiply-adds from k = 0 upwards.
    #[inline(always)]
    pub fn tile<const WIDTH: usize>(&self, left: &[f32], group: usize, panel: usize, tile: &mut Tile<f32>) {
        let left = &left[group * ROWS * self.rank..][..ROWS * self.rank];
        let right = &self.right[panel * COLUMNS * self.rank..][..COLUMNS * self.rank];
        for part in 0..COLUMNS / WIDTH {
            let mut sums = [[0.0f32; WIDTH]; ROWS];
            for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
                let right = &right.as_chunks::<WIDTH>().0[part];
                for row in 0..ROWS {
                    for column in 0..WIDTH {
                        sums[row][column] = left[row].mul_add(right[column], sums[row][column]);
                    }
                }
            }
            for row in 0..ROWS {
                tile[row][part * WIDTH..][..WIDTH].copy_from_slice(&sums[row]);
            }
        }
    }
}

/// Copies the part of `matrix` of the given size that starts at `first`, with its own strides in `target`.
fn copy_part(
    matrix: AnyView<'_>,
    first: [usize; 2],
    size: [usize; 2],
    target: &mut [f32],
    target_strides: [usize; 2],
) {
    let [rows, cols] = [0, 1].map(|side| first[side]..first[side] + size[side]);
    match matrix {
        AnyView::F32(source) => copy_typed(source.block(rows, cols), target, target_strides),
        AnyView::F16(source) => copy_typed(source.block(rows, cols), target, target_strides),
        AnyView::Bf16(source) => copy_typed(source.block(rows, cols), target, target_strides),
    }
}

fn copy_typed<T: Weight>(source: View<'_, T>, target: &mut [f32], [row_stride, col_stride]: [usize; 2]) {
    // The inner loop follows the source's contiguous direction.
    if source.col_stride() != 1 && source.cols() > 1 {
        return copy_typed(source.t(), target, [col_stride, row_stride]);
    }
    for i in 0..source.rows() {
        let Some(source) = source.row(i) else { return };
        for (value, target) in source.iter().zip(target[i * row_stride..].iter_mut().step_by(col_stride)) {
            *target = T::decode(value.bits());
        }
    }
}

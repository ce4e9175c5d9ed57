//! Fingerprints of matrices in host memory.

use super::weight::Weight;
use crate::fingerprint::{self, Fingerprint};
use crate::memory::{Host, HostRef};
use crate::{Adapter, Layout, MatrixRef};
use rayon::prelude::*;

/// The fingerprint of an adapter with its scale.
pub(super) fn adapter(adapter: &Adapter<'_>) -> Fingerprint {
    fingerprint::adapter(values(adapter.a), values(adapter.b), adapter.scale)
}

/// The fingerprint of a sample of a weight's bits.
pub(super) fn weight<T: Weight>(weights: &[T], layout: Layout) -> Fingerprint {
    let step = fingerprint::sample_step(layout.shape());
    Fingerprint(sum(weights, layout, step, T::bits))
}

fn values(matrix: MatrixRef<'_, Host>) -> u64 {
    let layout = matrix.layout();
    match matrix.buffer() {
        HostRef::F32(values) => sum(values, layout, 1, value_bits),
        HostRef::F16(values) => sum(values, layout, 1, value_bits),
        HostRef::Bf16(values) => sum(values, layout, 1, value_bits),
    }
}

/// The bits of the value in `f32`: an adapter is the same in every element type that holds it exactly. All NaN count as one.
fn value_bits<T: Weight>(element: T) -> u32 {
    <f32 as Weight>::nearest(T::decode(element.bits()))
}

/// Samples that one task sums.
const TASK_SAMPLES: usize = 4096;

fn sum<T: Weight>(elements: &[T], layout: Layout, step: u64, bits: fn(T) -> u32) -> u64 {
    let (columns, step) = (layout.cols(), step as usize);
    if columns == 0 {
        return 0;
    }
    let samples = (layout.rows() * columns).div_ceil(step);
    let task = |task: usize| {
        let first = task * TASK_SAMPLES;
        let mut index = first * step;
        let (mut row, mut column) = (index / columns, index % columns);
        let mut sum = 0u64;
        // Additions in place of a division for each sample.
        let (row_step, column_step) = (step / columns, step % columns);
        for _ in first..samples.min(first + TASK_SAMPLES) {
            let element = elements[row * layout.row_stride() + column * layout.col_stride()];
            sum = sum.wrapping_add(fingerprint::term(index as u64, bits(element)));
            index += step;
            row += row_step;
            column += column_step;
            if column >= columns {
                column -= columns;
                row += 1;
            }
        }
        sum
    };
    (0..samples.div_ceil(TASK_SAMPLES)).into_par_iter().map(task).reduce(|| 0, u64::wrapping_add)
}

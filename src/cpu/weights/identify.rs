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

fn sum<T: Weight>(elements: &[T], layout: Layout, step: u64, bits: fn(T) -> u32) -> u64 {
    let columns = layout.cols();
    let step = step as usize;
    let samples = (layout.rows() * columns).div_ceil(step);
    let term = |sample: usize| {
        let index = sample * step;
        let (row, column) = (index / columns, index % columns);
        let element = elements[row * layout.row_stride() + column * layout.col_stride()];
        fingerprint::term(index as u64, bits(element))
    };
    (0..samples).into_par_iter().with_min_len(4096).map(term).reduce(|| 0, u64::wrapping_add)
}

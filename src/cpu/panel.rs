//! Parts of matrices as `f32`, with dropout applied; and the way back.

use super::convert::Convert;
use super::mask::Mask;
use super::view::{View, ViewMut};
use crate::ops::WriteMode;

/// The part as `f32`: itself where nothing changes, else a copy in `buffer`.
pub(super) fn load<'a, T: Convert>(
    part: View<'a, T>,
    mask: Option<Mask>,
    buffer: &'a mut [f32],
) -> View<'a, f32> {
    let (rows, cols) = (part.rows(), part.cols());
    match (mask, part.as_f32()) {
        (None, Some(view)) => view,
        (None, None) if part.col_stride() != 1 => {
            widen(part.t(), ViewMut::packed(buffer, cols, rows));
            View::packed(buffer, cols, rows).t()
        }
        (None, None) => {
            widen(part, ViewMut::packed(buffer, rows, cols));
            View::packed(buffer, rows, cols)
        }
        (Some(mask), _) => {
            widen(part, ViewMut::packed(buffer, rows, cols));
            for (i, row) in buffer[..rows * cols].chunks_exact_mut(cols).enumerate() {
                mask.apply(i, row);
            }
            View::packed(buffer, rows, cols)
        }
    }
}

/// Copies a matrix of any element type into one of `f32`.
pub(super) fn widen<T: Convert>(from: View<'_, T>, mut to: ViewMut<'_, f32>) {
    assert_eq!((from.rows(), from.cols()), (to.rows(), to.cols()));
    if from.col_stride() != 1 && to.col_stride() != 1 {
        return widen(from.t(), to.t());
    }
    for i in 0..from.rows() {
        if let (Some(source), Some(row)) = (from.row(i), to.row(i)) {
            T::widen(source, row);
            continue;
        }
        for j in 0..from.cols() {
            to.set(i, j, from.get(i, j).to_f32());
        }
    }
}

/// Rounds a matrix of sums to the element type of its destination.
pub(super) fn store<T: Convert>(sums: View<'_, f32>, mode: WriteMode, to: &mut ViewMut<'_, T>) {
    assert_eq!((sums.rows(), sums.cols()), (to.rows(), to.cols()));
    if to.col_stride() != 1 && to.row_stride() == 1 {
        return store(sums.t(), mode, &mut to.reborrow().t());
    }
    const LINE: usize = 256;
    let (mut line, mut previous) = ([0.0; LINE], [0.0; LINE]);
    for i in 0..to.rows() {
        let Some(row) = to.row(i) else { return };
        for (chunk, to) in row.chunks_mut(LINE).enumerate() {
            let (line, previous) = (&mut line[..to.len()], &mut previous[..to.len()]);
            let start = chunk * LINE;
            let sums = sums.block(i..i + 1, start..start + to.len());
            match sums.row(0) {
                Some(sums) => line.copy_from_slice(sums),
                None => line.iter_mut().enumerate().for_each(|(j, value)| *value = sums.get(0, j)),
            }
            if mode == WriteMode::Accumulate {
                T::widen(to, previous);
                line.iter_mut().zip(previous).for_each(|(value, previous)| *value += *previous);
            }
            T::narrow(line, to);
        }
    }
}

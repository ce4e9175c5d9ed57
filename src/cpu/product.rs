//! The product of two `f32` matrices on one thread: the `gemm` crate behind a safe function.

use super::view::{View, ViewMut};

/// Whether a product replaces its destination or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    Nothing,
    Destination,
}

/// `destination = left · right`, or `destination += left · right`.
///
/// Each element is summed in an order that depends on the shapes only.
pub(super) fn multiply(
    destination: &mut ViewMut<'_, f32>,
    onto: Onto,
    left: View<'_, f32>,
    right: View<'_, f32>,
) {
    let (m, n, k) = (left.rows(), right.cols(), left.cols());
    assert_eq!((destination.rows(), destination.cols(), right.rows()), (m, n, k));
    // SAFETY: the shapes agree, and by their invariants the views are valid for reads (and the destination for
    // writes) everywhere inside their shapes; the destination is borrowed exclusively, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            destination.as_mut_ptr(),
            destination.col_stride() as isize,
            destination.row_stride() as isize,
            onto == Onto::Destination,
            left.as_ptr(),
            left.col_stride() as isize,
            left.row_stride() as isize,
            right.as_ptr(),
            right.col_stride() as isize,
            right.row_stride() as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

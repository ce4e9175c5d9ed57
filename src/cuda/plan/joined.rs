//! Which matrices lie as parts of one, so that a product may take them as one.

use crate::memory::{Raw, RawBuffer};
use crate::{Layout, MatrixRef};

/// The matrix whose left and right columns these are; `None` if they lie otherwise.
///
/// ```text
/// [left right]
/// ```
pub fn beside<'a>(left: MatrixRef<'a, Raw>, right: MatrixRef<'a, Raw>) -> Option<MatrixRef<'a, Raw>> {
    let (l, r) = (left.layout(), right.layout());
    let alike =
        left.dtype() == right.dtype() && l.rows() == r.rows() && l.is_transposed() == r.is_transposed();
    if !alike || l.is_repeated() || r.is_repeated() || l.span() == 0 || r.span() == 0 {
        return None;
    }
    let bytes = right.buffer().address.checked_sub(left.buffer().address)?;
    let size = left.dtype().size() as u64;
    let distance = usize::try_from(bytes / size).ok().filter(|_| bytes % size == 0)?;
    let cols = l.cols().checked_add(r.cols())?;
    let layout = if l.is_transposed() {
        // Columns are stored one after the other. The stride of a single one says nothing, and two say it with their distance, as
        // any two columns do.
        if l.cols() == 1 && r.cols() == 1 && distance != l.rows() {
            return None;
        }
        let stride = distance / l.cols();
        let strides = [l, r].into_iter().filter(|part| part.cols() > 1).map(|part| part.stride());
        if distance % l.cols() != 0 || !strides.into_iter().all(|found| found == stride) {
            return None;
        }
        Layout::strided(cols, l.rows(), stride).ok()?.t()
    } else {
        if distance != l.cols() || l.rows() > 1 && l.stride() != r.stride() {
            return None;
        }
        Layout::strided(l.rows(), cols, l.stride()).ok()?
    };
    let buffer = RawBuffer { len: layout.span(), ..left.buffer() };
    MatrixRef::from_buffer(buffer, layout).ok()
}

/// The matrix whose upper and lower rows these are; `None` if they lie otherwise.
pub fn below<'a>(top: MatrixRef<'a, Raw>, bottom: MatrixRef<'a, Raw>) -> Option<MatrixRef<'a, Raw>> {
    beside(top.t(), bottom.t()).map(MatrixRef::t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    const START: u64 = 0x1000;

    fn matrix(first: usize, layout: Layout) -> MatrixRef<'static, Raw> {
        let address = START + 2 * first as u64;
        MatrixRef::from_buffer(RawBuffer { address, len: layout.span(), dtype: DType::Bf16 }, layout).unwrap()
    }

    fn strided(rows: usize, cols: usize, stride: usize) -> Layout {
        Layout::strided(rows, cols, stride).expect("small")
    }

    /// Whatever the shape, two parts of a matrix are found to be so, and they make it up again.
    #[test]
    fn parts_of_a_matrix_are_found_to_be_so() {
        for (rows, cols) in [(1, 2), (1, 9), (4, 2), (5, 9)] {
            for gap in [0, 3] {
                let layout = strided(rows, cols, cols + gap);
                for whole in [matrix(0, layout), matrix(0, layout.t())] {
                    for at in 1..whole.cols() {
                        let [left, right] = whole.split_cols(at).unwrap();
                        let found = beside(left, right).expect("they lie so");
                        assert_eq!((found.shape(), found.buffer().address), (whole.shape(), START));
                        // What says nothing about where elements lie may be another.
                        let is_one_line = layout.rows() == 1 || layout.is_transposed();
                        assert!(is_one_line || found.layout() == whole.layout(), "{found:?} {whole:?}");
                        assert!(below(left.t(), right.t()).is_some());
                        assert!(beside(right, left).is_none());
                    }
                }
            }
        }
    }

    #[test]
    fn what_lies_otherwise_is_not() {
        let left = matrix(0, strided(3, 4, 8));
        assert!(beside(left, matrix(4, strided(3, 4, 8))).is_some());
        let other_type = {
            let buffer = RawBuffer { dtype: DType::F16, ..matrix(4, strided(3, 4, 8)).buffer() };
            MatrixRef::from_buffer(buffer, strided(3, 4, 8)).unwrap()
        };
        for right in [
            matrix(5, strided(3, 3, 8)),
            matrix(3, strided(3, 3, 8)),
            matrix(4, strided(2, 4, 8)),
            matrix(4, strided(3, 4, 9)),
            // Its rows would reach into the next ones of the left matrix.
            matrix(4, strided(3, 5, 8)),
            matrix(4, strided(4, 3, 8).t()),
            matrix(4, Layout::repeated(3, 4).expect("small")),
            matrix(4, strided(3, 0, 8)),
            other_type,
        ] {
            assert!(beside(left, right).is_none(), "{right:?}");
        }
        let column = matrix(0, strided(2, 3, 5).t());
        assert!(beside(column, matrix(10, strided(2, 3, 5).t())).is_some());
        assert!(beside(matrix(0, strided(1, 3, 3).t()), matrix(3, strided(1, 3, 3).t())).is_some());
        assert!(beside(matrix(0, strided(1, 3, 3).t()), matrix(4, strided(1, 3, 3).t())).is_none());
        for right in [
            matrix(11, strided(2, 3, 5).t()),
            matrix(10, strided(2, 3, 6).t()),
            matrix(12, strided(1, 3, 3).t()),
            matrix(0, strided(2, 3, 5).t()),
        ] {
            assert!(beside(column, right).is_none(), "{right:?}");
        }
    }
}

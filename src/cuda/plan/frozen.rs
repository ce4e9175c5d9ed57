//! The one door to the product with a frozen weight: whoever needs X·W or dY·Wᵀ asks here, and no plan of an operation looks at
//! the architecture.
//!
//! Today every such product is the library's. What else may stand here, chosen by [`Settings::target`](super::Settings) and the shape:
//! one product over K + r, for operands that have S and B appended to X and W, and a GEMM of our own whose epilogue takes the
//! rank-r part. Either takes over what [`Planner::expand`](super::products::Planner::expand) has written before.

use crate::cuda::step::{F32Math, Operand, Product, Step};
use crate::memory::Raw;
use crate::{MatrixMut, MatrixRef};

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onto {
    /// It replaces C (β = 0).
    Nothing,
    /// It is added to C (β = 1).
    C,
}

/// The step that computes A·B, of one element type with C, and puts it onto C.
pub(super) fn product(
    a: MatrixRef<'_, Raw>,
    b: MatrixRef<'_, Raw>,
    c: MatrixRef<'_, Raw>,
    onto: Onto,
    f32_math: F32Math,
) -> Step {
    Step::Product(Product {
        a: operand(a),
        b: operand(b),
        c: operand(c),
        dtype: c.dtype(),
        accumulate: onto == Onto::C,
        f32_math,
    })
}

/// Plans Y = X·W, checked before: the layer without adapter.
pub fn frozen(
    x: MatrixRef<'_, Raw>,
    w: MatrixRef<'_, Raw>,
    y: &MatrixMut<'_, Raw>,
    f32_math: F32Math,
) -> Step {
    product(x, w, y.as_ref(), Onto::Nothing, f32_math)
}

/// A matrix as the library takes it.
fn operand(matrix: MatrixRef<'_, Raw>) -> Operand {
    let layout = matrix.layout();
    Operand {
        address: matrix.buffer().address,
        rows: layout.rows() as u64,
        cols: layout.cols() as u64,
        stride: layout.stride() as u64,
        transposed: layout.is_transposed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::step::Operand;
    use crate::memory::RawBuffer;
    use crate::{DType, Layout};

    #[test]
    fn the_frozen_layer_is_one_product_that_overwrites() {
        let buffer = |address| RawBuffer { address, len: 64, dtype: DType::F16 };
        let read = |address, layout| MatrixRef::<Raw>::from_buffer(buffer(address), layout).unwrap();
        let y = MatrixMut::<Raw>::from_buffer(buffer(3), Layout::packed(2, 5).expect("small")).unwrap();
        let step = frozen(
            read(1, Layout::packed(2, 4).expect("small")),
            read(2, Layout::packed(5, 4).expect("small").t()),
            &y,
            F32Math::Tf32,
        );
        let operand =
            |address, rows, cols, stride, transposed| Operand { address, rows, cols, stride, transposed };
        assert_eq!(
            step,
            Step::Product(Product {
                a: operand(1, 2, 4, 4, false),
                b: operand(2, 4, 5, 4, true),
                c: operand(3, 2, 5, 5, false),
                dtype: DType::F16,
                accumulate: false,
                f32_math: F32Math::Tf32,
            })
        );
    }
}

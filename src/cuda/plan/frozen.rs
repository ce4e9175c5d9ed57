//! The step of the frozen layer alone.

use super::products::operand;
use crate::cuda::step::{F32Math, Product, Step};
use crate::memory::Raw;
use crate::{MatrixMut, MatrixRef};

/// Plans Y = X·W, checked before: one product of the library's that overwrites Y.
pub fn frozen(
    x: MatrixRef<'_, Raw>,
    w: MatrixRef<'_, Raw>,
    y: &MatrixMut<'_, Raw>,
    f32_math: F32Math,
) -> Step {
    Step::Product(Product {
        a: operand(x),
        b: operand(w),
        c: operand(y.as_ref()),
        dtype: x.dtype(),
        accumulate: false,
        f32_math,
    })
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

//! Steps of the frozen layer alone: the library's product, onto the bias where there is one.

use super::Plan;
use super::products::{Arithmetic, Epilogue, Planner};
use crate::Result;
use crate::cuda::arguments::products::DropoutMask;
use crate::cuda::step::{F32Math, Step, Zero};
use crate::memory::Raw;
use crate::ops::{Frozen, WriteMode};

/// Plans a checked frozen layer with scratch memory from `workspace_base`, a multiple of 256.
///
/// # Errors
/// [`crate::Error::Unsupported`] if a grid would be larger than CUDA allows.
pub fn frozen(op: &Frozen<'_, Raw>, f32_math: F32Math, workspace_base: u64) -> Result<Plan> {
    let mut planner = Planner::new(Arithmetic { dtype: op.x.dtype(), f32_math }, workspace_base);
    let y = &op.y.matrix;
    if op.x.rows() == 0 {
        return planner.finish();
    }
    let mut accumulate = op.y.mode == WriteMode::Accumulate;
    if op.bias.is_some() {
        // The bias goes to Y by way of the kernel that adds it to an adapter's part, which is zero here.
        let mark = planner.workspace.mark();
        let (s, b) = (planner.matrix(op.x.rows(), 1), planner.matrix(1, op.w.cols()));
        for zeros in [s, b] {
            let bytes = (zeros.rows * zeros.row_stride) as u64 * op.x.dtype().size() as u64;
            planner.steps.push(Step::Zero(Zero { address: zeros.address, bytes }));
        }
        let epilogue = Epilogue { mask: DropoutMask::default(), scale: 1.0, bias: op.bias, accumulate };
        planner.expand(s, b, y.into(), epilogue)?;
        planner.workspace.release(mark);
        accumulate = true;
    }
    planner.product(op.x, op.w, y.as_ref(), accumulate)?;
    planner.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::step::{Operand, Product};
    use crate::memory::RawBuffer;
    use crate::ops::Output;
    use crate::{DType, Layout, MatrixMut, MatrixRef};

    /// The library refuses a leading dimension of 0.
    #[test]
    fn a_repeated_row_is_written_out_for_the_library() {
        let buffer = |address| RawBuffer { address, len: 64, dtype: DType::F32 };
        let packed = |rows, cols| Layout::packed(rows, cols).expect("small");
        let repeated = Layout::repeated(7, 5).expect("small");
        for transposed in [false, true] {
            let x_layout = if transposed { repeated.t() } else { repeated };
            let w_layout = packed(x_layout.cols(), 2);
            let op = Frozen {
                x: MatrixRef::<Raw>::from_buffer(buffer(256), x_layout).unwrap(),
                w: MatrixRef::from_buffer(buffer(1024), w_layout).unwrap(),
                bias: None,
                y: Output::overwrite(
                    MatrixMut::from_buffer(buffer(2048), packed(x_layout.rows(), 2)).unwrap(),
                ),
            };
            let plan = frozen(&op, F32Math::Exact, 4096).expect("small");
            let [Step::Launch(_), Step::Product(product)] = &plan.steps[..] else { panic!("{plan:?}") };
            let (rows, cols) = (x_layout.rows() as u64, x_layout.cols() as u64);
            assert_eq!(product.a, Operand { address: 4096, rows, cols, stride: 8, transposed });
            assert_eq!(plan.workspace_bytes, 256);
        }
    }

    #[test]
    fn the_frozen_layer_is_one_product_that_overwrites() {
        let buffer = |address| RawBuffer { address, len: 64, dtype: DType::F16 };
        let read = |address, layout| MatrixRef::<Raw>::from_buffer(buffer(address), layout).unwrap();
        let y = MatrixMut::<Raw>::from_buffer(buffer(3), Layout::packed(2, 5).expect("small")).unwrap();
        let op = Frozen {
            x: read(1, Layout::packed(2, 4).expect("small")),
            w: read(2, Layout::packed(5, 4).expect("small").t()),
            bias: None,
            y: Output::overwrite(y),
        };
        let plan = frozen(&op, F32Math::Tf32, 0).expect("small");
        let operand =
            |address, rows, cols, stride, transposed| Operand { address, rows, cols, stride, transposed };
        assert_eq!(
            plan.steps,
            [Step::Product(Product {
                a: operand(1, 2, 4, 4, false),
                b: operand(2, 4, 5, 4, true),
                c: operand(3, 2, 5, 5, false),
                dtype: DType::F16,
                accumulate: false,
                f32_math: F32Math::Tf32,
            })]
        );
    }
}

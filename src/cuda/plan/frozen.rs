//! The one door to the product with a frozen weight: whoever needs X·W or dY·Wᵀ asks here, and no plan of an operation looks at
//! the architecture.
//!
//! Today every such product is the library's: of X and W, onto what `Planner::expand` has written; or over K + r, of [X S] and [W; B],
//! which lie as one matrix each. `route.rs` chooses. A GEMM of our own that takes the rank-r part into its sums may stand here, too.

use super::products::{Epilogue, Planner};
use super::{Plan, Settings};
use crate::cuda::arguments::products::DropoutMask;
use crate::cuda::step::{Operand, Product, Step, Zero};
use crate::memory::Raw;
use crate::ops::{Frozen, WriteMode};
use crate::{MatrixRef, Result};

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onto {
    /// It replaces C (β = 0).
    Nothing,
    /// It is added to C (β = 1).
    C,
}

/// Adds the step that computes A·B, of one element type with C, and puts it onto C.
pub(super) fn product(
    planner: &mut Planner,
    a: MatrixRef<'_, Raw>,
    b: MatrixRef<'_, Raw>,
    c: MatrixRef<'_, Raw>,
    onto: Onto,
) -> Result<()> {
    let mark = planner.workspace.mark();
    let product = Product {
        a: library_operand(planner, a)?,
        b: library_operand(planner, b)?,
        c: operand(c),
        dtype: c.dtype(),
        accumulate: onto == Onto::C,
        f32_math: planner.f32_math(),
    };
    planner.steps.push(Step::Product(product));
    planner.workspace.release(mark);
    Ok(())
}

/// Plans a checked layer without adapter, with scratch memory from `workspace_base`, a multiple of 256: one product, onto the
/// bias where there is one.
///
/// # Errors
/// [`crate::Error::Unsupported`] if a grid would be larger than CUDA allows.
pub fn frozen(op: &Frozen<'_, Raw>, settings: Settings, workspace_base: u64) -> Result<Plan> {
    let mut planner = Planner::new(op.x.dtype(), settings, workspace_base);
    let y = &op.y.matrix;
    if op.x.rows() == 0 {
        return planner.finish();
    }
    let accumulate = op.y.mode == WriteMode::Accumulate;
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
    }
    let onto = if accumulate || op.bias.is_some() { Onto::C } else { Onto::Nothing };
    product(&mut planner, op.x, op.w, y.as_ref(), onto)?;
    planner.finish()
}

/// X with S beside it, and S, in a matrix whose first columns are X and that has room for as many ranks.
pub(super) fn extended<'a>(
    whole: MatrixRef<'a, Raw>,
    features: usize,
    rank: usize,
) -> Result<(MatrixRef<'a, Raw>, MatrixRef<'a, Raw>)> {
    let [x_and_s, _] = whole.split_cols(features + rank)?;
    let [_, s] = x_and_s.split_cols(features)?;
    Ok((x_and_s, s))
}

/// A matrix as the library takes it. The library knows no stride of 0, so a repeated row is written out first.
fn library_operand(planner: &mut Planner, matrix: MatrixRef<'_, Raw>) -> Result<Operand> {
    let layout = matrix.layout();
    if !layout.is_repeated() {
        return Ok(operand(matrix));
    }
    let stored = if layout.is_transposed() { matrix.t() } else { matrix };
    let copy = planner.copied(&[stored])?;
    Ok(Operand { address: copy.address, stride: copy.row_stride as u64, ..operand(matrix) })
}

/// A matrix without repeated rows as the library takes it.
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
    use crate::cuda::step::F32Math;
    use crate::cuda::target::Target;
    use crate::memory::RawBuffer;
    use crate::ops::Output;
    use crate::{DType, Layout, MatrixMut, MatrixRef};

    fn settings(f32_math: F32Math) -> Settings {
        Settings {
            target: Target { compute_capability: (8, 0), shared_bytes_per_block: 163 << 10 },
            f32_math,
        }
    }

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
            let plan = frozen(&op, settings(F32Math::Exact), 4096).expect("small");
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
        let plan = frozen(&op, settings(F32Math::Tf32), 0).expect("small");
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

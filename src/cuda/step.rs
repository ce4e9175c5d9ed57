//! What an executor is asked to do.

use crate::DType;

/// One thing to do on the device, in stream order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Launch one of this crate's kernels.
    Launch(Launch),
    /// A matrix product for cuBLASLt.
    Product(Product),
    /// Fill bytes with zero.
    Zero(Zero),
}

/// A kernel launch. Every kernel takes one struct by value.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel's name: its `extern "C"` symbol.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The bytes of the kernel's argument struct.
    pub arguments: Vec<u8>,
}

/// How `f32` matrices are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum F32Math {
    /// True `f32` products.
    #[default]
    Exact,
    /// Tensor cores with inputs cut to 10 bits of mantissa.
    Tf32,
}

/// C \[m, n\] ← A \[m, k\]·B \[k, n\] + β·C, accumulated in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// Left operand \[m, k\].
    pub a: Operand,
    /// Right operand \[k, n\].
    pub b: Operand,
    /// Result \[m, n\].
    pub c: Operand,
    /// Element type of all three.
    pub dtype: DType,
    /// Whether C is added to (β = 1) or overwritten (β = 0).
    pub accumulate: bool,
    /// For `f32` operands.
    pub f32_math: F32Math,
}

/// A matrix in device memory. `rows` and `cols` are as the product sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Address of element (0, 0).
    pub address: u64,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Elements between stored rows (or stored columns where `transposed`).
    pub stride: u64,
    /// Whether columns, not rows, are contiguous.
    pub transposed: bool,
}

/// A fill with zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zero {
    /// First byte.
    pub address: u64,
    /// Number of bytes.
    pub bytes: u64,
}

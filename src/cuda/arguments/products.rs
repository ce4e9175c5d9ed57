//! Arguments of the skinny products: `kernels/skinny/product_arguments.cuh`.

use super::Arguments;
use crate::constants::element::{self, VECTOR_BYTES};
pub use crate::constants::product::MAX_SEGMENTS;
use crate::dropout::Dropout;
use crate::matrix::MatrixRef;
use crate::memory::Raw;
use crate::{DType, MatrixMut};
use bytemuck::{Pod, Zeroable};
use std::mem::offset_of;

/// The code that kernels know an element type by.
pub fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => element::DTYPE_F32,
        DType::F16 => element::DTYPE_F16,
        DType::Bf16 => element::DTYPE_BF16,
    }
}

/// A matrix in device memory; strides in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct View {
    /// Address of element (0, 0).
    pub address: u64,
    /// Elements from one row to the next.
    pub row_stride: i64,
    /// Elements from one column to the next.
    pub column_stride: i64,
    /// Rows.
    pub rows: i64,
    /// Columns.
    pub columns: i64,
}

impl View {
    /// A row-major matrix.
    pub fn row_major(address: u64, rows: usize, columns: usize, row_stride: usize) -> Self {
        View {
            address,
            row_stride: row_stride as i64,
            column_stride: 1,
            rows: rows as i64,
            columns: columns as i64,
        }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        View {
            address: self.address,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            rows: self.columns,
            columns: self.rows,
        }
    }

    /// Whether rows lie so that kernels copy them in vectors.
    pub fn has_vector_rows(&self, dtype: DType) -> bool {
        self.column_stride == 1
            && self.address.is_multiple_of(VECTOR_BYTES as u64)
            && self.row_stride % (VECTOR_BYTES / dtype.size()) as i64 == 0
    }
}

impl From<MatrixRef<'_, Raw>> for View {
    fn from(matrix: MatrixRef<'_, Raw>) -> Self {
        let layout = matrix.layout();
        // The stride of a single row is never used; 0 does not spoil its alignment.
        let row_stride = if layout.rows() > 1 { layout.row_stride() } else { 0 };
        View {
            address: matrix.buffer().address,
            row_stride: row_stride as i64,
            column_stride: layout.col_stride() as i64,
            rows: layout.rows() as i64,
            columns: layout.cols() as i64,
        }
    }
}

impl From<&MatrixMut<'_, Raw>> for View {
    fn from(matrix: &MatrixMut<'_, Raw>) -> Self {
        matrix.as_ref().into()
    }
}

/// Dropout as kernels see it. The default keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DropoutMask {
    /// Key of the generator.
    pub seed: u64,
    /// Upper half of its counter.
    pub offset: u64,
    /// 16-bit draws below this are dropped.
    pub threshold: u32,
    /// Zero.
    pub padding: u32,
}

impl From<Option<Dropout>> for DropoutMask {
    fn from(dropout: Option<Dropout>) -> Self {
        dropout.map_or_else(Self::default, |dropout| DropoutMask {
            seed: dropout.seed(),
            offset: dropout.offset(),
            threshold: dropout.threshold(),
            padding: 0,
        })
    }
}

/// How the tiles along the summed dimension are divided among blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Split {
    /// Ranges: slabs of partial sums.
    pub blocks: u32,
    /// Tiles of a range; the last may be shorter.
    pub tiles: u32,
}

/// K1: partial sums of drop(X)·A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ShrinkArguments {
    /// X \[M, K\].
    pub x: View,
    /// Aᵀ \[R, K\].
    pub a: View,
    /// Dropout of X.
    pub mask: DropoutMask,
    /// `f32` \[split.blocks\]\[M\]\[slab_columns\].
    pub slabs: u64,
    /// Address of a matrix with aligned rows that receives X as it is before dropout.
    pub copy: u64,
    /// Elements from one of its rows to the next; 0 for no copy.
    pub copy_stride: i64,
    /// Of K.
    pub split: Split,
    /// Passes over the ranks.
    pub rank_chunks: u32,
    /// `rank_chunks` times the kernel's rank.
    pub slab_columns: u32,
}

impl Arguments for ShrinkArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(ShrinkArguments, x.address),
        offset_of!(ShrinkArguments, a.address),
        offset_of!(ShrinkArguments, mask.seed),
        offset_of!(ShrinkArguments, mask.offset),
        offset_of!(ShrinkArguments, slabs),
        offset_of!(ShrinkArguments, copy),
    ];
}

/// K2: partial sums of dS = dY·Bᵀ, dB = Sᵀ·dY and the column sums of dY. A slab address of 0 means not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackwardDyArguments {
    /// dY \[M, N\].
    pub dy: View,
    /// B \[R, N\]; read for dS.
    pub b: View,
    /// S \[M, R\]; read for dB.
    pub s: View,
    /// `f32` \[column_groups\]\[M\]\[slab_columns\].
    pub ds_slabs: u64,
    /// `f32` \[split.blocks\]\[N\]\[slab_columns\].
    pub db_slabs: u64,
    /// `f32` \[2 · split.blocks\]\[N\].
    pub dbias_slabs: u64,
    /// Address of a matrix with aligned rows that receives dY.
    pub copy: u64,
    /// Elements from one of its rows to the next; 0 for no copy.
    pub copy_stride: i64,
    /// Of M.
    pub split: Split,
    /// Blocks along N.
    pub column_groups: u32,
    /// Column chunks that a block works through.
    pub chunks_per_group: u32,
    /// Passes over the ranks.
    pub rank_chunks: u32,
    /// `rank_chunks` times the kernel's rank.
    pub slab_columns: u32,
}

impl Arguments for BackwardDyArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(BackwardDyArguments, dy.address),
        offset_of!(BackwardDyArguments, b.address),
        offset_of!(BackwardDyArguments, s.address),
        offset_of!(BackwardDyArguments, ds_slabs),
        offset_of!(BackwardDyArguments, db_slabs),
        offset_of!(BackwardDyArguments, dbias_slabs),
        offset_of!(BackwardDyArguments, copy),
    ];
}

/// K3: partial sums of drop(X)ᵀ·dS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackwardAArguments {
    /// X \[M, K\].
    pub x: View,
    /// dS \[M, R\].
    pub ds: View,
    /// Dropout of X.
    pub mask: DropoutMask,
    /// `f32` \[split.blocks\]\[K\]\[slab_columns\].
    pub slabs: u64,
    /// Of M.
    pub split: Split,
    /// Passes over the ranks.
    pub rank_chunks: u32,
    /// `rank_chunks` times the kernel's rank.
    pub slab_columns: u32,
}

impl Arguments for BackwardAArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(BackwardAArguments, x.address),
        offset_of!(BackwardAArguments, ds.address),
        offset_of!(BackwardAArguments, mask.seed),
        offset_of!(BackwardAArguments, mask.offset),
        offset_of!(BackwardAArguments, slabs),
    ];
}

/// K4: out = mask ⊙ scale·(S·B) + bias (+ out).
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct ExpandArguments {
    /// S \[M, R\].
    pub s: View,
    /// B \[R, N\].
    pub b: View,
    /// Result \[M, N\].
    pub out: View,
    /// Dropout of the product.
    pub mask: DropoutMask,
    /// Address of the bias, or 0.
    pub bias: u64,
    /// Elements from one bias to the next.
    pub bias_stride: i64,
    /// Element type of the bias.
    pub bias_dtype: u32,
    /// 1 to add the old contents of the result.
    pub accumulate: u32,
    /// Factor of the product.
    pub scale: f32,
    /// Zero.
    pub padding: u32,
}

impl Arguments for ExpandArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(ExpandArguments, s.address),
        offset_of!(ExpandArguments, b.address),
        offset_of!(ExpandArguments, out.address),
        offset_of!(ExpandArguments, mask.seed),
        offset_of!(ExpandArguments, mask.offset),
        offset_of!(ExpandArguments, bias),
    ];
}

/// Some columns of a sum of slabs, and the matrix that receives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FinalizeSegment {
    /// Address of the element for slab row 0 and `first_column`.
    pub address: u64,
    /// Elements between slab rows.
    pub row_stride: i64,
    /// Elements between slab columns.
    pub column_stride: i64,
    /// First column of the slab.
    pub first_column: u32,
    /// Number of columns.
    pub columns: u32,
    /// Element type of the matrix.
    pub dtype: u32,
    /// 1 to add to the matrix, 0 to replace.
    pub accumulate: u32,
    /// Factor of the sum.
    pub scale: f32,
    /// Zero.
    pub padding: u32,
}

/// Adds slabs in order, scales and rounds.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FinalizeArguments {
    /// `f32` \[slab_count\]\[rows\]\[slab_columns\].
    pub slabs: u64,
    /// Rows of a slab.
    pub rows: i64,
    /// Columns of a slab.
    pub slab_columns: u32,
    /// Number of slabs; the sum of none is zero.
    pub slab_count: u32,
    /// Segments in use.
    pub segment_count: u32,
    /// Sum of their columns.
    pub columns: u32,
    /// Where the sum goes.
    pub segments: [FinalizeSegment; MAX_SEGMENTS],
}

impl Arguments for FinalizeArguments {
    const INPUTS: &'static [usize] = &with_segments(
        offset_of!(FinalizeArguments, slabs),
        offset_of!(FinalizeArguments, segments) + offset_of!(FinalizeSegment, address),
        size_of::<FinalizeSegment>(),
    );
}

/// A place, and those of the same field in all segments.
const fn with_segments(first: usize, field: usize, segment_bytes: usize) -> [usize; 1 + MAX_SEGMENTS] {
    let mut places = [first; 1 + MAX_SEGMENTS];
    let mut segment = 0;
    while segment < MAX_SEGMENTS {
        places[1 + segment] = field + segment * segment_bytes;
        segment += 1;
    }
    places
}

/// A matrix that becomes some rows of the packed matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PackSegment {
    /// The matrix \[r, features\].
    pub source: View,
    /// Its first row in the packed matrix.
    pub first_row: u32,
    /// Its element type.
    pub dtype: u32,
}

/// Brings several adapters' A (or B) into one matrix \[R, features\].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PackArguments {
    /// Address of the packed matrix.
    pub out: u64,
    /// Elements between its rows.
    pub out_stride: i64,
    /// Its element type.
    pub out_dtype: u32,
    /// Segments in use.
    pub segment_count: u32,
    /// What is packed.
    pub segments: [PackSegment; MAX_SEGMENTS],
}

impl Arguments for PackArguments {
    const INPUTS: &'static [usize] = &with_segments(
        offset_of!(PackArguments, out),
        offset_of!(PackArguments, segments) + offset_of!(PackSegment, source.address),
        size_of::<PackSegment>(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// The same sizes stand as assertions in `kernels/skinny/product_arguments.cuh`.
    #[test]
    fn structs_have_the_size_that_kernels_expect() {
        assert_eq!(size_of::<View>(), 40);
        assert_eq!(size_of::<DropoutMask>(), 24);
        assert_eq!(size_of::<ShrinkArguments>(), 144);
        assert_eq!(size_of::<BackwardDyArguments>(), 184);
        assert_eq!(size_of::<BackwardAArguments>(), 128);
        assert_eq!(size_of::<ExpandArguments>(), 176);
        assert_eq!(size_of::<FinalizeSegment>(), 48);
        assert_eq!(size_of::<FinalizeArguments>(), 416);
        assert_eq!(size_of::<PackSegment>(), 48);
        assert_eq!(size_of::<PackArguments>(), 408);
    }
}

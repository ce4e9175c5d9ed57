//! Arguments of the kernels that change or identify weights: `kernels/weights/weight_arguments.cuh`.

use super::Arguments;
use super::products::{View, dtype_code};
pub use crate::constants::weight::{KEEP_BACKUP, KEEP_CODES, KEEP_NOTHING};
use crate::memory::Raw;
use crate::restore::Escape;
use crate::{Adapter, Layout};
use bytemuck::{Pod, Zeroable};
use std::mem::offset_of;

/// Δ = s·A·B, oriented as the weight is stored. The default is no adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DeltaTerm {
    /// \[stored rows, r\].
    pub left: View,
    /// \[r, stored columns\].
    pub right: View,
    /// The factor s.
    pub scale: f32,
    /// Element type of both factors.
    pub dtype: u32,
}

impl DeltaTerm {
    /// The term of an adapter, for a weight that is stored as \[out, in\] where `transposed`.
    pub fn new(adapter: &Adapter<'_, Raw>, transposed: bool) -> Self {
        // Δᵀ = Bᵀ·Aᵀ: the products and the order of their sum stay the same.
        let (left, right) = if transposed { (adapter.b.t(), adapter.a.t()) } else { (adapter.a, adapter.b) };
        DeltaTerm {
            left: left.into(),
            right: right.into(),
            scale: adapter.scale,
            dtype: dtype_code(adapter.dtype()),
        }
    }
}

/// The matrix at this address as it is stored: the contiguous direction runs along columns.
pub fn stored_view(address: u64, layout: Layout) -> View {
    let stored = if layout.is_transposed() { layout.t() } else { layout };
    View::row_major(
        address,
        stored.rows(),
        stored.cols(),
        if stored.rows() > 1 { stored.stride() } else { 0 },
    )
}

/// An [`Escape`] in device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EscapeEntry {
    /// Position in W \[in, out\].
    pub index: u64,
    /// The weight's bits.
    pub bits: u32,
    /// Zero.
    pub padding: u32,
}

impl From<&Escape> for EscapeEntry {
    fn from(escape: &Escape) -> Self {
        EscapeEntry { index: escape.index, bits: escape.bits, padding: 0 }
    }
}

impl From<&EscapeEntry> for Escape {
    fn from(entry: &EscapeEntry) -> Self {
        Escape { index: entry.index, bits: entry.bits }
    }
}

/// What one block measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct MeasuredPart {
    /// Largest |new − exact|.
    pub max_error: f64,
    /// Sum of the squares of the errors.
    pub squares: f64,
    /// Weights in this sum.
    pub measured: u64,
    /// Weights whose bits did not change.
    pub unchanged: u64,
    /// New weights that are infinite or not a number.
    pub non_finite: u64,
}

/// Sums that kernels add to while an update uses a record: see [`fingerprint`](crate::fingerprint).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sums {
    /// Over A.
    pub a: u64,
    /// Over B.
    pub b: u64,
    /// Over W as it was.
    pub w: u64,
    /// Over the codes.
    pub codes: u64,
    /// Codes that mark an escape.
    pub escapes: u64,
    /// Over the weights that the update adds an adapter to.
    pub base: u64,
    /// Over the new weights.
    pub new: u64,
}

/// K6: an update of a weight in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct WeightUpdateArguments {
    /// W as stored.
    pub w: View,
    /// The adapter to take out.
    pub remove: DeltaTerm,
    /// The adapter to put in.
    pub add: DeltaTerm,
    /// Codes or old weights.
    pub kept: u64,
    /// [`EscapeEntry`]s to restore from, sorted by index.
    pub old_escapes: u64,
    /// How many.
    pub old_escape_count: u64,
    /// Room for new [`EscapeEntry`]s.
    pub new_escapes: u64,
    /// For how many.
    pub new_escape_capacity: u64,
    /// The `u64` that new escapes are counted in.
    pub new_escape_count: u64,
    /// A [`MeasuredPart`] for each block, or null.
    pub parts: u64,
    /// `base` and `new` of [`Sums`], or null.
    pub sums: u64,
    /// Key of stochastic rounding.
    pub seed: u64,
    /// Whether W is stored as \[out, in\].
    pub transposed: u32,
    /// Whether rows of W may be copied 16 bytes at a time.
    pub vector_rows: u32,
    /// Likewise for runs of neighbours in `kept`.
    pub vector_kept: u32,
    /// Whether rounding is stochastic.
    pub stochastic: u32,
    /// [`KEEP_NOTHING`], [`KEEP_CODES`] or [`KEEP_BACKUP`].
    pub keep: u32,
    /// Whether to count and collect escapes only.
    pub dry_run: u32,
}

impl Arguments for WeightUpdateArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(WeightUpdateArguments, w.address),
        offset_of!(WeightUpdateArguments, remove.left.address),
        offset_of!(WeightUpdateArguments, remove.right.address),
        offset_of!(WeightUpdateArguments, add.left.address),
        offset_of!(WeightUpdateArguments, add.right.address),
        offset_of!(WeightUpdateArguments, kept),
        offset_of!(WeightUpdateArguments, old_escapes),
        offset_of!(WeightUpdateArguments, new_escapes),
        offset_of!(WeightUpdateArguments, new_escape_count),
        offset_of!(WeightUpdateArguments, parts),
        offset_of!(WeightUpdateArguments, sums),
        offset_of!(WeightUpdateArguments, seed),
    ];
}

/// Δ as a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DeltaArguments {
    /// Where Δ goes, as stored.
    pub target: View,
    /// Its factors.
    pub term: DeltaTerm,
    /// Whether rows may be copied 16 bytes at a time.
    pub vector_rows: u32,
    /// Zero.
    pub padding: u32,
}

impl Arguments for DeltaArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(DeltaArguments, target.address),
        offset_of!(DeltaArguments, term.left.address),
        offset_of!(DeltaArguments, term.right.address),
    ];
}

/// The sum that identifies a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FingerprintArguments {
    /// The matrix.
    pub matrix: View,
    /// The `u64` that is added to.
    pub sum: u64,
    /// Element type.
    pub dtype: u32,
    /// Whether the elements' own bits count; otherwise those of their values in `f32`.
    pub stored_bits: u32,
}

impl Arguments for FingerprintArguments {
    const INPUTS: &'static [usize] =
        &[offset_of!(FingerprintArguments, matrix.address), offset_of!(FingerprintArguments, sum)];
}

/// The sums over a record's codes, or over the old weights that it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CodesArguments {
    /// First byte.
    pub codes: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// The `u64` that their fingerprint is added to.
    pub sum: u64,
    /// The `u64` that the number of codes which mark an escape is added to.
    pub escapes: u64,
}

impl Arguments for CodesArguments {
    const INPUTS: &'static [usize] = &[
        offset_of!(CodesArguments, codes),
        offset_of!(CodesArguments, sum),
        offset_of!(CodesArguments, escapes),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// The same sizes stand as assertions in `kernels/weights/weight_arguments.cuh`.
    #[test]
    fn structs_have_the_size_that_kernels_expect() {
        assert_eq!(size_of::<DeltaTerm>(), 88);
        assert_eq!(size_of::<EscapeEntry>(), 16);
        assert_eq!(size_of::<MeasuredPart>(), 40);
        assert_eq!(size_of::<WeightUpdateArguments>(), 312);
        assert_eq!(size_of::<DeltaArguments>(), 136);
        assert_eq!(size_of::<FingerprintArguments>(), 56);
        assert_eq!(size_of::<CodesArguments>(), 32);
    }

    #[test]
    fn a_transposed_view_is_stored_the_other_way_round() {
        let view = stored_view(64, Layout::strided(5, 7, 9).expect("valid").t());
        assert_eq!((view.rows, view.columns, view.row_stride, view.column_stride), (5, 7, 9, 1));
    }
}

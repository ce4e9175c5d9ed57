//! Steps of weight updates, deltas and fingerprints.

use super::products::{check_rank, launch};
use super::workspace::Workspace;
use crate::constants::element::VECTOR_BYTES;
use crate::constants::weight::{FINGERPRINT_THREADS, THREAD_COLUMNS, THREAD_ROWS, TILE_COLUMNS, TILE_ROWS};
use crate::cuda::arguments::Arguments;
use crate::cuda::arguments::products::{View, dtype_code};
use crate::cuda::arguments::weights::{
    CodesArguments, DeltaArguments, DeltaTerm, EscapeEntry, FingerprintArguments, KEEP_BACKUP, KEEP_CODES,
    KEEP_NOTHING, MeasuredPart, Sums, WeightUpdateArguments, stored_view,
};
use crate::cuda::kernel::{self, Kernel};
use crate::cuda::step::Step;
use crate::memory::Raw;
use crate::ops::{Delta, WeightUpdate};
use crate::restore::RestoreMethod;
use crate::{Adapter, Error, Layout, MatrixRef, Result, Rounding, Shape};
use std::mem::offset_of;

/// Blocks of a fingerprint: enough to fill a card.
const MOST_FINGERPRINT_BLOCKS: usize = 1024;

/// Where the codes of a restore record lie in device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCodes {
    /// First byte.
    pub address: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// Scratch memory of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateMemory {
    /// [`Sums`].
    pub sums: u64,
    /// The `u64` that new escapes are counted in.
    pub new_escape_count: u64,
    /// A [`MeasuredPart`] for each block, or 0.
    pub parts: u64,
    /// [`EscapeEntry`]s to restore from, sorted by index.
    pub old_escapes: u64,
    /// How many [`EscapeEntry`]s there are to restore from.
    pub old_escape_count: usize,
    /// Room for new [`EscapeEntry`]s.
    pub new_escapes: u64,
    /// How many new [`EscapeEntry`]s there is room for.
    pub new_escape_capacity: usize,
}

/// New escape entries that a weight of this shape has room for on the device: more than 1.5% of its weights.
pub fn escape_capacity(shape: Shape) -> usize {
    shape.rows * shape.cols / 64 + 1024
}

/// Lays out the scratch memory of an update from `base`, and says how many bytes it takes.
///
/// # Errors
/// The weight is too large for one launch.
pub fn update_memory(
    op: &WeightUpdate<'_, Raw, RawCodes>,
    method: Option<RestoreMethod>,
    old_escape_count: usize,
    base: u64,
) -> Result<(UpdateMemory, usize)> {
    let blocks = blocks(op.w.layout())? as usize;
    let mut workspace = Workspace::new(base);
    let mut memory = UpdateMemory {
        sums: workspace.take(size_of::<Sums>()),
        new_escape_count: workspace.take(size_of::<u64>()),
        old_escape_count,
        ..UpdateMemory::default()
    };
    if op.report {
        memory.parts = workspace.take(blocks.saturating_mul(size_of::<MeasuredPart>()));
    }
    memory.old_escapes = workspace.take(old_escape_count.saturating_mul(size_of::<EscapeEntry>()));
    if op.add.is_some() && method == Some(RestoreMethod::Codes) {
        memory.new_escape_capacity = escape_capacity(op.w.shape());
        memory.new_escapes =
            workspace.take(memory.new_escape_capacity.saturating_mul(size_of::<EscapeEntry>()));
    }
    Ok((memory, workspace.bytes()?))
}

/// The launch that updates the weight, or, as a dry run, only counts and collects what needs an escape entry.
///
/// # Errors
/// The weight, or a rank, is too large for one launch.
pub fn update(
    op: &WeightUpdate<'_, Raw, RawCodes>,
    record: Option<(RestoreMethod, RawCodes)>,
    memory: &UpdateMemory,
    dry_run: bool,
) -> Result<Step> {
    for adapter in op.remove.iter().chain(&op.add) {
        check_rank(adapter.rank())?;
    }
    let (layout, dtype) = (op.w.layout(), op.w.dtype());
    let transposed = layout.is_transposed();
    let w = stored_view(op.w.as_ref().buffer().address, layout);
    let term = |adapter| DeltaTerm::new(adapter, transposed);
    // A thread's neighbours along a row of W [in, out], which is how records count.
    let run = if transposed { THREAD_ROWS } else { THREAD_COLUMNS };
    let kept = record.map_or(0, |(_, codes)| codes.address);
    let arguments = WeightUpdateArguments {
        w,
        remove: op.remove.as_ref().map_or_else(DeltaTerm::default, term),
        add: op.add.as_ref().map_or_else(DeltaTerm::default, term),
        kept,
        old_escapes: memory.old_escapes,
        old_escape_count: memory.old_escape_count as u64,
        new_escapes: memory.new_escapes,
        new_escape_capacity: memory.new_escape_capacity as u64,
        new_escape_count: memory.new_escape_count,
        parts: if dry_run { 0 } else { memory.parts },
        sums: match record {
            Some(_) if !dry_run => memory.sums + offset_of!(Sums, base) as u64,
            _ => 0,
        },
        seed: match op.rounding {
            Rounding::Nearest => 0,
            Rounding::Stochastic { seed } => seed,
        },
        transposed: transposed.into(),
        vector_rows: w.has_vector_rows(dtype).into(),
        vector_kept: (kept.is_multiple_of(VECTOR_BYTES as u64) && layout.cols().is_multiple_of(run)).into(),
        stochastic: matches!(op.rounding, Rounding::Stochastic { .. }).into(),
        keep: match record {
            None => KEEP_NOTHING,
            Some((RestoreMethod::Codes, _)) => KEEP_CODES,
            Some((RestoreMethod::Backup, _)) => KEEP_BACKUP,
        },
        dry_run: dry_run.into(),
    };
    let kernels = match (op.report, record) {
        (true, _) => kernel::WEIGHT_UPDATE_MEASURED,
        (false, Some(_)) => kernel::WEIGHT_UPDATE_RECORDED,
        (false, None) => kernel::WEIGHT_UPDATE,
    };
    Ok(launch_blocks(kernels.of(dtype), blocks(layout)?, &arguments))
}

/// The launch that writes Δ.
///
/// # Errors
/// Δ, or its rank, is too large for one launch.
pub fn delta(op: &Delta<'_, Raw>) -> Result<Step> {
    check_rank(op.adapter.rank())?;
    let (layout, dtype) = (op.delta.layout(), op.delta.dtype());
    let target = stored_view(op.delta.as_ref().buffer().address, layout);
    let arguments = DeltaArguments {
        target,
        term: DeltaTerm::new(&op.adapter, layout.is_transposed()),
        vector_rows: target.has_vector_rows(dtype).into(),
        padding: 0,
    };
    Ok(launch_blocks(kernel::DELTA.of(dtype), blocks(layout)?, &arguments))
}

/// The launches that add to `a` and `b` of the [`Sums`] at `sums`: the values of an adapter.
pub fn adapter_fingerprint(adapter: &Adapter<'_, Raw>, sums: u64) -> [Step; 2] {
    [(adapter.a, offset_of!(Sums, a)), (adapter.b, offset_of!(Sums, b))]
        .map(|(matrix, offset)| fingerprint(matrix, sums + offset as u64, false))
}

/// The launch that adds to `w` of the [`Sums`] at `sums`: the bits of a weight.
pub fn weight_fingerprint(matrix: MatrixRef<'_, Raw>, sums: u64) -> Step {
    fingerprint(matrix, sums + offset_of!(Sums, w) as u64, true)
}

/// The launch that adds to `codes` and `escapes` of the [`Sums`] at `sums`: the first `bytes` of a record's codes.
pub fn codes_fingerprint(codes: RawCodes, bytes: usize, sums: u64) -> Step {
    let blocks = bytes.div_ceil(8).div_ceil(FINGERPRINT_THREADS).min(MOST_FINGERPRINT_BLOCKS);
    let arguments = CodesArguments {
        codes: codes.address,
        bytes: bytes as u64,
        sum: sums + offset_of!(Sums, codes) as u64,
        escapes: sums + offset_of!(Sums, escapes) as u64,
    };
    launch_blocks(kernel::FINGERPRINT_CODES, blocks as u32, &arguments)
}

fn fingerprint(matrix: MatrixRef<'_, Raw>, sum: u64, stored_bits: bool) -> Step {
    let view = View::from(matrix);
    let per_word = if stored_bits { 8 / matrix.dtype().size() } else { 2 };
    // A block for each row of words, or for each column of words where columns are contiguous.
    let outer = if view.column_stride == 1 { matrix.rows() } else { matrix.cols().div_ceil(per_word) };
    let blocks = outer.min(MOST_FINGERPRINT_BLOCKS);
    let arguments = FingerprintArguments {
        matrix: view,
        sum,
        dtype: dtype_code(matrix.dtype()),
        stored_bits: stored_bits.into(),
    };
    launch_blocks(kernel::FINGERPRINT, blocks as u32, &arguments)
}

/// Blocks of the update kernels for a weight of this layout: one for each tile.
///
/// # Errors
/// There are more than a grid can have.
pub fn blocks(layout: Layout) -> Result<u32> {
    let stored = if layout.is_transposed() { layout.t() } else { layout };
    let blocks = stored.rows().div_ceil(TILE_ROWS) * stored.cols().div_ceil(TILE_COLUMNS);
    u32::try_from(blocks).ok().filter(|blocks| *blocks <= i32::MAX as u32).ok_or_else(|| {
        Error::Unsupported(format!("a weight of shape {}: more tiles than a grid has blocks", layout.shape()))
    })
}

fn launch_blocks(kernel: Kernel, blocks: u32, arguments: &impl Arguments) -> Step {
    launch(kernel, [blocks, 1, 1], 0, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::step::Launch;
    use crate::memory::RawBuffer;
    use crate::{DType, MatrixMut};

    fn buffer(address: u64, dtype: DType) -> RawBuffer {
        RawBuffer { address, len: 1 << 20, dtype }
    }

    fn matrix(address: u64, layout: Layout) -> MatrixRef<'static, Raw> {
        MatrixRef::from_buffer(buffer(address, DType::Bf16), layout).expect("it fits")
    }

    fn merge(w: Layout, address: u64) -> WeightUpdate<'static, Raw, RawCodes> {
        let adapter = Adapter {
            a: matrix(4096, Layout::packed(w.rows(), 4).expect("small")),
            b: matrix(8192, Layout::packed(4, w.cols()).expect("small")),
            scale: 2.0,
        };
        WeightUpdate {
            w: MatrixMut::from_buffer(buffer(address, DType::Bf16), w).expect("it fits"),
            remove: None,
            add: Some(adapter),
            rounding: Rounding::Nearest,
            record: None,
            report: false,
        }
    }

    fn launched(step: Step) -> (Launch, WeightUpdateArguments) {
        let Step::Launch(launch) = step else { unreachable!("updates are launches") };
        let arguments = bytemuck::pod_read_unaligned(&launch.arguments);
        (launch, arguments)
    }

    #[test]
    fn a_transposed_weight_swaps_the_factors() {
        let op = merge(Layout::packed(300, 70).expect("small").t(), 0x1000);
        let (launch, arguments) =
            launched(update(&op, None, &UpdateMemory::default(), false).expect("small"));
        assert_eq!((launch.kernel.symbol(), launch.grid), ("weight_update_bf16", [10, 1, 1]));
        assert_eq!((arguments.w.rows, arguments.w.columns, arguments.transposed), (300, 70, 1));
        assert_eq!(
            (arguments.add.left.address, arguments.add.left.rows, arguments.add.left.columns),
            (8192, 300, 4)
        );
        assert_eq!((arguments.add.right.address, arguments.add.right.columns), (4096, 70));
        assert_eq!(arguments.remove, DeltaTerm::default());
    }

    #[test]
    fn vectors_are_used_where_rows_are_aligned() {
        let vectors = |layout, address| {
            let op = merge(layout, address);
            launched(update(&op, None, &UpdateMemory::default(), false).expect("small")).1.vector_rows
        };
        assert_eq!(vectors(Layout::packed(10, 64).expect("small"), 0x1000), 1);
        assert_eq!(vectors(Layout::packed(10, 64).expect("small"), 0x1002), 0);
        assert_eq!(vectors(Layout::packed(10, 65).expect("small"), 0x1000), 0);
    }

    #[test]
    fn records_and_reports_have_their_kernels() {
        let mut op = merge(Layout::packed(10, 64).expect("small"), 0x1000);
        let codes = RawCodes { address: 0x9000, bytes: 640 };
        let record = Some((RestoreMethod::Codes, codes));
        let (memory, bytes) = update_memory(&op, Some(RestoreMethod::Codes), 3, 0x10000).expect("small");
        assert_eq!((memory.parts, memory.new_escape_capacity), (0, 640 / 64 + 1024));
        assert!(bytes >= 1034 * 16 + 3 * 16);
        let (launch, arguments) = launched(update(&op, record, &memory, true).expect("small"));
        assert_eq!(launch.kernel.symbol(), "weight_update_recorded_bf16");
        assert_eq!((arguments.keep, arguments.dry_run, arguments.vector_kept), (KEEP_CODES, 1, 1));
        op.report = true;
        let (memory, _) = update_memory(&op, None, 0, 0x10000).expect("small");
        assert_ne!(memory.parts, 0);
        let (launch, arguments) = launched(update(&op, None, &memory, false).expect("small"));
        assert_eq!((launch.kernel.symbol(), arguments.keep), ("weight_update_measured_bf16", KEEP_NOTHING));
    }

    #[test]
    fn a_weight_with_too_many_tiles_is_refused() {
        let layout = Layout::strided(1 << 38, 64, 64).expect("valid");
        let error = blocks(layout).expect_err("2^32 tiles");
        assert!(error.to_string().contains("[274877906944, 64]"), "{error}");
    }
}

//! Bytes, instructions and launches of steps.

use super::constants::{self, TileInstructions};
use crate::DType;
use crate::constants::product::TILE;
use crate::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, DropoutMask, ExpandArguments, FinalizeArguments, PackArguments,
    ShrinkArguments, View, dtype_code,
};
use crate::cuda::arguments::weights::{DeltaTerm, KEEP_NOTHING, WeightUpdateArguments};
use crate::cuda::step::{Launch, Operand, Step};

/// Bytes of one partial sum.
const PARTIAL: u64 = size_of::<f32>() as u64;
/// Threads that issue an instruction together.
const WARP: u64 = 32;

/// What steps cost in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that must be read and written: each operand once, partial sums and the library's products included.
    pub bytes: u64,
    /// Instructions that the warps of this crate's kernels issue.
    pub instructions: u64,
    /// Launches, the library's products included.
    pub launches: u64,
}

impl Counts {
    /// Those of the steps of a layer of `dtype`.
    pub fn of(steps: &[Step], dtype: DType) -> Self {
        let add = |sum: Counts, step: &Step| Counts {
            bytes: sum.bytes + bytes(step, dtype).unwrap_or(0),
            instructions: sum.instructions + instructions(step, dtype),
            launches: sum.launches + 1,
        };
        steps.iter().fold(Counts::default(), add)
    }

    /// Whether no count is larger, and one is smaller.
    pub fn is_better_than(&self, other: &Counts) -> bool {
        let pairs = [
            (self.bytes, other.bytes),
            (self.instructions, other.instructions),
            (self.launches, other.launches),
        ];
        pairs.iter().all(|(ours, theirs)| ours <= theirs) && self != other
    }
}

/// Bytes that a step of a layer of `dtype` must read and write; `None` for a kernel that is not counted.
pub fn bytes(step: &Step, dtype: DType) -> Option<u64> {
    match step {
        Step::Launch(launch) => launch_bytes(launch, dtype.size() as u64),
        Step::Zero(zero) => Some(zero.bytes),
        Step::Product(product) => {
            let elements = |operand: Operand| operand.rows * operand.cols;
            let passes = 1 + u64::from(product.accumulate);
            let read = elements(product.a) + elements(product.b);
            Some(product.dtype.size() as u64 * (read + passes * elements(product.c)))
        }
    }
}

fn read<T: bytemuck::Pod>(launch: &Launch) -> T {
    bytemuck::pod_read_unaligned(&launch.arguments)
}

fn launch_bytes(launch: &Launch, size: u64) -> Option<u64> {
    Some(match launch.kernel.operation() {
        "shrink" => {
            let ShrinkArguments { x, a, copy_stride, split, slab_columns, .. } = read(launch);
            let passes = 1 + u64::from(copy_stride != 0);
            size * (passes * elements(x) + elements(a)) + slabs(split.blocks, x.rows, slab_columns)
        }
        "backward_dy" => {
            let arguments: BackwardDyArguments = read(launch);
            let BackwardDyArguments { dy, b, s, copy_stride, split, column_groups, slab_columns, .. } =
                arguments;
            let mut bytes = size * (1 + u64::from(copy_stride != 0)) * elements(dy);
            if arguments.ds_slabs != 0 {
                bytes += size * elements(b) + slabs(column_groups, dy.rows, slab_columns);
            }
            if arguments.db_slabs != 0 {
                bytes += size * elements(s) + slabs(split.blocks, dy.columns, slab_columns);
            }
            if arguments.dbias_slabs != 0 {
                bytes += slabs(2 * split.blocks, dy.columns, 1);
            }
            bytes
        }
        "backward_a" => {
            let BackwardAArguments { x, ds, split, slab_columns, .. } = read(launch);
            size * (elements(x) + elements(ds)) + slabs(split.blocks, x.columns, slab_columns)
        }
        "expand" => {
            let ExpandArguments { s, b, out, accumulate, .. } = read(launch);
            size * (elements(s) + elements(b) + (1 + u64::from(accumulate)) * elements(out))
        }
        "finalize" => {
            let arguments: FinalizeArguments = read(launch);
            let written = arguments.segments[..arguments.segment_count as usize].iter().map(|segment| {
                let passes = 1 + u64::from(segment.accumulate);
                passes * size_of_code(segment.dtype) * arguments.rows as u64 * u64::from(segment.columns)
            });
            slabs(arguments.slab_count, arguments.rows, arguments.columns) + written.sum::<u64>()
        }
        "pack" => {
            let arguments: PackArguments = read(launch);
            let segments = &arguments.segments[..arguments.segment_count as usize];
            let moved = segments.iter().map(|segment| {
                elements(segment.source) * (size_of_code(segment.dtype) + size_of_code(arguments.out_dtype))
            });
            moved.sum()
        }
        "weight_update" => {
            let arguments: WeightUpdateArguments = read(launch);
            let WeightUpdateArguments { w, remove, add, keep, parts, .. } = arguments;
            if keep != KEEP_NOTHING || parts != 0 {
                return None;
            }
            2 * size * elements(w) + term(remove) + term(add)
        }
        _ => return None,
    })
}

/// Of products with adapters, and of what belongs to them.
fn instructions(step: &Step, dtype: DType) -> u64 {
    let Step::Launch(launch) = step else { return 0 };
    let symbol = launch.kernel.symbol();
    let is_exact = symbol.contains("_f32_");
    let tiles = |view: View, ranks: u32, mask: DropoutMask, is_copied: bool, each: TileInstructions| {
        let tiles = |extent: i64| (extent as u64).div_ceil(TILE as u64);
        let sixteens = u64::from(ranks).div_ceil(16);
        let product = each.first + each.further * sixteens.saturating_sub(1);
        let product = if is_exact { each.first + constants::F32_PRODUCT * sixteens } else { product };
        let extra =
            if mask.threshold != 0 { each.drawn } else { 0 } + if is_copied { each.copied } else { 0 };
        let warps = u64::from(launch.kernel.threads()) / WARP;
        let wide = dtype.size() as u64 / 2;
        warps * tiles(view.rows) * tiles(view.columns) * wide * (product + extra)
    };
    let unmasked = DropoutMask::default();
    match launch.kernel.operation() {
        "shrink" => {
            let ShrinkArguments { x, mask, copy_stride, slab_columns, .. } = read(launch);
            tiles(x, slab_columns, mask, copy_stride != 0, constants::SHRINK)
        }
        "backward_dy" => {
            let BackwardDyArguments { dy, copy_stride, slab_columns, .. } = read(launch);
            tiles(dy, slab_columns, unmasked, copy_stride != 0, constants::BACKWARD_DY)
        }
        "backward_a" => {
            let BackwardAArguments { x, mask, slab_columns, .. } = read(launch);
            tiles(x, slab_columns, mask, false, constants::BACKWARD_A)
        }
        "expand" => {
            let ExpandArguments { s, out, mask, .. } = read(launch);
            tiles(out, s.columns as u32, mask, false, constants::EXPAND)
        }
        "finalize" => {
            let arguments: FinalizeArguments = read(launch);
            let threads = arguments.rows as u64 * u64::from(arguments.columns);
            let each = constants::FINALIZE + constants::FINALIZE_SLAB * u64::from(arguments.slab_count);
            threads.div_ceil(WARP) * each
        }
        "pack" => {
            let arguments: PackArguments = read(launch);
            let segments = &arguments.segments[..arguments.segment_count as usize];
            let moved: u64 = segments.iter().map(|segment| elements(segment.source)).sum();
            moved.div_ceil(WARP) * constants::PACK
        }
        _ => 0,
    }
}

fn elements(view: View) -> u64 {
    (view.rows * view.columns) as u64
}

fn slabs(count: u32, rows: i64, columns: u32) -> u64 {
    PARTIAL * u64::from(count) * rows as u64 * u64::from(columns)
}

/// An absent adapter has empty factors.
fn term(term: DeltaTerm) -> u64 {
    size_of_code(term.dtype) * (elements(term.left) + elements(term.right))
}

fn size_of_code(code: u32) -> u64 {
    let dtypes = [DType::F32, DType::F16, DType::Bf16];
    dtypes.iter().find(|&&dtype| dtype_code(dtype) == code).map_or(0, |dtype| dtype.size() as u64)
}

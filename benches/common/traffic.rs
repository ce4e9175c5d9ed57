//! The bytes that a step must move: each operand once, partial sums included.

use lora_kernels::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, ExpandArguments, FinalizeArguments, PackArguments,
    ShrinkArguments, View, dtype_code,
};
use lora_kernels::cuda::arguments::weights::{DeltaTerm, KEEP_NOTHING, WeightUpdateArguments};
use lora_kernels::cuda::step::{Launch, Operand, Step};
use lora_kernels::{DType, Element};

/// Bytes of one partial sum.
const PARTIAL: u64 = size_of::<f32>() as u64;

/// Bytes read and written by a step of a layer of `T`; `None` for a kernel that is not benchmarked.
pub fn bytes<T: Element>(step: &Step) -> Option<u64> {
    match step {
        Step::Launch(launch) => launch_bytes::<T>(launch),
        Step::Zero(zero) => Some(zero.bytes),
        Step::Product(product) => {
            let elements = |operand: Operand| operand.rows * operand.cols;
            let passes = 1 + u64::from(product.accumulate);
            let read = elements(product.a) + elements(product.b);
            Some(product.dtype.size() as u64 * (read + passes * elements(product.c)))
        }
    }
}

fn launch_bytes<T: Element>(launch: &Launch) -> Option<u64> {
    let size = size_of::<T>() as u64;
    let arguments = launch.arguments.as_slice();
    Some(match launch.kernel.operation() {
        "shrink" => {
            let ShrinkArguments { x, a, split, slab_columns, .. } = bytemuck::pod_read_unaligned(arguments);
            size * (elements(x) + elements(a)) + slabs(split.blocks, x.rows, slab_columns)
        }
        "backward_dy" => {
            let arguments: BackwardDyArguments = bytemuck::pod_read_unaligned(arguments);
            let BackwardDyArguments { dy, b, s, split, column_groups, slab_columns, .. } = arguments;
            let mut bytes = size * elements(dy);
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
            let BackwardAArguments { x, ds, split, slab_columns, .. } =
                bytemuck::pod_read_unaligned(arguments);
            size * (elements(x) + elements(ds)) + slabs(split.blocks, x.columns, slab_columns)
        }
        "expand" => {
            let ExpandArguments { s, b, out, accumulate, .. } = bytemuck::pod_read_unaligned(arguments);
            size * (elements(s) + elements(b) + (1 + u64::from(accumulate)) * elements(out))
        }
        "finalize" => {
            let arguments: FinalizeArguments = bytemuck::pod_read_unaligned(arguments);
            let written = arguments.segments[..arguments.segment_count as usize].iter().map(|segment| {
                let passes = 1 + u64::from(segment.accumulate);
                passes * size_of_code(segment.dtype) * arguments.rows as u64 * u64::from(segment.columns)
            });
            slabs(arguments.slab_count, arguments.rows, arguments.columns) + written.sum::<u64>()
        }
        "pack" => {
            let arguments: PackArguments = bytemuck::pod_read_unaligned(arguments);
            let segments = &arguments.segments[..arguments.segment_count as usize];
            let moved = segments.iter().map(|segment| {
                elements(segment.source) * (size_of_code(segment.dtype) + size_of_code(arguments.out_dtype))
            });
            moved.sum()
        }
        "weight_update" => {
            let arguments: WeightUpdateArguments = bytemuck::pod_read_unaligned(arguments);
            let WeightUpdateArguments { w, remove, add, keep, parts, .. } = arguments;
            if keep != KEEP_NOTHING || parts != 0 {
                return None;
            }
            2 * size * elements(w) + term(remove) + term(add)
        }
        _ => return None,
    })
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

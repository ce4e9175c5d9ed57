//! The variants that are compiled, read from `kernels/sweep_variants.cuh`: each line there is one.

use lora_kernels::DType;
use lora_kernels::constants::{product, weight};
use lora_kernels::cuda::kernel::{self, Kernel, ProductKernels};
use lora_kernels::cuda::step::F32Math;
use std::sync::LazyLock;

const LINES: &str = include_str!("../../../kernels/sweep_variants.cuh");

/// How a kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// Rows and columns of a tile of X, and tiles in flight.
    Shrink { rows: usize, columns: usize, stages: usize },
    /// The same.
    BackwardA { rows: usize, columns: usize, stages: usize },
    /// Rows and columns of a tile of the result.
    Expand { rows: usize, columns: usize },
    /// Column tiles of a chunk, and tiles of dY in flight.
    BackwardDy { tiles: usize, stages: usize },
    /// A block's tile of the weight, a thread's part of it, and the values of k that are staged at once.
    WeightUpdate { rows: usize, columns: usize, thread_rows: usize, thread_columns: usize, depth: usize },
}

/// A kernel of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub kernel: Kernel,
    /// Ranks of one pass; 0 where a kernel takes any.
    pub rank: usize,
    pub tiling: Tiling,
    /// Whether the planner launches it, and every build has it.
    pub is_usual: bool,
}

/// The variants that can take the place of a bf16 kernel, itself first; none for a kernel that has none.
pub fn variants_of(kernel: Kernel) -> Vec<Variant> {
    let Some(usual) = usual(kernel) else { return Vec::new() };
    let same_work =
        |variant: &&Variant| variant.kernel.operation() == kernel.operation() && variant.rank == usual.rank;
    std::iter::once(usual).chain(compiled().iter().filter(same_work).copied()).collect()
}

/// All variants of the table, in its order.
pub fn compiled() -> &'static [Variant] {
    static COMPILED: LazyLock<Vec<Variant>> = LazyLock::new(|| LINES.lines().filter_map(parse).collect());
    &COMPILED
}

fn parse(line: &str) -> Option<Variant> {
    let (name, rest) = line.split_once("_VARIANT(")?;
    if name.starts_with('#') {
        return None;
    }
    let numbers = rest.strip_suffix(')').expect("one variant a line").split(',');
    let numbers: Vec<usize> = numbers.map(|number| number.trim().parse().expect("a number")).collect();
    let (usual, name, rank, tiling) = match (name, numbers.as_slice()) {
        ("SHRINK", &[rank, rows, columns, stages]) => (
            kernel::SHRINK.of(DType::Bf16, F32Math::Exact, rank),
            format!("rows{rows}_columns{columns}_stages{stages}"),
            rank,
            Tiling::Shrink { rows, columns, stages },
        ),
        ("BACKWARD_A", &[rank, rows, columns, stages]) => (
            kernel::BACKWARD_A.of(DType::Bf16, F32Math::Exact, rank),
            format!("rows{rows}_columns{columns}_stages{stages}"),
            rank,
            Tiling::BackwardA { rows, columns, stages },
        ),
        ("EXPAND", &[rank, rows, columns]) => (
            kernel::EXPAND.of(DType::Bf16, F32Math::Exact, rank),
            format!("rows{rows}_columns{columns}"),
            rank,
            Tiling::Expand { rows, columns },
        ),
        ("BACKWARD_DY", &[rank, tiles, stages]) => (
            kernel::BACKWARD_DY.of(DType::Bf16, F32Math::Exact, rank),
            format!("tiles{tiles}_stages{stages}"),
            rank,
            Tiling::BackwardDy { tiles, stages },
        ),
        ("WEIGHT_UPDATE", &[rows, columns, thread_rows, thread_columns, depth]) => (
            kernel::WEIGHT_UPDATE.of(DType::Bf16),
            format!("rows{rows}_columns{columns}_thread{thread_rows}x{thread_columns}_depth{depth}"),
            0,
            Tiling::WeightUpdate { rows, columns, thread_rows, thread_columns, depth },
        ),
        _ => panic!("kernels/sweep_variants.cuh: unknown line {line}"),
    };
    // The table is read once.
    let symbol = format!("{}_{name}", usual.symbol()).leak();
    Some(Variant {
        kernel: Kernel::new(usual.file(), symbol, tiling.threads() as u32),
        rank,
        tiling,
        is_usual: false,
    })
}

impl Tiling {
    fn threads(self) -> usize {
        match self {
            Tiling::Shrink { rows, .. } | Tiling::Expand { rows, .. } => product::block_threads(rows),
            Tiling::BackwardA { columns, .. } => product::block_threads(columns),
            Tiling::BackwardDy { .. } => product::THREADS,
            Tiling::WeightUpdate { rows, columns, thread_rows, thread_columns, .. } => {
                weight::weight_threads(rows, columns, thread_rows, thread_columns)
            }
        }
    }
}

/// The planner's bf16 kernel.
fn usual(kernel: Kernel) -> Option<Variant> {
    let (rows, columns, stages) = (product::TILE, product::TILE, product::pipeline_depth(2));
    let of = |kernels: ProductKernels, tiling: &dyn Fn(usize) -> Tiling| {
        let is_this = |rank: &usize| kernels.of(DType::Bf16, F32Math::Exact, *rank) == kernel;
        let rank = kernel::RANKS.into_iter().find(is_this)?;
        Some(Variant { kernel, rank, tiling: tiling(rank), is_usual: true })
    };
    let tiles = |rank| product::chunk_tiles(rank, 2);
    of(kernel::SHRINK, &|_| Tiling::Shrink { rows, columns, stages })
        .or_else(|| of(kernel::BACKWARD_A, &|_| Tiling::BackwardA { rows, columns, stages }))
        .or_else(|| of(kernel::EXPAND, &|_| Tiling::Expand { rows, columns }))
        .or_else(|| of(kernel::BACKWARD_DY, &|rank| Tiling::BackwardDy { tiles: tiles(rank), stages }))
        .or_else(|| (kernel == kernel::WEIGHT_UPDATE.of(DType::Bf16)).then(|| usual_update(kernel)))
}

fn usual_update(kernel: Kernel) -> Variant {
    let tiling = Tiling::WeightUpdate {
        rows: weight::TILE_ROWS,
        columns: weight::TILE_COLUMNS,
        thread_rows: weight::THREAD_ROWS,
        thread_columns: weight::THREAD_COLUMNS,
        depth: weight::TILE_DEPTH,
    };
    Variant { kernel, rank: 0, tiling, is_usual: true }
}

//! The variants that are compiled, read from `kernels/sweep_variants.cuh`: each line there is one.

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its symbol.
    pub kernel: String,
    /// Ranks of one pass; 0 where a kernel takes any.
    pub rank: usize,
    pub tiling: Tiling,
    /// Whether the planner launches it, and every build has it.
    pub is_usual: bool,
}

/// The variants that can take the place of a bf16 kernel, itself first; none for a kernel that has none.
pub fn variants_of(kernel: &str) -> Vec<Variant> {
    let Some(usual) = usual(kernel) else { return Vec::new() };
    let same_work = |variant: &Variant| {
        std::mem::discriminant(&variant.tiling) == std::mem::discriminant(&usual.tiling)
            && variant.rank == usual.rank
    };
    let others: Vec<_> = compiled().into_iter().filter(same_work).collect();
    std::iter::once(usual).chain(others).collect()
}

/// All variants of the table, in its order.
pub fn compiled() -> Vec<Variant> {
    LINES.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Variant> {
    let (name, rest) = line.split_once("_VARIANT(")?;
    if name.starts_with('#') {
        return None;
    }
    let numbers = rest.strip_suffix(')').expect("one variant a line").split(',');
    let numbers: Vec<usize> = numbers.map(|number| number.trim().parse().expect("a number")).collect();
    let (kernel, rank, tiling) = match (name, numbers.as_slice()) {
        ("SHRINK", &[rank, rows, columns, stages]) => (
            format!("shrink_bf16_rank{rank}_rows{rows}_columns{columns}_stages{stages}"),
            rank,
            Tiling::Shrink { rows, columns, stages },
        ),
        ("BACKWARD_A", &[rank, rows, columns, stages]) => (
            format!("backward_a_bf16_rank{rank}_rows{rows}_columns{columns}_stages{stages}"),
            rank,
            Tiling::BackwardA { rows, columns, stages },
        ),
        ("EXPAND", &[rank, rows, columns]) => (
            format!("expand_bf16_rank{rank}_rows{rows}_columns{columns}"),
            rank,
            Tiling::Expand { rows, columns },
        ),
        ("BACKWARD_DY", &[rank, tiles, stages]) => (
            format!("backward_dy_bf16_rank{rank}_tiles{tiles}_stages{stages}"),
            rank,
            Tiling::BackwardDy { tiles, stages },
        ),
        ("WEIGHT_UPDATE", &[rows, columns, thread_rows, thread_columns, depth]) => (
            format!(
                "weight_update_bf16_rows{rows}_columns{columns}_thread{thread_rows}x{thread_columns}_depth{depth}"
            ),
            0,
            Tiling::WeightUpdate { rows, columns, thread_rows, thread_columns, depth },
        ),
        _ => panic!("kernels/sweep_variants.cuh: unknown line {line}"),
    };
    Some(Variant { kernel, rank, tiling, is_usual: false })
}

/// The planner's kernel: its constants are those of `src/cuda/plan`, which a test compares.
fn usual(kernel: &str) -> Option<Variant> {
    let variant = |rank, tiling| Variant { kernel: kernel.to_string(), rank, tiling, is_usual: true };
    if kernel == "weight_update_bf16" {
        let tiling =
            Tiling::WeightUpdate { rows: 64, columns: 64, thread_rows: 4, thread_columns: 4, depth: 32 };
        return Some(variant(0, tiling));
    }
    let (operation, rank) = kernel.split_once("_bf16_rank")?;
    let rank = rank.parse().ok()?;
    let tiling = match operation {
        "shrink" => Tiling::Shrink { rows: 64, columns: 64, stages: 3 },
        "backward_a" => Tiling::BackwardA { rows: 64, columns: 64, stages: 3 },
        "expand" => Tiling::Expand { rows: 64, columns: 64 },
        "backward_dy" => Tiling::BackwardDy { tiles: if rank == 16 { 8 } else { 4 }, stages: 3 },
        _ => return None,
    };
    Some(variant(rank, tiling))
}

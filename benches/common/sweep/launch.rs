//! From the planner's launch of a kernel to launches of a variant: grid, threads, shared memory, and the cuts that are worth
//! trying. Nothing here is compiled into kernels.

use super::table::{Tiling, Variant};
use lora_kernels::constants::product::{
    EXPAND_STAGES, TILE, backward_a_shared_bytes, backward_dy_shared_bytes, expand_shared_bytes,
    shrink_shared_bytes,
};
use lora_kernels::cuda::arguments::Arguments;
use lora_kernels::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, ExpandArguments, ShrinkArguments, Split, View,
};
use lora_kernels::cuda::arguments::weights::WeightUpdateArguments;
use lora_kernels::cuda::plan::{MOST_COLUMN_GROUPS, MOST_SLABS};
use lora_kernels::cuda::step::Launch;

/// Bytes of an element.
const SIZE: usize = 2;
/// Thread blocks that are too few, or far more than a card takes at a time, are not tried.
const BLOCKS: std::ops::RangeInclusive<usize> = 64..=2112;

/// A launch of a variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub variant: Variant,
    pub launch: Launch,
    /// Ranges of the summed dimension; 1 where nothing is summed.
    pub splits: u32,
    /// Groups of columns of `backward_dy`, else 1.
    pub groups: u32,
    /// Whether this is the planner's launch.
    pub is_planned: bool,
    pub outputs: Vec<Output>,
}

/// What a launch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// `f32` \[count\]\[len\], to be added up.
    Slabs { address: u64, count: usize, len: usize },
    /// A packed matrix.
    Matrix { address: u64, bytes: usize },
    /// A packed matrix that is read, too.
    Updated { address: u64, bytes: usize },
}

impl Candidate {
    /// Bytes of partial sums, which `finalize` has to read again.
    pub fn slab_bytes(&self) -> usize {
        let bytes = self.outputs.iter().map(|output| match *output {
            Output::Slabs { count, len, .. } => (4 * count * len).next_multiple_of(256),
            Output::Matrix { .. } | Output::Updated { .. } => 0,
        });
        bytes.sum()
    }
}

/// The launches of a variant that are worth a try, with partial sums at `slabs`; the planner's own first.
pub fn candidates(planned: &Launch, variant: &Variant, slabs: u64) -> Vec<Candidate> {
    match variant.tiling {
        Tiling::Shrink { .. } => shrink(planned, variant, slabs),
        Tiling::BackwardA { .. } => backward_a(planned, variant, slabs),
        Tiling::BackwardDy { .. } => backward_dy(planned, variant, slabs),
        Tiling::Expand { .. } => vec![expand(planned, variant)],
        Tiling::WeightUpdate { .. } => vec![weight_update(planned, variant)],
    }
}

fn shrink(planned: &Launch, variant: &Variant, slabs: u64) -> Vec<Candidate> {
    let Tiling::Shrink { rows, columns, stages } = variant.tiling else { unreachable!("matched before") };
    let arguments: ShrinkArguments = bytemuck::pod_read_unaligned(&planned.arguments);
    let (m, k) = extents(arguments.x);
    let others = m.div_ceil(rows) * arguments.rank_chunks as usize;
    let shared = shrink_shared_bytes(variant.rank, rows, columns, stages, SIZE);
    let make = |split: Split| {
        let arguments = ShrinkArguments { slabs, split, ..arguments };
        let len = m * arguments.slab_columns as usize;
        let output = Output::Slabs { address: slabs, count: split.blocks as usize, len };
        let launch = launch(variant, others * split.blocks as usize, shared, &arguments);
        Candidate { splits: split.blocks, outputs: vec![output], ..candidate(variant, launch) }
    };
    splits(variant, arguments.split, k.div_ceil(columns), others)
        .into_iter()
        .map(|s| planned_if(s, make))
        .collect()
}

fn backward_a(planned: &Launch, variant: &Variant, slabs: u64) -> Vec<Candidate> {
    let Tiling::BackwardA { rows, columns, stages } = variant.tiling else { unreachable!("matched before") };
    let arguments: BackwardAArguments = bytemuck::pod_read_unaligned(&planned.arguments);
    let (m, k) = extents(arguments.x);
    let others = k.div_ceil(columns) * arguments.rank_chunks as usize;
    let shared = backward_a_shared_bytes(variant.rank, rows, columns, stages, SIZE);
    let make = |split: Split| {
        let arguments = BackwardAArguments { slabs, split, ..arguments };
        let len = k * arguments.slab_columns as usize;
        let output = Output::Slabs { address: slabs, count: split.blocks as usize, len };
        let launch = launch(variant, others * split.blocks as usize, shared, &arguments);
        Candidate { splits: split.blocks, outputs: vec![output], ..candidate(variant, launch) }
    };
    splits(variant, arguments.split, m.div_ceil(rows), others)
        .into_iter()
        .map(|s| planned_if(s, make))
        .collect()
}

fn backward_dy(planned: &Launch, variant: &Variant, slabs: u64) -> Vec<Candidate> {
    let Tiling::BackwardDy { tiles, stages } = variant.tiling else { unreachable!("matched before") };
    let arguments: BackwardDyArguments = bytemuck::pod_read_unaligned(&planned.arguments);
    let (m, n) = extents(arguments.dy);
    let rank_chunks = arguments.rank_chunks as usize;
    let chunks = n.div_ceil(tiles * TILE);
    let shared = backward_dy_shared_bytes(variant.rank, tiles, stages, SIZE);
    let make = |chunks_per_group: usize, split: Split| {
        let groups = chunks.div_ceil(chunks_per_group);
        let slab_columns = arguments.slab_columns as usize;
        let mut outputs = Vec::new();
        let mut free = slabs;
        let mut slabs = |wanted: u64, count: usize, len: usize| {
            if wanted == 0 {
                return 0;
            }
            let address = free;
            free += (4 * count * len).next_multiple_of(256) as u64;
            outputs.push(Output::Slabs { address, count, len });
            address
        };
        let split_blocks = split.blocks as usize;
        let arguments = BackwardDyArguments {
            ds_slabs: slabs(arguments.ds_slabs, groups, m * slab_columns),
            db_slabs: slabs(arguments.db_slabs, split_blocks, n * slab_columns),
            dbias_slabs: slabs(arguments.dbias_slabs, 2 * split_blocks, n),
            split,
            column_groups: groups as u32,
            chunks_per_group: chunks_per_group as u32,
            ..arguments
        };
        let launch = launch(variant, rank_chunks * groups * split_blocks, shared, &arguments);
        Candidate { splits: split.blocks, groups: groups as u32, outputs, ..candidate(variant, launch) }
    };
    let row_tiles = m.div_ceil(TILE);
    let mut found: Vec<Candidate> = Vec::new();
    if variant.is_usual {
        let planned = make(arguments.chunks_per_group as usize, arguments.split);
        found.push(Candidate { is_planned: true, ..planned });
    }
    for most_groups in [1, 2, 4].map(|part| MOST_COLUMN_GROUPS / part) {
        let chunks_per_group = chunks.div_ceil(most_groups);
        let others = chunks.div_ceil(chunks_per_group) * rank_chunks;
        for split in cuts(row_tiles, others) {
            let candidate = make(chunks_per_group, split);
            let is_new =
                |other: &Candidate| (other.splits, other.groups) != (candidate.splits, candidate.groups);
            if found.iter().all(is_new) {
                found.push(candidate);
            }
        }
    }
    found
}

fn expand(planned: &Launch, variant: &Variant) -> Candidate {
    let Tiling::Expand { rows, columns } = variant.tiling else { unreachable!("matched before") };
    let arguments: ExpandArguments = bytemuck::pod_read_unaligned(&planned.arguments);
    let (m, n) = extents(arguments.out);
    let rank = variant.rank;
    let stages = (arguments.s.columns as usize).div_ceil(rank).min(EXPAND_STAGES);
    let shared = expand_shared_bytes(rank, rows, columns, stages, SIZE);
    let launch = launch(variant, m.div_ceil(rows) * n.div_ceil(columns), shared, &arguments);
    let output = match arguments.accumulate {
        0 => Output::Matrix { address: arguments.out.address, bytes: m * n * SIZE },
        _ => Output::Updated { address: arguments.out.address, bytes: m * n * SIZE },
    };
    Candidate { outputs: vec![output], is_planned: variant.is_usual, ..candidate(variant, launch) }
}

fn weight_update(planned: &Launch, variant: &Variant) -> Candidate {
    let Tiling::WeightUpdate { rows, columns, .. } = variant.tiling else { unreachable!("matched before") };
    let arguments: WeightUpdateArguments = bytemuck::pod_read_unaligned(&planned.arguments);
    let (stored_rows, stored_columns) = extents(arguments.w);
    let blocks = stored_rows.div_ceil(rows) * stored_columns.div_ceil(columns);
    let launch = launch(variant, blocks, 0, &arguments);
    let output = Output::Updated { address: arguments.w.address, bytes: stored_rows * stored_columns * SIZE };
    Candidate { outputs: vec![output], is_planned: variant.is_usual, ..candidate(variant, launch) }
}

fn candidate(variant: &Variant, launch: Launch) -> Candidate {
    Candidate { variant: *variant, launch, splits: 1, groups: 1, is_planned: false, outputs: Vec::new() }
}

fn launch<A: Arguments>(variant: &Variant, blocks: usize, shared_bytes: usize, arguments: &A) -> Launch {
    let bytes = bytemuck::bytes_of(arguments).to_vec();
    let launch = Launch::new(variant.kernel, [blocks as u32, 1, 1], shared_bytes as u32, bytes);
    Launch { inputs: A::INPUTS, ..launch }
}

fn extents(view: View) -> (usize, usize) {
    (view.rows as usize, view.columns as usize)
}

/// The planner's cut, for its own kernel, and the others; whether each is the planner's.
fn splits(variant: &Variant, planned: Split, tiles: usize, others: usize) -> Vec<(Split, bool)> {
    let planned = variant.is_usual.then_some(planned);
    let others = cuts(tiles, others).into_iter().filter(|&split| Some(split) != planned);
    planned.map(|split| (split, true)).into_iter().chain(others.map(|split| (split, false))).collect()
}

fn planned_if((split, is_planned): (Split, bool), make: impl Fn(Split) -> Candidate) -> Candidate {
    Candidate { is_planned, ..make(split) }
}

/// Cuts of `tiles` into powers of two, given that `others` blocks share each range.
fn cuts(tiles: usize, others: usize) -> Vec<Split> {
    let cut = |ranges: usize| {
        let tiles_each = tiles.div_ceil(ranges).max(1);
        Split { blocks: tiles.div_ceil(tiles_each) as u32, tiles: tiles_each as u32 }
    };
    let powers = || (0..).map(|power| 1 << power).take_while(|&ranges| ranges <= tiles.clamp(1, MOST_SLABS));
    let mut cuts: Vec<Split> =
        powers().filter(|ranges| BLOCKS.contains(&(ranges * others))).map(cut).collect();
    if cuts.is_empty() {
        // A problem too small for the card is cut as far as it goes, one too large not at all.
        let best = if others > *BLOCKS.end() { Some(1) } else { powers().last() };
        cuts.extend(best.map(cut));
    }
    cuts.dedup();
    cuts
}

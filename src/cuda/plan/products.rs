//! Steps that forward and backward share: launches of the skinny product kernels.
//!
//! How the work is split depends on the shapes alone, so that results do not depend on the card.

use super::Settings;
use super::workspace::Workspace;
use crate::constants::element::VECTOR_BYTES;
use crate::constants::product::{
    EXPAND_STAGES, FINALIZE_THREADS, PACK_TILE, TILE, backward_a_shared_bytes, backward_dy_shared_bytes,
    chunk_tiles, expand_shared_bytes, pipeline_depth, shrink_shared_bytes,
};
use crate::cuda::arguments::Arguments;
use crate::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, DropoutMask, ExpandArguments, FinalizeArguments,
    FinalizeSegment, MAX_SEGMENTS, PackArguments, PackSegment, ShrinkArguments, Split, View, dtype_code,
};
use crate::cuda::kernel::{self, Kernel, ProductKernels, RANKS};
use crate::cuda::step::{F32Math, Launch, Step};
use crate::memory::{Raw, RawBuffer};
use crate::{DType, Error, Layout, MatrixRef, Result};

/// Slabs of one sum: more cost more to add than their blocks save.
pub const MOST_SLABS: usize = 64;
/// Column groups of dY, each with a slab of dS: more would cost more memory than their blocks are worth.
pub const MOST_COLUMN_GROUPS: usize = 32;

/// How far a sum is cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Blocks that are aimed at, over all ranges.
    blocks: usize,
    /// Tiles that a range has at least.
    tiles: usize,
}

/// Of products that read X.
const CUT_OF_X: Cut = Cut { blocks: 512, tiles: 2 };
/// Of the product that reads dY, whose blocks need more shared memory and begin by loading B.
const CUT_OF_DY: Cut = Cut { blocks: 256, tiles: 4 };

/// The ranks that a kernel handles in one pass, and how many passes it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RankPasses {
    rank: usize,
    chunks: usize,
}

impl RankPasses {
    fn of(rank: usize) -> Self {
        let [.., largest] = RANKS;
        let per_pass = RANKS.into_iter().find(|&each| rank <= each).unwrap_or(largest);
        RankPasses { rank: per_pass, chunks: rank.div_ceil(per_pass) }
    }

    fn slab_columns(self) -> usize {
        self.rank * self.chunks
    }
}

/// Divides `tiles`, given that `others` blocks share each range.
fn split(tiles: usize, others: usize, cut: Cut) -> Result<Split> {
    let wanted = (cut.blocks / others.max(1)).min(tiles / cut.tiles).clamp(1, MOST_SLABS);
    let tiles_each = tiles.div_ceil(wanted);
    let tiles_32 = u32::try_from(tiles_each).map_err(|_| {
        Error::Unsupported(format!("a product over {tiles} tiles: more than 2^32 for a block"))
    })?;
    Ok(Split { blocks: tiles.div_ceil(tiles_each.max(1)) as u32, tiles: tiles_32 })
}

/// Kernels count ranks in 32 bits.
pub fn check_rank(rank: usize) -> Result<()> {
    /// Room for padding to whole passes.
    const MOST: usize = i32::MAX as usize - 64;
    if rank > MOST {
        return Err(Error::Unsupported(format!("adapters of rank {rank} in all: more than {MOST}")));
    }
    Ok(())
}

/// The product, or what no memory and no grid can hold.
fn product<const N: usize>(factors: [usize; N]) -> usize {
    factors.into_iter().fold(1, usize::saturating_mul)
}

fn blocks(count: usize) -> Result<[u32; 3]> {
    i32::try_from(count).map(|count| [count as u32, 1, 1]).map_err(|_| {
        Error::Unsupported(format!("a product that takes {count} thread blocks: more than a grid can have"))
    })
}

/// Partial sums in `f32`: \[count\]\[rows\]\[columns\].
#[derive(Clone, Copy, Debug)]
pub(super) struct Slabs {
    address: u64,
    count: usize,
    rows: usize,
    columns: usize,
}

impl Slabs {
    fn new(workspace: &mut Workspace, count: usize, rows: usize, columns: usize) -> Self {
        Slabs {
            address: workspace.take(product([count, rows, columns, size_of::<f32>()])),
            count,
            rows,
            columns,
        }
    }

    /// The sum of nothing.
    pub fn none(rows: usize) -> Self {
        Slabs { address: 0, count: 0, rows, columns: 0 }
    }
}

/// A matrix that receives a sum of slabs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    pub view: View,
    pub dtype: DType,
    pub scale: f32,
    pub accumulate: bool,
}

/// Some columns of a sum of slabs, and where they go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub first_column: usize,
    pub columns: usize,
    pub destination: Destination,
}

/// Parts that lie one after the other, each with its columns; those without a destination are left out.
pub(super) fn in_order(destinations: impl IntoIterator<Item = (usize, Option<Destination>)>) -> Vec<Part> {
    let mut next = 0;
    let place = |(columns, destination): (usize, Option<Destination>)| {
        let first_column = next;
        next += columns;
        destination.map(|destination| Part { first_column, columns, destination })
    };
    destinations.into_iter().filter_map(place).collect()
}

/// Elements between the rows of a copy, which is how kernels know that one is wanted. A single row has a stride of 0.
fn copy_stride(copy: Option<View>) -> i64 {
    copy.map_or(0, |copy| copy.row_stride.max(copy.columns))
}

/// Collects steps and hands out scratch memory.
#[derive(Debug)]
pub(super) struct Planner {
    pub steps: Vec<Step>,
    pub workspace: Workspace,
    /// The layer's element type.
    pub dtype: DType,
    settings: Settings,
}

impl Planner {
    pub fn new(dtype: DType, settings: Settings, workspace_base: u64) -> Self {
        Planner { steps: Vec::new(), workspace: Workspace::new(workspace_base), dtype, settings }
    }

    /// How `f32` matrices are multiplied.
    pub fn f32_math(&self) -> F32Math {
        self.settings.f32_math
    }

    pub fn finish(self) -> Result<super::Plan> {
        for step in &self.steps {
            if let Step::Launch(launch) = step {
                launch.check(self.settings.target)?;
            }
        }
        Ok(super::Plan { workspace_bytes: self.workspace.bytes()?, steps: self.steps })
    }

    /// Tiles in flight.
    fn depth(&self) -> usize {
        pipeline_depth(self.dtype.size())
    }

    /// Elements from one row to the next, so that rows are copied in vectors.
    fn aligned_stride(&self, columns: usize) -> usize {
        columns.next_multiple_of(VECTOR_BYTES / self.dtype.size())
    }

    /// A matrix in scratch memory whose rows are aligned.
    pub fn matrix(&mut self, rows: usize, columns: usize) -> View {
        let stride = self.aligned_stride(columns);
        let address = self.workspace.take(product([rows, stride, self.dtype.size()]));
        View::row_major(address, rows, columns, stride)
    }

    /// A matrix in scratch memory whose rows are aligned and have room for `room` columns more; all of it.
    pub fn with_room<'a>(&mut self, rows: usize, columns: usize, room: usize) -> Result<MatrixRef<'a, Raw>> {
        let view = self.matrix(rows, columns.saturating_add(room));
        let layout = Layout::strided(rows, view.columns as usize, view.row_stride as usize)?;
        let buffer = RawBuffer { address: view.address, len: layout.span(), dtype: self.dtype };
        MatrixRef::from_buffer(buffer, layout)
    }

    /// Matrices \[rᵢ, features\] one below the other, in the layer's element type and contiguous along the features:
    /// packed into scratch memory, unless a single one already is so.
    pub fn packed(&mut self, matrices: &[MatrixRef<'_, Raw>]) -> Result<View> {
        let dtype = self.dtype;
        if let [matrix] = matrices {
            let view = View::from(*matrix);
            if matrix.dtype() == dtype && view.has_vector_rows(dtype) {
                return Ok(view);
            }
        }
        self.copied(matrices)
    }

    /// The same, always in scratch memory.
    pub fn copied(&mut self, matrices: &[MatrixRef<'_, Raw>]) -> Result<View> {
        let features = matrices.first().map_or(0, |matrix| matrix.cols());
        let packed = self.matrix(matrices.iter().map(|matrix| matrix.rows()).sum(), features);
        self.pack_into(packed, matrices)?;
        Ok(packed)
    }

    /// Copies matrices \[rᵢ, features\] one below the other into `packed`, whose rows are contiguous.
    pub fn pack_into(&mut self, packed: View, matrices: &[MatrixRef<'_, Raw>]) -> Result<()> {
        let dtype = self.dtype;
        let features = packed.columns as usize;
        let mut first_row = 0;
        for group in matrices.chunks(MAX_SEGMENTS) {
            let mut segments = [PackSegment::default(); MAX_SEGMENTS];
            for (segment, matrix) in segments.iter_mut().zip(group) {
                *segment =
                    PackSegment { source: (*matrix).into(), first_row, dtype: dtype_code(matrix.dtype()) };
                first_row += matrix.rows() as u32;
            }
            let ranks = group.iter().map(|matrix| matrix.rows()).max().unwrap_or(0);
            let grid = [
                blocks(features.div_ceil(PACK_TILE))?[0],
                u32::from(u16::try_from(ranks.div_ceil(PACK_TILE)).map_err(|_| {
                    Error::Unsupported(format!("packing a matrix of {ranks} rows: more than a grid can have"))
                })?),
                group.len() as u32,
            ];
            let arguments = PackArguments {
                out: packed.address,
                out_stride: packed.row_stride,
                out_dtype: dtype_code(dtype),
                segment_count: group.len() as u32,
                segments,
            };
            self.launch(kernel::PACK, grid, 0, &arguments);
        }
        Ok(())
    }

    /// B \[r, out\] as [`Planner::expand`] takes it: in the layer's element type, and contiguous along either side.
    pub fn expandable(&mut self, b: MatrixRef<'_, Raw>) -> Result<View> {
        let dtype = self.dtype;
        let view = View::from(b);
        if b.dtype() == dtype && view.t().has_vector_rows(dtype) {
            return Ok(view);
        }
        self.packed(&[b])
    }

    /// Partial sums of drop(X)·A, given Aᵀ \[R, K\]. Reads X once for ranks up to 64, and copies it to the first columns of `copy`.
    pub fn shrink(&mut self, x: View, a: View, mask: DropoutMask, copy: Option<View>) -> Result<Slabs> {
        let passes = RankPasses::of(a.rows as usize);
        let (rows, features) = (x.rows as usize, x.columns as usize);
        let others = product([rows.div_ceil(TILE), passes.chunks]);
        let split = split(features.div_ceil(TILE), others, CUT_OF_X)?;
        let slabs = Slabs::new(&mut self.workspace, split.blocks as usize, rows, passes.slab_columns());
        let shared = shrink_shared_bytes(passes.rank, TILE, TILE, self.depth(), self.dtype.size());
        let arguments = ShrinkArguments {
            x,
            a,
            mask,
            slabs: slabs.address,
            copy: copy.map_or(0, |copy| copy.address),
            copy_stride: copy_stride(copy),
            split,
            rank_chunks: passes.chunks as u32,
            slab_columns: slabs.columns as u32,
        };
        let grid = blocks(product([others, split.blocks as usize]))?;
        self.launch_product(&kernel::SHRINK, passes, grid, shared, &arguments);
        Ok(slabs)
    }

    /// Partial sums of drop(X)ᵀ·dS. Reads X once for ranks up to 64.
    pub fn backward_a(&mut self, x: View, ds: View, mask: DropoutMask) -> Result<Slabs> {
        let passes = RankPasses::of(ds.columns as usize);
        let (rows, features) = (x.rows as usize, x.columns as usize);
        let others = product([features.div_ceil(TILE), passes.chunks]);
        let split = split(rows.div_ceil(TILE), others, CUT_OF_X)?;
        let slabs = Slabs::new(&mut self.workspace, split.blocks as usize, features, passes.slab_columns());
        let shared = backward_a_shared_bytes(passes.rank, TILE, TILE, self.depth(), self.dtype.size());
        let arguments = BackwardAArguments {
            x,
            ds,
            mask,
            slabs: slabs.address,
            split,
            rank_chunks: passes.chunks as u32,
            slab_columns: slabs.columns as u32,
        };
        let grid = blocks(product([others, split.blocks as usize]))?;
        self.launch_product(&kernel::BACKWARD_A, passes, grid, shared, &arguments);
        Ok(slabs)
    }

    /// Partial sums of what is wanted from dY, which is read once for ranks up to 64.
    pub fn backward_dy(&mut self, dy: View, rank: usize, wanted: WantedFromDy) -> Result<DySlabs> {
        let passes = RankPasses::of(rank);
        let chunk_tiles = chunk_tiles(passes.rank, self.dtype.size());
        let (rows, columns) = (dy.rows as usize, dy.columns as usize);
        let chunks = columns.div_ceil(TILE * chunk_tiles);
        let chunks_per_group = chunks.div_ceil(MOST_COLUMN_GROUPS);
        let groups = chunks.div_ceil(chunks_per_group);
        let split = split(rows.div_ceil(TILE), product([groups, passes.chunks]), CUT_OF_DY)?;
        let split_blocks = split.blocks as usize;

        let slab_columns = passes.slab_columns();
        let ds = wanted.ds.map(|_| Slabs::new(&mut self.workspace, groups, rows, slab_columns));
        let db = wanted.db.map(|_| Slabs::new(&mut self.workspace, split_blocks, columns, slab_columns));
        let dbias = wanted.dbias.then(|| Slabs::new(&mut self.workspace, 2 * split_blocks, columns, 1));

        let shared = backward_dy_shared_bytes(passes.rank, chunk_tiles, self.depth(), self.dtype.size());
        let address = |slabs: Option<Slabs>| slabs.map_or(0, |slabs| slabs.address);
        let arguments = BackwardDyArguments {
            dy,
            b: wanted.ds.unwrap_or_default(),
            s: wanted.db.unwrap_or_default(),
            ds_slabs: address(ds),
            db_slabs: address(db),
            dbias_slabs: address(dbias),
            copy: wanted.copy.map_or(0, |copy| copy.address),
            copy_stride: copy_stride(wanted.copy),
            split,
            column_groups: groups as u32,
            chunks_per_group: chunks_per_group as u32,
            rank_chunks: passes.chunks as u32,
            slab_columns: slab_columns as u32,
        };
        let grid = blocks(product([passes.chunks, groups, split_blocks]))?;
        self.launch_product(&kernel::BACKWARD_DY, passes, grid, shared, &arguments);
        Ok(DySlabs { ds, db, dbias })
    }

    /// out = mask ⊙ scale·(S·B) + bias (+ out). Writes `out` once.
    pub fn expand(&mut self, s: View, b: View, out: View, epilogue: Epilogue<'_>) -> Result<()> {
        let passes = RankPasses::of(s.columns as usize);
        let stages = passes.chunks.min(EXPAND_STAGES);
        let shared = expand_shared_bytes(passes.rank, TILE, TILE, stages, self.dtype.size());
        let bias = epilogue.bias.map(|bias| (View::from(bias), bias.dtype()));
        let arguments = ExpandArguments {
            s,
            b,
            out,
            mask: epilogue.mask,
            bias: bias.map_or(0, |(view, _)| view.address),
            bias_stride: bias.map_or(0, |(view, _)| view.column_stride),
            bias_dtype: bias.map_or(0, |(_, dtype)| dtype_code(dtype)),
            accumulate: epilogue.accumulate.into(),
            scale: epilogue.scale,
            padding: 0,
        };
        let grid = blocks(product([out.rows, out.columns].map(|size| (size as usize).div_ceil(TILE))))?;
        self.launch_product(&kernel::EXPAND, passes, grid, shared, &arguments);
        Ok(())
    }

    /// Adds slabs in order. Parts may have columns in common.
    pub fn finalize(&mut self, slabs: Slabs, parts: &[Part]) -> Result<()> {
        for group in parts.chunks(MAX_SEGMENTS) {
            let mut segments = [FinalizeSegment::default(); MAX_SEGMENTS];
            for (segment, &Part { first_column, columns, destination }) in segments.iter_mut().zip(group) {
                *segment = FinalizeSegment {
                    address: destination.view.address,
                    row_stride: destination.view.row_stride,
                    column_stride: destination.view.column_stride,
                    first_column: first_column as u32,
                    columns: columns as u32,
                    dtype: dtype_code(destination.dtype),
                    accumulate: destination.accumulate.into(),
                    scale: destination.scale,
                    padding: 0,
                };
            }
            let columns: u32 = group.iter().map(|part| part.columns as u32).sum();
            let arguments = FinalizeArguments {
                slabs: slabs.address,
                rows: slabs.rows as i64,
                slab_columns: slabs.columns as u32,
                slab_count: slabs.count as u32,
                segment_count: group.len() as u32,
                columns,
                segments,
            };
            let grid = blocks(product([slabs.rows, columns as usize]).div_ceil(FINALIZE_THREADS))?;
            self.launch(kernel::FINALIZE, grid, 0, &arguments);
        }
        Ok(())
    }

    fn launch_product(
        &mut self,
        kernels: &ProductKernels,
        passes: RankPasses,
        grid: [u32; 3],
        shared_bytes: usize,
        arguments: &impl Arguments,
    ) {
        let kernel = kernels.of(self.dtype, self.settings.f32_math, passes.rank);
        self.launch(kernel, grid, shared_bytes, arguments);
    }

    fn launch(&mut self, kernel: Kernel, grid: [u32; 3], shared_bytes: usize, arguments: &impl Arguments) {
        self.steps.push(launch(kernel, grid, shared_bytes, arguments));
    }
}

/// The launch of a kernel with its argument struct.
pub(super) fn launch<A: Arguments>(
    kernel: Kernel,
    grid: [u32; 3],
    shared_bytes: usize,
    arguments: &A,
) -> Step {
    let bytes = bytemuck::bytes_of(arguments).to_vec();
    Step::Launch(Launch { inputs: A::INPUTS, ..Launch::new(kernel, grid, shared_bytes as u32, bytes) })
}

/// What [`Planner::backward_dy`] computes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WantedFromDy {
    /// B \[R, N\], for dS.
    pub ds: Option<View>,
    /// S \[M, R\], for dB.
    pub db: Option<View>,
    pub dbias: bool,
    /// A matrix whose first columns receive dY.
    pub copy: Option<View>,
}

/// Partial sums of what was wanted: dS over \[M\]\[R\], dB over \[N\]\[R\], dbias over \[N\]\[1\].
#[derive(Clone, Copy, Debug)]
pub(super) struct DySlabs {
    pub ds: Option<Slabs>,
    pub db: Option<Slabs>,
    pub dbias: Option<Slabs>,
}

/// What [`Planner::expand`] does to the product on the way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epilogue<'a> {
    pub mask: DropoutMask,
    pub scale: f32,
    pub bias: Option<MatrixRef<'a, Raw>>,
    pub accumulate: bool,
}

//! Steps that forward and backward share: launches of the skinny product kernels.
//!
//! The tile sizes here are those of `kernels/tile.cuh` and of the kernels themselves. How the work is split depends on
//! the shapes alone, so that results do not depend on the card.

use super::workspace::Workspace;
use crate::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, DropoutMask, ExpandArguments, FinalizeArguments,
    FinalizeSegment, MAX_SEGMENTS, PackArguments, PackSegment, ShrinkArguments, Split, View, dtype_code,
};
use crate::cuda::step::{F32Math, Launch, Operand, Product, Step};
use crate::memory::Raw;
use crate::{DType, Error, MatrixRef, Result};

const TILE: usize = 64;
const THREADS: u32 = 128;
const FINALIZE_THREADS: usize = 256;
const PACK_THREADS: u32 = 256;
const PACK_TILE: usize = 32;

/// How a layer's products are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arithmetic {
    pub dtype: DType,
    pub f32_math: F32Math,
}

impl Arithmetic {
    fn name(self) -> &'static str {
        match (self.dtype, self.f32_math) {
            (DType::F16, _) => "f16",
            (DType::Bf16, _) => "bf16",
            (DType::F32, F32Math::Exact) => "f32",
            (DType::F32, F32Math::Tf32) => "tf32",
        }
    }

    /// Tiles in flight.
    fn stages(self) -> usize {
        if self.dtype.size() == 2 { 3 } else { 2 }
    }

    /// Bytes of a tile in shared memory, each row padded by 16 bytes.
    fn tile_bytes(self, rows: usize, columns: usize) -> usize {
        rows * (columns * self.dtype.size() + 16)
    }

    /// Elements from one row to the next, so that rows are aligned to 16 bytes.
    fn aligned_stride(self, columns: usize) -> usize {
        columns.next_multiple_of(16 / self.dtype.size())
    }
}

/// The ranks that a kernel handles in one pass, and how many passes it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RankPasses {
    rank: usize,
    chunks: usize,
}

impl RankPasses {
    fn of(rank: usize) -> Self {
        let per_pass = match rank {
            0..=16 => 16,
            17..=32 => 32,
            _ => 64,
        };
        RankPasses { rank: per_pass, chunks: rank.div_ceil(per_pass) }
    }

    fn slab_columns(self) -> usize {
        self.rank * self.chunks
    }
}

/// Divides `tiles` so that about `target` blocks run, given that `others` blocks share each range.
fn split(tiles: usize, others: usize, target: usize, least_tiles: usize) -> Result<Split> {
    /// More slabs than this cost more to add than their blocks save.
    const MOST: usize = 64;
    let wanted = (target / others.max(1)).min(tiles / least_tiles).clamp(1, MOST);
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

/// Collects steps and hands out scratch memory.
#[derive(Debug)]
pub(super) struct Planner {
    pub steps: Vec<Step>,
    pub workspace: Workspace,
    pub arithmetic: Arithmetic,
}

impl Planner {
    pub fn new(arithmetic: Arithmetic, workspace_base: u64) -> Self {
        Planner { steps: Vec::new(), workspace: Workspace::new(workspace_base), arithmetic }
    }

    pub fn finish(self) -> Result<super::Plan> {
        Ok(super::Plan { workspace_bytes: self.workspace.bytes()?, steps: self.steps })
    }

    /// A matrix in scratch memory whose rows are aligned.
    pub fn matrix(&mut self, rows: usize, columns: usize) -> View {
        let stride = self.arithmetic.aligned_stride(columns);
        let address = self.workspace.take(product([rows, stride, self.arithmetic.dtype.size()]));
        View::row_major(address, rows, columns, stride)
    }

    /// Matrices \[rᵢ, features\] one below the other, in the layer's element type and contiguous along the features:
    /// packed into scratch memory, unless a single one already is so.
    pub fn packed(&mut self, matrices: &[MatrixRef<'_, Raw>]) -> Result<View> {
        let dtype = self.arithmetic.dtype;
        if let [matrix] = matrices {
            let view = View::from(*matrix);
            if matrix.dtype() == dtype && view.has_vector_rows(dtype) {
                return Ok(view);
            }
        }
        self.copied(matrices)
    }

    /// The same, always in scratch memory.
    fn copied(&mut self, matrices: &[MatrixRef<'_, Raw>]) -> Result<View> {
        let dtype = self.arithmetic.dtype;
        let features = matrices.first().map_or(0, |matrix| matrix.cols());
        let packed = self.matrix(matrices.iter().map(|matrix| matrix.rows()).sum(), features);
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
            self.launch("pack".into(), grid, PACK_THREADS, 0, &arguments);
        }
        Ok(packed)
    }

    /// B \[r, out\] as [`Planner::expand`] takes it: in the layer's element type, and contiguous along either side.
    pub fn expandable(&mut self, b: MatrixRef<'_, Raw>) -> Result<View> {
        let dtype = self.arithmetic.dtype;
        let view = View::from(b);
        if b.dtype() == dtype && view.t().has_vector_rows(dtype) {
            return Ok(view);
        }
        self.packed(&[b])
    }

    /// Partial sums of drop(X)·A, given Aᵀ \[R, K\]. Reads X once for ranks up to 64.
    pub fn shrink(&mut self, x: View, a: View, mask: DropoutMask) -> Result<Slabs> {
        let passes = RankPasses::of(a.rows as usize);
        let (rows, features) = (x.rows as usize, x.columns as usize);
        let others = product([rows.div_ceil(TILE), passes.chunks]);
        let split = split(features.div_ceil(TILE), others, 512, 2)?;
        let slabs = Slabs::new(&mut self.workspace, split.blocks as usize, rows, passes.slab_columns());
        let stage = self.arithmetic.tile_bytes(TILE, TILE) + self.arithmetic.tile_bytes(passes.rank, TILE);
        let arguments = ShrinkArguments {
            x,
            a,
            mask,
            slabs: slabs.address,
            split,
            rank_chunks: passes.chunks as u32,
            slab_columns: slabs.columns as u32,
        };
        let grid = blocks(product([others, split.blocks as usize]))?;
        self.launch_product("shrink", passes, grid, self.arithmetic.stages() * stage, &arguments);
        Ok(slabs)
    }

    /// Partial sums of drop(X)ᵀ·dS. Reads X once for ranks up to 64.
    pub fn backward_a(&mut self, x: View, ds: View, mask: DropoutMask) -> Result<Slabs> {
        let passes = RankPasses::of(ds.columns as usize);
        let (rows, features) = (x.rows as usize, x.columns as usize);
        let others = product([features.div_ceil(TILE), passes.chunks]);
        let split = split(rows.div_ceil(TILE), others, 512, 2)?;
        let slabs = Slabs::new(&mut self.workspace, split.blocks as usize, features, passes.slab_columns());
        let stage = self.arithmetic.tile_bytes(TILE, TILE) + self.arithmetic.tile_bytes(TILE, passes.rank);
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
        self.launch_product("backward_a", passes, grid, self.arithmetic.stages() * stage, &arguments);
        Ok(slabs)
    }

    /// Partial sums of what is wanted from dY, which is read once for ranks up to 64.
    pub fn backward_dy(&mut self, dy: View, rank: usize, wanted: WantedFromDy) -> Result<DySlabs> {
        /// More slabs of dS than this would cost more memory than their blocks are worth.
        const MOST_GROUPS: usize = 32;
        let passes = RankPasses::of(rank);
        let size = self.arithmetic.dtype.size();
        let chunk_tiles = match (passes.rank, size) {
            (16, _) => 8,
            (32, _) | (64, 2) => 4,
            _ => 2,
        };
        let (rows, columns) = (dy.rows as usize, dy.columns as usize);
        let chunks = columns.div_ceil(TILE * chunk_tiles);
        let chunks_per_group = chunks.div_ceil(MOST_GROUPS);
        let groups = chunks.div_ceil(chunks_per_group);
        let split = split(rows.div_ceil(TILE), product([groups, passes.chunks]), 256, 4)?;
        let split_blocks = split.blocks as usize;

        let slab_columns = passes.slab_columns();
        let ds = wanted.ds.map(|_| Slabs::new(&mut self.workspace, groups, rows, slab_columns));
        let db = wanted.db.map(|_| Slabs::new(&mut self.workspace, split_blocks, columns, slab_columns));
        let dbias = wanted.dbias.then(|| Slabs::new(&mut self.workspace, 2 * split_blocks, columns, 1));

        // The padding of S is left out for f32; see the kernel.
        let s_padding = if size == 2 { 16 } else { 0 };
        let stage = self.arithmetic.tile_bytes(TILE, TILE) + TILE * (passes.rank * size + s_padding);
        let shared =
            self.arithmetic.tile_bytes(passes.rank, chunk_tiles * TILE) + self.arithmetic.stages() * stage;
        let address = |slabs: Option<Slabs>| slabs.map_or(0, |slabs| slabs.address);
        let arguments = BackwardDyArguments {
            dy,
            b: wanted.ds.unwrap_or_default(),
            s: wanted.db.unwrap_or_default(),
            ds_slabs: address(ds),
            db_slabs: address(db),
            dbias_slabs: address(dbias),
            split,
            column_groups: groups as u32,
            chunks_per_group: chunks_per_group as u32,
            rank_chunks: passes.chunks as u32,
            slab_columns: slab_columns as u32,
        };
        let grid = blocks(product([passes.chunks, groups, split_blocks]))?;
        self.launch_product("backward_dy", passes, grid, shared, &arguments);
        Ok(DySlabs { ds, db, dbias })
    }

    /// out = mask ⊙ scale·(S·B) + bias (+ out). Writes `out` once.
    pub fn expand(&mut self, s: View, b: View, out: View, epilogue: Epilogue<'_>) -> Result<()> {
        let passes = RankPasses::of(s.columns as usize);
        // S [64, rank], and B as [rank, 64] or [64, rank], of which the second is not smaller.
        let stage = 2 * self.arithmetic.tile_bytes(TILE, passes.rank);
        let product_bytes = TILE * (TILE * 4 + 16);
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
        let shared = (passes.chunks.min(2) * stage).max(product_bytes);
        self.launch_product("expand", passes, grid, shared, &arguments);
        Ok(())
    }

    /// Adds slabs in order. The destinations take the slabs' columns one after the other; `None` skips `columns`.
    pub fn finalize(&mut self, slabs: Slabs, destinations: &[(usize, Option<Destination>)]) -> Result<()> {
        let mut first_column = 0;
        let mut segments = Vec::new();
        for (columns, destination) in destinations {
            if let Some(destination) = destination {
                segments.push(FinalizeSegment {
                    address: destination.view.address,
                    row_stride: destination.view.row_stride,
                    column_stride: destination.view.column_stride,
                    first_column,
                    columns: *columns as u32,
                    dtype: dtype_code(destination.dtype),
                    accumulate: destination.accumulate.into(),
                    scale: destination.scale,
                    padding: 0,
                });
            }
            first_column += *columns as u32;
        }
        for group in segments.chunks(MAX_SEGMENTS) {
            let mut segments = [FinalizeSegment::default(); MAX_SEGMENTS];
            segments[..group.len()].copy_from_slice(group);
            let columns: u32 = group.iter().map(|segment| segment.columns).sum();
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
            self.launch("finalize".into(), grid, FINALIZE_THREADS as u32, 0, &arguments);
        }
        Ok(())
    }

    /// C = A·B or C += A·B by the library.
    pub fn product(
        &mut self,
        a: MatrixRef<'_, Raw>,
        b: MatrixRef<'_, Raw>,
        c: MatrixRef<'_, Raw>,
        accumulate: bool,
    ) -> Result<()> {
        let mark = self.workspace.mark();
        let product = Product {
            a: self.library_operand(a)?,
            b: self.library_operand(b)?,
            c: operand(c),
            dtype: self.arithmetic.dtype,
            accumulate,
            f32_math: self.arithmetic.f32_math,
        };
        self.steps.push(Step::Product(product));
        self.workspace.release(mark);
        Ok(())
    }

    /// A matrix as the library takes it. The library knows no stride of 0, so a repeated row is written out first.
    fn library_operand(&mut self, matrix: MatrixRef<'_, Raw>) -> Result<Operand> {
        let layout = matrix.layout();
        if !layout.is_repeated() {
            return Ok(operand(matrix));
        }
        let stored = if layout.is_transposed() { matrix.t() } else { matrix };
        let copy = self.copied(&[stored])?;
        let (rows, cols) = (layout.rows() as u64, layout.cols() as u64);
        let transposed = layout.is_transposed();
        Ok(Operand { address: copy.address, rows, cols, stride: copy.row_stride as u64, transposed })
    }

    fn launch_product<A: bytemuck::Pod>(
        &mut self,
        operation: &str,
        passes: RankPasses,
        grid: [u32; 3],
        shared_bytes: usize,
        arguments: &A,
    ) {
        let kernel = format!("{operation}_{}_rank{}", self.arithmetic.name(), passes.rank);
        self.launch(kernel, grid, THREADS, shared_bytes, arguments);
    }

    fn launch<A: bytemuck::Pod>(
        &mut self,
        kernel: String,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: usize,
        arguments: &A,
    ) {
        self.steps.push(Step::Launch(Launch {
            kernel,
            grid,
            block: [threads, 1, 1],
            shared_bytes: shared_bytes as u32,
            arguments: bytemuck::bytes_of(arguments).to_vec(),
        }));
    }
}

/// What [`Planner::backward_dy`] computes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WantedFromDy {
    /// B \[R, N\], for dS.
    pub ds: Option<View>,
    /// S \[M, R\], for dB.
    pub db: Option<View>,
    pub dbias: bool,
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

/// A matrix without repeated rows as the library takes it.
fn operand(matrix: MatrixRef<'_, Raw>) -> Operand {
    let layout = matrix.layout();
    Operand {
        address: matrix.buffer().address,
        rows: layout.rows() as u64,
        cols: layout.cols() as u64,
        stride: layout.stride() as u64,
        transposed: layout.is_transposed(),
    }
}

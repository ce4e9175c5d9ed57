// K2: partial sums of dS = dY · Bᵀ, dB = Sᵀ · dY and the column sums of dY, and a copy of dY, from one read of dY.
//
// A block owns a group of column chunks and a range of 64-row tiles. Within a chunk (a few 64-column tiles), the
// gradient of B stays in registers over all rows, and B stays in shared memory. Sums over a chunk's columns, the
// parts of dS, go to the group's slab after each row tile: stored by its first chunk, added to by the others.
#include "skinny/product_kernels.cuh"
#include "skinny/tile.cuh"
#include "skinny/warp_product.cuh"

// Chunks have TILES column tiles; DEPTH tiles of dY are in flight.
template <class Mode, int RANK, int TILES = chunk_tiles(RANK, sizeof(typename Mode::Element)),
          int DEPTH = pipeline_depth(sizeof(typename Mode::Element))>
__device__ __forceinline__ void backward_dy(const BackwardDyArguments& arguments) {
    using T = typename Mode::Element;
    using DyTile = Tile<T, TILE, TILE>;
    using STile = Tile<T, TILE, RANK, s_padding_bytes(sizeof(T)) / sizeof(T)>;
    using BTile = Tile<T, RANK, TILES * TILE>;
    static_assert((BTile::ELEMENTS + DEPTH * (DyTile::ELEMENTS + STile::ELEMENTS)) * sizeof(T) ==
                      backward_dy_shared_bytes(RANK, TILES, DEPTH, sizeof(T)),
                  "as planned");
    LORA_DYNAMIC_SHARED(shared);
    T* const b = reinterpret_cast<T*>(shared);
    T* const dy_stages = b + BTile::ELEMENTS;
    T* const s_stages = dy_stages + DEPTH * DyTile::ELEMENTS;

    // Rank chunks come first, so that further reads of dY hit the L2 cache.
    uint32_t block = blockIdx.x;
    const uint32_t rank_chunk = block % arguments.rank_chunks;
    block /= arguments.rank_chunks;
    const uint32_t group = block % arguments.column_groups;
    const uint32_t split = block / arguments.column_groups;
    const TileRange range = range_of_split(arguments.split, split, arguments.dy.rows);
    const int64_t rank = int64_t(rank_chunk) * RANK;
    const int64_t rows = arguments.dy.rows, columns = arguments.dy.columns;
    const int64_t column_tiles = (columns + TILE - 1) / TILE;
    const int warp_row = threadIdx.x / 32 * 16;
    const bool wants_ds = arguments.ds_slabs != 0;
    const bool wants_db = arguments.db_slabs != 0;
    const bool wants_dbias = arguments.dbias_slabs != 0 && rank_chunk == 0;
    const bool copies = arguments.copy_stride != 0 && rank_chunk == 0;

    for (uint32_t c = 0; c < arguments.chunks_per_group; ++c) {
        const int64_t first_tile = (int64_t(group) * arguments.chunks_per_group + c) * TILES;
        if (first_tile >= column_tiles) break;
        const int tiles = column_tiles - first_tile < TILES ? int(column_tiles - first_tile) : TILES;
        const int64_t first_column = first_tile * TILE;
        Accumulator<RANK> ds, db[TILES];
        float column_sum[TILES];
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            db[j].clear();
            column_sum[j] = 0.0f;
        }
        // All threads are done with the previous chunk.
        __syncthreads();
        if (wants_ds) load_tile<BTile>(b, arguments.b, rank, first_column);
        pipeline<DEPTH>(
            range.count * tiles,
            [&](int stage, int i) {
                const int m = i / tiles, j = i % tiles;
                const int64_t row = (range.first + m) * TILE;
                load_tile<DyTile>(dy_stages + stage * DyTile::ELEMENTS, arguments.dy, row, first_column + j * TILE);
                // DEPTH buffers are enough: row tile m + DEPTH starts at least DEPTH steps after row tile m.
                if (wants_db && j == 0) {
                    load_tile<STile>(s_stages + m % DEPTH * STile::ELEMENTS, arguments.s, row, rank);
                }
            },
            [&](int stage, int i) {
                if (!copies) return;
                store_tile<DyTile>(dy_stages + stage * DyTile::ELEMENTS, arguments.dy, arguments.copy, arguments.copy_stride,
                                   (range.first + i / tiles) * TILE, first_column + i % tiles * TILE);
            },
            [&](int stage, int i) {
                const int m = i / tiles, tile = i % tiles;
                const T* dy = dy_stages + stage * DyTile::ELEMENTS;
                if (wants_ds) {
                    if (tile == 0) ds.clear();
                    warp_product<Mode, TILE, RANK, Stored::DepthInner, Stored::DepthInner>(
                        ds, dy + warp_row * DyTile::PITCH, DyTile::PITCH, b + tile * TILE, BTile::PITCH);
                    if (tile == tiles - 1) {
                        float* slab = reinterpret_cast<float*>(arguments.ds_slabs) +
                                      group * rows * arguments.slab_columns + rank;
                        const int64_t row = (range.first + m) * TILE + warp_row;
                        store_to_slab(ds, slab, row, rows, arguments.slab_columns, c != 0);
                    }
                }
                // Registers cannot be indexed at run time, so every tile of the chunk has its own code.
#pragma unroll
                for (int j = 0; j < TILES; ++j) {
                    if (j != tile) continue;
                    if (wants_db) {
                        warp_product<Mode, TILE, RANK, Stored::DepthOuter, Stored::DepthOuter>(
                            db[j], dy + warp_row, DyTile::PITCH, s_stages + m % DEPTH * STile::ELEMENTS, STile::PITCH);
                    }
                    if (wants_dbias) {
                        const T* column = dy + threadIdx.x / TILE * (TILE / 2) * DyTile::PITCH + threadIdx.x % TILE;
#pragma unroll 8
                        for (int r = 0; r < TILE / 2; ++r) column_sum[j] += to_float(column[r * DyTile::PITCH]);
                    }
                }
            });
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            const int64_t column = first_column + j * TILE;
            if (wants_db) {
                float* slab = reinterpret_cast<float*>(arguments.db_slabs) + split * columns * arguments.slab_columns + rank;
                store_to_slab(db[j], slab, column + warp_row, columns, arguments.slab_columns, false);
            }
            if (wants_dbias && column + threadIdx.x % TILE < columns) {
                // Upper and lower half of the rows of every tile have a slab each.
                float* slab = reinterpret_cast<float*>(arguments.dbias_slabs) + (split * 2 + threadIdx.x / TILE) * columns;
                slab[column + threadIdx.x % TILE] = column_sum[j];
            }
        }
    }
}

LORA_PRODUCT_KERNELS(backward_dy, BackwardDyArguments)

#ifdef LORA_KERNELS_SWEEP
#define BACKWARD_DY_VARIANT(rank, tiles, stages) \
    LORA_KERNEL(backward_dy_bf16_rank##rank##_tiles##tiles##_stages##stages, BackwardDyArguments, THREADS) { backward_dy<Bf16, rank, tiles, stages>(arguments); }
#include "sweep_variants.cuh"
#endif

// K1: partial sums of drop(X) · A for all layers that share X; and a copy of X where that is wanted.
//
// A block sums over a range of column tiles of its rows of X; `finalize` adds the ranges in order and scales.
#include "skinny/product_kernels.cuh"
#include "skinny/tile.cuh"
#include "skinny/warp_product.cuh"

// Tiles of X are ROWS x COLUMNS; DEPTH of them are in flight. A block has two threads for each row.
template <class Mode, int RANK, int ROWS = TILE, int COLUMNS = TILE, int DEPTH = pipeline_depth(sizeof(typename Mode::Element))>
__device__ __forceinline__ void shrink(const ShrinkArguments& arguments) {
    using T = typename Mode::Element;
    constexpr int PADDING = PADDING_BYTES / sizeof(T), BLOCK = block_threads(ROWS);
    using XTile = Tile<T, ROWS, COLUMNS, PADDING, BLOCK>;
    using ATile = Tile<T, RANK, COLUMNS, PADDING, BLOCK>;
    LORA_DYNAMIC_SHARED(shared);
    T* const stages = reinterpret_cast<T*>(shared);
    constexpr int STAGE = XTile::ELEMENTS + ATile::ELEMENTS;
    static_assert(DEPTH * STAGE * sizeof(T) == shrink_shared_bytes(RANK, ROWS, COLUMNS, DEPTH, sizeof(T)), "as planned");

    // Rank chunks come first, so that further reads of X hit the L2 cache.
    uint32_t block = blockIdx.x;
    const uint32_t chunk = block % arguments.rank_chunks;
    block /= arguments.rank_chunks;
    const uint32_t split = block % arguments.split.blocks;
    const int64_t row = int64_t(block / arguments.split.blocks) * ROWS;
    const TileRange range = range_of_split<COLUMNS>(arguments.split, split, arguments.x.columns);
    const int warp_row = threadIdx.x / 32 * 16;
    const bool copies = arguments.copy_stride != 0 && chunk == 0;

    Accumulator<RANK> sum;
    sum.clear();
    pipeline<DEPTH>(
        range.count,
        [&](int stage, int i) {
            const int64_t column = (range.first + i) * COLUMNS;
            load_tile<XTile>(stages + stage * STAGE, arguments.x, row, column);
            load_tile<ATile>(stages + stage * STAGE + XTile::ELEMENTS, arguments.a, int64_t(chunk) * RANK, column);
        },
        [&](int stage, int i) {
            if (copies) {
                store_tile<XTile>(stages + stage * STAGE, arguments.x, arguments.copy, arguments.copy_stride, row,
                                  (range.first + i) * COLUMNS);
            }
            mask_tile<XTile>(stages + stage * STAGE, arguments.x, arguments.mask, row, (range.first + i) * COLUMNS);
        },
        [&](int stage, int) {
            const T* x = stages + stage * STAGE;
            warp_product<Mode, COLUMNS, RANK, Stored::DepthInner, Stored::DepthInner>(
                sum, x + warp_row * XTile::PITCH, XTile::PITCH, x + XTile::ELEMENTS, ATile::PITCH);
        });

    const int64_t rows = arguments.x.rows;
    float* slab = reinterpret_cast<float*>(arguments.slabs) + split * rows * arguments.slab_columns + chunk * RANK;
    store_to_slab(sum, slab, row + warp_row, rows, arguments.slab_columns, false);
}

LORA_PRODUCT_KERNELS(shrink, ShrinkArguments)

#ifdef LORA_KERNELS_SWEEP
#define SHRINK_VARIANT(rank, rows, columns, stages) \
    LORA_KERNEL(shrink_bf16_rank##rank##_rows##rows##_columns##columns##_stages##stages, ShrinkArguments, block_threads(rows)) { shrink<Bf16, rank, rows, columns, stages>(arguments); }
#include "sweep_variants.cuh"
#endif

// K3: partial sums of dA = drop(X)ᵀ · dS for all layers that share X.
//
// A block owns the columns of a tile of X and sums over a range of row tiles; `finalize` adds the ranges in order.
#include "skinny/product_kernels.cuh"
#include "skinny/tile.cuh"
#include "skinny/warp_product.cuh"

// Tiles of X are ROWS x COLUMNS; DEPTH of them are in flight. A block has two threads for each column.
template <class Mode, int RANK, int ROWS = TILE, int COLUMNS = TILE, int DEPTH = pipeline_depth(sizeof(typename Mode::Element))>
__device__ __forceinline__ void backward_a(const BackwardAArguments& arguments) {
    using T = typename Mode::Element;
    constexpr int PADDING = PADDING_BYTES / sizeof(T), BLOCK = block_threads(COLUMNS);
    using XTile = Tile<T, ROWS, COLUMNS, PADDING, BLOCK>;
    using STile = Tile<T, ROWS, RANK, PADDING, BLOCK>;
    LORA_DYNAMIC_SHARED(shared);
    T* const stages = reinterpret_cast<T*>(shared);
    constexpr int STAGE = XTile::ELEMENTS + STile::ELEMENTS;
    static_assert(DEPTH * STAGE * sizeof(T) == backward_a_shared_bytes(RANK, ROWS, COLUMNS, DEPTH, sizeof(T)), "as planned");

    // Rank chunks come first, so that further reads of X hit the L2 cache.
    uint32_t block = blockIdx.x;
    const uint32_t chunk = block % arguments.rank_chunks;
    block /= arguments.rank_chunks;
    const uint32_t split = block % arguments.split.blocks;
    const int64_t column = int64_t(block / arguments.split.blocks) * COLUMNS;
    const TileRange range = range_of_split<ROWS>(arguments.split, split, arguments.x.rows);
    const int warp_column = threadIdx.x / 32 * 16;

    Accumulator<RANK> sum;
    sum.clear();
    pipeline<DEPTH>(
        range.count,
        [&](int stage, int i) {
            const int64_t row = (range.first + i) * ROWS;
            load_tile<XTile>(stages + stage * STAGE, arguments.x, row, column);
            load_tile<STile>(stages + stage * STAGE + XTile::ELEMENTS, arguments.ds, row, int64_t(chunk) * RANK);
        },
        [&](int stage, int i) {
            mask_tile<XTile>(stages + stage * STAGE, arguments.x, arguments.mask, (range.first + i) * ROWS, column);
        },
        [&](int stage, int) {
            const T* x = stages + stage * STAGE;
            warp_product<Mode, ROWS, RANK, Stored::DepthOuter, Stored::DepthOuter>(
                sum, x + warp_column, XTile::PITCH, x + XTile::ELEMENTS, STile::PITCH);
        });

    const int64_t columns = arguments.x.columns;
    float* slab = reinterpret_cast<float*>(arguments.slabs) + split * columns * arguments.slab_columns + chunk * RANK;
    store_to_slab(sum, slab, column + warp_column, columns, arguments.slab_columns, false);
}

LORA_PRODUCT_KERNELS(backward_a, BackwardAArguments)

#ifdef LORA_KERNELS_SWEEP
#define BACKWARD_A_VARIANT(rank, rows, columns, stages) \
    LORA_KERNEL(backward_a_bf16_rank##rank##_rows##rows##_columns##columns##_stages##stages, BackwardAArguments, block_threads(columns)) { backward_a<Bf16, rank, rows, columns, stages>(arguments); }
#include "sweep_variants.cuh"
#endif

// Brings the A (or B) of several adapters together: rows of one matrix [R, features], contiguous along the features,
// in the layer's element type. It also copies any one matrix into another.
#include "element.cuh"
#include "skinny/product_arguments.cuh"

// Block (x, y, z): 32 features, 32 ranks, segment.
LORA_KERNEL(pack, PackArguments, PACK_THREADS) {
    const PackSegment& segment = arguments.segments[blockIdx.z];
    const View& source = segment.source;
    const int64_t feature = int64_t(blockIdx.x) * PACK_TILE, rank = int64_t(blockIdx.y) * PACK_TILE;
    const int inner = threadIdx.x % PACK_TILE, outer = threadIdx.x / PACK_TILE;
    constexpr int STEP = PACK_THREADS / PACK_TILE;
    // What has the type already keeps its bits, NaNs too.
    const bool converts = segment.dtype != arguments.out_dtype;
    // One column more keeps both directions free of bank conflicts.
    __shared__ uint32_t tile[PACK_TILE][PACK_TILE + 1];

    // Neighbouring threads read along the direction in which the source is contiguous, and write along the features.
    const bool by_features = source.column_stride == 1;
    for (int i = outer; i < PACK_TILE; i += STEP) {
        const int r = by_features ? i : inner, f = by_features ? inner : i;
        if (rank + r < source.rows && feature + f < source.columns) {
            const int64_t index = (rank + r) * source.row_stride + (feature + f) * source.column_stride;
            tile[r][f] = converts ? __float_as_uint(load_element(source.address, index, segment.dtype))
                                  : load_bits(source.address, index, segment.dtype);
        }
    }
    __syncthreads();
    for (int i = outer; i < PACK_TILE; i += STEP) {
        if (rank + i < source.rows && feature + inner < source.columns) {
            const int64_t index = (segment.first_row + rank + i) * arguments.out_stride + feature + inner;
            if (converts) {
                store_element(arguments.out, index, arguments.out_dtype, __uint_as_float(tile[i][inner]));
            } else {
                store_bits(arguments.out, index, arguments.out_dtype, tile[i][inner]);
            }
        }
    }
}

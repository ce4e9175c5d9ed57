// A tile of A·B in f32 registers: fused multiply-adds from k = 0 upwards, starting at +0. The order is a contract with
// the CPU, so every multiply-add is spelt out.
#pragma once
#include "element.cuh"
#include "weight_arguments.cuh"

constexpr int WEIGHT_THREADS = 256;
constexpr int TILE_ROWS = 64;
constexpr int TILE_COLUMNS = 64;
constexpr int THREAD_ROWS = 4;
constexpr int THREAD_COLUMNS = 4;
constexpr int COLUMN_THREADS = TILE_COLUMNS / THREAD_COLUMNS;
// Values of k that are staged at once.
constexpr int TILE_DEPTH = 32;

// The rows and columns of this thread: neighbours, in a tile of the weight as it is stored.
struct ThreadPlace {
    int64_t tile_row;
    int64_t tile_column;
    int row;
    int column;
};

__device__ __forceinline__ ThreadPlace thread_place(int64_t columns) {
    const uint32_t tiles = static_cast<uint32_t>((columns + TILE_COLUMNS - 1) / TILE_COLUMNS);
    return {int64_t(blockIdx.x / tiles) * TILE_ROWS, int64_t(blockIdx.x % tiles) * TILE_COLUMNS,
            static_cast<int>(threadIdx.x) / COLUMN_THREADS * THREAD_ROWS,
            static_cast<int>(threadIdx.x) % COLUMN_THREADS * THREAD_COLUMNS};
}

// Factors in f32. Rows are padded against bank conflicts, and keep their alignment to 16 bytes.
struct __align__(16) FactorStage {
    float left[TILE_DEPTH][TILE_ROWS + 4];
    float right[TILE_DEPTH][TILE_COLUMNS + 4];
};

// Stages `depth` values of k from `first_k` on for `size` rows (or columns) from `first` on, with zeros past the end.
template <int size, class Store>
__device__ __forceinline__ void stage_factor(uint64_t address, uint32_t dtype, int64_t stride, int64_t k_stride,
                                             int64_t first, int64_t end, int first_k, int depth, Store store) {
    const bool k_is_contiguous = k_stride == 1;
    for (int n = threadIdx.x; n < size * depth; n += WEIGHT_THREADS) {
        const int k = k_is_contiguous ? n % depth : n / size;
        const int offset = k_is_contiguous ? n / depth : n % size;
        const int64_t position = first + offset;
        const int64_t index = position * stride + (first_k + k) * k_stride;
        store(k, offset, position < end ? load_element(address, index, dtype) : 0.0f);
    }
}

__device__ __forceinline__ void delta_tile(const DeltaTerm& term, const ThreadPlace& place, FactorStage& stage,
                                           float (&sum)[THREAD_ROWS][THREAD_COLUMNS]) {
    const int rank = static_cast<int>(term.left.columns);
    for (int first_k = 0; first_k < rank; first_k += TILE_DEPTH) {
        const int depth = min(TILE_DEPTH, rank - first_k);
        __syncthreads();
        stage_factor<TILE_ROWS>(term.left.address, term.dtype, term.left.row_stride, term.left.column_stride,
                                place.tile_row, term.left.rows, first_k, depth,
                                [&](int k, int row, float value) { stage.left[k][row] = value; });
        stage_factor<TILE_COLUMNS>(term.right.address, term.dtype, term.right.column_stride, term.right.row_stride,
                                   place.tile_column, term.right.columns, first_k, depth, [&](int k, int column, float value) {
                                       stage.right[k][column] = value;
                                   });
        __syncthreads();
        for (int k = 0; k < depth; ++k) {
            const float4 left = *reinterpret_cast<const float4*>(&stage.left[k][place.row]);
            const float4 right = *reinterpret_cast<const float4*>(&stage.right[k][place.column]);
            const float rows[THREAD_ROWS] = {left.x, left.y, left.z, left.w};
            const float columns[THREAD_COLUMNS] = {right.x, right.y, right.z, right.w};
#pragma unroll
            for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
                for (int c = 0; c < THREAD_COLUMNS; ++c) sum[r][c] = __fmaf_rn(rows[r], columns[c], sum[r][c]);
            }
        }
    }
}

// A tile of A·B in f32 registers: fused multiply-adds from k = 0 upwards, starting at +0. The order is a contract with
// the CPU, so every multiply-add is spelt out.
#pragma once
#include "element.cuh"
#include "weights/weight_arguments.cuh"
#include "weights/weight_constants.cuh"

// How a block's tile of a weight is divided among its threads.
template <int TILE_ROWS_, int TILE_COLUMNS_, int THREAD_ROWS_, int THREAD_COLUMNS_, int TILE_DEPTH_>
struct WeightTiling {
    static constexpr int TILE_ROWS = TILE_ROWS_;
    static constexpr int TILE_COLUMNS = TILE_COLUMNS_;
    static constexpr int THREAD_ROWS = THREAD_ROWS_;
    static constexpr int THREAD_COLUMNS = THREAD_COLUMNS_;
    static constexpr int TILE_DEPTH = TILE_DEPTH_;
    static constexpr int COLUMN_THREADS = TILE_COLUMNS / THREAD_COLUMNS;
    static constexpr int THREADS = weight_threads(TILE_ROWS, TILE_COLUMNS, THREAD_ROWS, THREAD_COLUMNS);
    static_assert(THREAD_ROWS % 4 == 0 && THREAD_COLUMNS % 4 == 0, "factors are read by four");
};
using UsualTiling = WeightTiling<TILE_ROWS, TILE_COLUMNS, THREAD_ROWS, THREAD_COLUMNS, TILE_DEPTH>;

// The rows and columns of this thread: neighbours, in a tile of the weight as it is stored.
struct ThreadPlace {
    int64_t tile_row;
    int64_t tile_column;
    int row;
    int column;
};

template <class Tiling = UsualTiling>
__device__ __forceinline__ ThreadPlace thread_place(int64_t columns) {
    const uint32_t tiles = static_cast<uint32_t>((columns + Tiling::TILE_COLUMNS - 1) / Tiling::TILE_COLUMNS);
    return {int64_t(blockIdx.x / tiles) * Tiling::TILE_ROWS, int64_t(blockIdx.x % tiles) * Tiling::TILE_COLUMNS,
            static_cast<int>(threadIdx.x) / Tiling::COLUMN_THREADS * Tiling::THREAD_ROWS,
            static_cast<int>(threadIdx.x) % Tiling::COLUMN_THREADS * Tiling::THREAD_COLUMNS};
}

// Factors in f32. Rows are padded against bank conflicts, and keep their alignment to 16 bytes.
template <class Tiling>
struct __align__(16) StagedFactors {
    float left[Tiling::TILE_DEPTH][Tiling::TILE_ROWS + 4];
    float right[Tiling::TILE_DEPTH][Tiling::TILE_COLUMNS + 4];
};
using FactorStage = StagedFactors<UsualTiling>;

// Stages `depth` values of k from `first_k` on for `size` rows (or columns) from `first` on, with zeros past the end.
template <int size, int threads, class Store>
__device__ __forceinline__ void stage_factor(uint64_t address, uint32_t dtype, int64_t stride, int64_t k_stride,
                                             int64_t first, int64_t end, int first_k, int depth, Store store) {
    const bool k_is_contiguous = k_stride == 1;
    for (int n = threadIdx.x; n < size * depth; n += threads) {
        const int k = k_is_contiguous ? n % depth : n / size;
        const int offset = k_is_contiguous ? n / depth : n % size;
        const int64_t position = first + offset;
        const int64_t index = position * stride + (first_k + k) * k_stride;
        store(k, offset, position < end ? load_element(address, index, dtype) : 0.0f);
    }
}

// `count` floats, aligned to 16 bytes, four at a time.
template <int count>
__device__ __forceinline__ void read_factors(const float* source, float (&target)[count]) {
#pragma unroll
    for (int n = 0; n < count; n += 4) {
        const float4 four = *reinterpret_cast<const float4*>(source + n);
        target[n] = four.x, target[n + 1] = four.y, target[n + 2] = four.z, target[n + 3] = four.w;
    }
}

template <class Tiling>
__device__ __forceinline__ void delta_tile(const DeltaTerm& term, const ThreadPlace& place, StagedFactors<Tiling>& stage,
                                           float (&sum)[Tiling::THREAD_ROWS][Tiling::THREAD_COLUMNS]) {
    constexpr int TILE_DEPTH = Tiling::TILE_DEPTH, THREADS = Tiling::THREADS;
    const int rank = static_cast<int>(term.left.columns);
    for (int first_k = 0; first_k < rank; first_k += TILE_DEPTH) {
        const int depth = min(TILE_DEPTH, rank - first_k);
        __syncthreads();
        stage_factor<Tiling::TILE_ROWS, THREADS>(term.left.address, term.dtype, term.left.row_stride, term.left.column_stride,
                                place.tile_row, term.left.rows, first_k, depth,
                                [&](int k, int row, float value) { stage.left[k][row] = value; });
        stage_factor<Tiling::TILE_COLUMNS, THREADS>(term.right.address, term.dtype, term.right.column_stride, term.right.row_stride,
                                   place.tile_column, term.right.columns, first_k, depth, [&](int k, int column, float value) {
                                       stage.right[k][column] = value;
                                   });
        __syncthreads();
        for (int k = 0; k < depth; ++k) {
            float rows[Tiling::THREAD_ROWS], columns[Tiling::THREAD_COLUMNS];
            read_factors(&stage.left[k][place.row], rows);
            read_factors(&stage.right[k][place.column], columns);
#pragma unroll
            for (int r = 0; r < Tiling::THREAD_ROWS; ++r) {
#pragma unroll
                for (int c = 0; c < Tiling::THREAD_COLUMNS; ++c) sum[r][c] = __fmaf_rn(rows[r], columns[c], sum[r][c]);
            }
        }
    }
}

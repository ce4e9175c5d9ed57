// Tiles in shared memory: how a block, usually of 128 threads, fills, masks and walks them.
#pragma once
#include "arch/cp_async.cuh"
#include "element.cuh"
#include "philox.cuh"
#include "skinny/product_arguments.cuh"
#include "skinny/product_constants.cuh"

// A tile of ROWS x COLUMNS elements, stored row by row, each row with some padding after it.
template <class T, int ROWS_, int COLUMNS_, int PADDING = PADDING_BYTES / sizeof(T), int BLOCK_ = THREADS>
struct Tile {
    using Element = T;
    static constexpr int ROWS = ROWS_;
    static constexpr int COLUMNS = COLUMNS_;
    static constexpr int BLOCK = BLOCK_;
    static constexpr int PITCH = COLUMNS + PADDING;
    static constexpr int ELEMENTS = ROWS * PITCH;
    static constexpr int UNITS = ROWS * COLUMNS / UNIT;
    // In a small tile, the first threads have one unit each.
    static constexpr int UNITS_PER_THREAD = UNITS < BLOCK ? 1 : UNITS / BLOCK;
    static_assert(UNITS < BLOCK || UNITS % BLOCK == 0, "every thread copies the same number of units");

    static __device__ __forceinline__ bool has_unit() { return UNITS >= BLOCK || int(threadIdx.x) < UNITS; }
};

// Whether rows can be copied in vectors of 16 bytes.
template <class T>
__device__ __forceinline__ bool has_vector_rows(const View& view) {
    return view.column_stride == 1 && view.address % VECTOR_BYTES == 0 && view.row_stride * int64_t(sizeof(T)) % VECTOR_BYTES == 0;
}

__device__ __forceinline__ View transposed(const View& view) {
    return {view.address, view.column_stride, view.row_stride, view.columns, view.rows};
}

// Eight neighbouring columns of one row of a tile.
struct Unit {
    int row;
    int column;
};

// The thread's i-th unit. Neighbouring threads follow the direction in which the source is contiguous.
template <class Shape>
__device__ __forceinline__ Unit unit_of_thread(int i, const View& view) {
    const int index = threadIdx.x + i * Shape::BLOCK;
    if (view.column_stride != 1) return {index % Shape::ROWS, index / Shape::ROWS * UNIT};
    constexpr int PER_ROW = Shape::COLUMNS / UNIT;
    return {index / PER_ROW, index % PER_ROW * UNIT};
}

// How many of `width` rows (or columns) from `start` lie inside a view that has `length` of them.
__device__ __forceinline__ int count_inside(int64_t length, int64_t start, int width) {
    const int64_t left = length - start;
    return left < 0 ? 0 : left < width ? int(left) : width;
}

// Copies the tile at (row, column) of `view`; what lies outside the view becomes zero. The copies belong to the
// thread's current cp_async group.
template <class Shape>
__device__ __forceinline__ void load_tile(typename Shape::Element* tile, const View& view, int64_t row, int64_t column) {
    using T = typename Shape::Element;
    if (!Shape::has_unit()) return;
    const T* const base = reinterpret_cast<const T*>(view.address);
    if (has_vector_rows<T>(view)) {
        // All units of a thread lie below its first.
        const Unit first = unit_of_thread<Shape>(0, view);
        constexpr int ROW_STEP = Shape::BLOCK / (Shape::COLUMNS / UNIT);
        constexpr int VECTOR = VECTOR_BYTES / sizeof(T);
        const int rows = count_inside(view.rows, row + first.row, Shape::ROWS);
        const int columns = count_inside(view.columns, column + first.column, UNIT);
        const T* source = base + (row + first.row) * view.row_stride + column + first.column;
        T* target = tile + first.row * Shape::PITCH + first.column;
#pragma unroll
        for (int i = 0; i < Shape::UNITS_PER_THREAD; ++i) {
#pragma unroll
            for (int part = 0; part < UNIT; part += VECTOR) {
                const int inside = i * ROW_STEP < rows ? columns - part : 0;
                const int bytes = (inside < 0 ? 0 : inside < VECTOR ? inside : VECTOR) * int(sizeof(T));
                cp_async_16(target + part, bytes > 0 ? source + part : base, bytes);
            }
            source += ROW_STEP * view.row_stride;
            target += ROW_STEP * Shape::PITCH;
        }
        return;
    }
#pragma unroll 1
    for (int i = 0; i < Shape::UNITS_PER_THREAD; ++i) {
        const Unit unit = unit_of_thread<Shape>(i, view);
        const int64_t r = row + unit.row, c = column + unit.column;
        const int inside = r < view.rows ? count_inside(view.columns, c, UNIT) : 0;
        const T* source = base + r * view.row_stride + c * view.column_stride;
        T* target = tile + unit.row * Shape::PITCH + unit.column;
#pragma unroll
        for (int j = 0; j < UNIT; ++j) {
            target[j] = j < inside ? source[j * view.column_stride] : from_float<T>(0.0f);
        }
    }
}

// Stores the tile at (row, column) of `view` into a matrix of the same shape whose rows are aligned. Each thread stores what it
// copied itself, so its own cp_async_wait is enough before.
template <class Shape>
__device__ __forceinline__ void store_tile(const typename Shape::Element* tile, const View& view, uint64_t address,
                                           int64_t stride, int64_t row, int64_t column) {
    using T = typename Shape::Element;
    constexpr int VECTOR = VECTOR_BYTES / sizeof(T);
    static_assert(Shape::UNITS >= Shape::BLOCK, "every thread has units");
    // Not unrolled: registers are few in backward_dy.
#pragma unroll 1
    for (int i = 0; i < Shape::UNITS_PER_THREAD; ++i) {
        const Unit unit = unit_of_thread<Shape>(i, view);
        const int64_t r = row + unit.row;
        const int64_t c = column + unit.column;
        const int inside = r < view.rows ? count_inside(view.columns, c, UNIT) : 0;
        const T* source = tile + unit.row * Shape::PITCH + unit.column;
        T* target = reinterpret_cast<T*>(address) + r * stride + c;
        if (inside == UNIT) {
#pragma unroll
            for (int part = 0; part < UNIT; part += VECTOR) {
                *reinterpret_cast<uint4*>(target + part) = *reinterpret_cast<const uint4*>(source + part);
            }
        } else {
#pragma unroll 1
            for (int j = 0; j < inside; ++j) target[j] = source[j];
        }
    }
}

// The draws of eight neighbouring columns, two a word, the lower column in the low half. See src/dropout.rs.
__device__ __forceinline__ PhiloxWords dropout_draws(const DropoutMask& mask, int64_t row, int64_t column) {
    const PhiloxWords counter = {{static_cast<uint32_t>(column / UNIT), static_cast<uint32_t>(row),
                                  static_cast<uint32_t>(mask.offset), static_cast<uint32_t>(mask.offset >> 32)}};
    return philox4x32_10(counter, static_cast<uint32_t>(mask.seed), static_cast<uint32_t>(mask.seed >> 32));
}

// All ones where the draw of the low (high) half of a word keeps its element.
__device__ __forceinline__ uint32_t keeps_low(uint32_t draws, uint32_t threshold) {
    return (draws & 0xFFFFu) >= threshold ? 0xFFFFFFFFu : 0;
}
__device__ __forceinline__ uint32_t keeps_high(uint32_t draws, uint32_t threshold) {
    return (draws >> 16) >= threshold ? 0xFFFFFFFFu : 0;
}

// Zeroes what dropout drops from the tile at (row, column). Each thread masks what it copied itself, so its own
// cp_async_wait is enough before, and the caller's __syncthreads publishes the result.
template <class Shape>
__device__ __forceinline__ void mask_tile(
    typename Shape::Element* tile, const View& view, const DropoutMask& mask, int64_t row, int64_t column) {
    if (mask.threshold == 0) return;
    static_assert(Shape::UNITS >= Shape::BLOCK, "every thread has units");
#pragma unroll
    for (int i = 0; i < Shape::UNITS_PER_THREAD; ++i) {
        const Unit unit = unit_of_thread<Shape>(i, view);
        const PhiloxWords draws = dropout_draws(mask, row + unit.row, column + unit.column);
        uint4* target = reinterpret_cast<uint4*>(tile + unit.row * Shape::PITCH + unit.column);
        uint32_t low[4], high[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            low[j] = keeps_low(draws.word[j], mask.threshold);
            high[j] = keeps_high(draws.word[j], mask.threshold);
        }
        uint4 vector = target[0];
        if constexpr (sizeof(typename Shape::Element) == 2) {
            vector.x &= (low[0] & 0xFFFFu) | (high[0] & 0xFFFF0000u);
            vector.y &= (low[1] & 0xFFFFu) | (high[1] & 0xFFFF0000u);
            vector.z &= (low[2] & 0xFFFFu) | (high[2] & 0xFFFF0000u);
            vector.w &= (low[3] & 0xFFFFu) | (high[3] & 0xFFFF0000u);
        } else {
            vector.x &= low[0];
            vector.y &= high[0];
            vector.z &= low[1];
            vector.w &= high[1];
            uint4 second = target[1];
            second.x &= low[2];
            second.y &= high[2];
            second.z &= low[3];
            second.w &= high[3];
            target[1] = second;
        }
        target[0] = vector;
    }
}

// Runs compute(stage, i) for i = 0 … count - 1, with the copies of load(stage, i) for up to DEPTH - 1 further tiles
// under way. prepare(stage, i) may touch what this thread copied itself, before the other threads see it.
template <int DEPTH, class Load, class Prepare, class Compute>
__device__ __forceinline__ void pipeline(int count, Load load, Prepare prepare, Compute compute) {
#pragma unroll
    for (int i = 0; i < DEPTH - 1; ++i) {
        if (i < count) load(i, i);
        cp_async_commit();
    }
    int stage = 0;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        cp_async_wait<DEPTH - 2>();
        prepare(stage, i);
        // Publishes tile i, and tells that all threads are done with tile i - 1, whose stage is refilled next.
        __syncthreads();
        const int ahead = i + DEPTH - 1;
        if (ahead < count) load(stage == 0 ? DEPTH - 1 : stage - 1, ahead);
        cp_async_commit();
        compute(stage, i);
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
    }
}

// The tiles [first, first + count) of a split, each WIDTH wide.
struct TileRange {
    int64_t first;
    int count;
};

template <int WIDTH = TILE>
__device__ __forceinline__ TileRange range_of_split(const Split& split, uint32_t block, int64_t length) {
    const int64_t total = (length + WIDTH - 1) / WIDTH;
    const int64_t first = int64_t(block) * split.tiles;
    return {first, count_inside(total, first, int(split.tiles))};
}

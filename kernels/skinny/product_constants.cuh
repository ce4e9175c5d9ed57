// Sizes that the skinny products and their planner agree on; read by build.rs as element_constants.cuh says.
#pragma once
#include "arch/kernel.cuh"

// Rows and columns of a tile of the large operand.
constexpr int TILE = 64;
// Threads of a block whose tile has this many rows (columns, where those are what warps share): a warp owns 16.
__host__ __device__ constexpr int block_threads(int rows) { return rows / 16 * 32; }
// Threads of a block.
constexpr int THREADS = block_threads(TILE);
// Columns that one thread copies at a time, and that share one call of the random generator.
constexpr int UNIT = 8;
// Tiles in flight.
__host__ __device__ constexpr int pipeline_depth(int element_bytes) { return element_bytes == 2 ? 3 : 2; }

// Bytes after each row of a tile in shared memory: they spread the rows that ldmatrix reads together over all banks.
constexpr int PADDING_BYTES = 16;
// Bytes of a tile in shared memory.
__host__ __device__ constexpr int tile_bytes(int rows, int columns, int element_bytes) {
    return rows * (columns * element_bytes + PADDING_BYTES);
}
// The larger one.
__host__ __device__ constexpr int larger(int left, int right) { return left > right ? left : right; }

// Shared memory of shrink: in each stage a tile of X, and the same columns of A.
__host__ __device__ constexpr int shrink_shared_bytes(int rank, int rows, int columns, int depth, int element_bytes) {
    return depth * (tile_bytes(rows, columns, element_bytes) + tile_bytes(rank, columns, element_bytes));
}
// Shared memory of backward_a: in each stage a tile of X, and the same rows of dS.
__host__ __device__ constexpr int backward_a_shared_bytes(int rank, int rows, int columns, int depth, int element_bytes) {
    return depth * (tile_bytes(rows, columns, element_bytes) + tile_bytes(rows, rank, element_bytes));
}

// Column tiles of a chunk of backward_dy: as many as registers (dB) and shared memory (B) allow.
__host__ __device__ constexpr int chunk_tiles(int rank, int element_bytes) {
    return rank == 16 ? 8 : rank == 32 || element_bytes == 2 ? 4 : 2;
}
// Bytes after each row of S in backward_dy. None for f32: its products read S without ldmatrix, and the largest rank just fits
// 99 KiB so.
__host__ __device__ constexpr int s_padding_bytes(int element_bytes) { return element_bytes == 2 ? PADDING_BYTES : 0; }
// Shared memory of backward_dy: a chunk of B, and in each stage a tile of dY and its rows of S.
__host__ __device__ constexpr int backward_dy_shared_bytes(int rank, int tiles, int depth, int element_bytes) {
    return tile_bytes(rank, tiles * TILE, element_bytes) +
           depth * (tile_bytes(TILE, TILE, element_bytes) + TILE * (rank * element_bytes + s_padding_bytes(element_bytes)));
}

// Stages of expand: rank chunks in flight.
constexpr int EXPAND_STAGES = 2;
// Shared memory of expand with this many stages of S and B, B as [rank, columns] or [columns, rank]; then the product in f32 in
// their place.
__host__ __device__ constexpr int expand_shared_bytes(int rank, int rows, int columns, int stages, int element_bytes) {
    return larger(stages * (tile_bytes(rows, rank, element_bytes) +
                            larger(tile_bytes(rank, columns, element_bytes), tile_bytes(columns, rank, element_bytes))),
                  tile_bytes(rows, columns, 4));
}

// Threads of a block of finalize, each of which adds up one element.
constexpr int FINALIZE_THREADS = 256;
// Threads of a block of pack.
constexpr int PACK_THREADS = 256;
// Rows and columns that a block of pack brings over.
constexpr int PACK_TILE = 32;
// Matrices that one launch of finalize or pack serves.
constexpr int MAX_SEGMENTS = 8;

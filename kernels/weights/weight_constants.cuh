// Sizes and codes that the kernels on weights and their planner agree on; read by build.rs as element_constants.cuh says.
#pragma once
#include "arch/kernel.cuh"

// Rows of W, as stored, that one block works on.
constexpr int TILE_ROWS = 64;
// Columns of W, as stored, that one block works on.
constexpr int TILE_COLUMNS = 64;
// Neighbouring rows of one thread.
constexpr int THREAD_ROWS = 4;
// Neighbouring columns of one thread.
constexpr int THREAD_COLUMNS = 4;
// Values of k that are staged at once.
constexpr int TILE_DEPTH = 32;
// Threads of a block with this tile and these parts of it.
__host__ __device__ constexpr int weight_threads(int tile_rows, int tile_columns, int thread_rows, int thread_columns) {
    return tile_rows / thread_rows * (tile_columns / thread_columns);
}
// Threads of a block.
constexpr int WEIGHT_THREADS = weight_threads(TILE_ROWS, TILE_COLUMNS, THREAD_ROWS, THREAD_COLUMNS);
// Threads of a block of the fingerprints.
constexpr int FINGERPRINT_THREADS = 256;

// The largest number of steps that a code of a record says, in either direction.
constexpr int32_t MAX_CODE = 127;
// The code that marks an escape.
constexpr int32_t ESCAPE_CODE = -128;

// No record.
constexpr uint32_t KEEP_NOTHING = 0;
// A record of codes.
constexpr uint32_t KEEP_CODES = 1;
// A record of the old weights.
constexpr uint32_t KEEP_BACKUP = 2;

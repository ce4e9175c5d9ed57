// Variants of the kernels that benches/sweep.rs times: compiled with LORA_KERNELS_SWEEP only. A line here is all that a new one
// takes: the kernels' files turn lines into kernels, and benches/common/sweep/table.rs reads them and derives each launch.
// No include guard: the file that includes this defines the macro of its own kernel.

#ifndef SHRINK_VARIANT
#define SHRINK_VARIANT(rank, rows, columns, stages)
#endif
#ifndef BACKWARD_A_VARIANT
#define BACKWARD_A_VARIANT(rank, rows, columns, stages)
#endif
#ifndef EXPAND_VARIANT
#define EXPAND_VARIANT(rank, rows, columns)
#endif
#ifndef BACKWARD_DY_VARIANT
#define BACKWARD_DY_VARIANT(rank, tiles, stages)
#endif
#ifndef WEIGHT_UPDATE_VARIANT
#define WEIGHT_UPDATE_VARIANT(tile_rows, tile_columns, thread_rows, thread_columns, depth)
#endif

// Rows and columns of a tile of X, and tiles in flight.
SHRINK_VARIANT(16, 64, 64, 2)
SHRINK_VARIANT(16, 64, 64, 4)
SHRINK_VARIANT(16, 64, 64, 6)
SHRINK_VARIANT(16, 64, 128, 2)
SHRINK_VARIANT(16, 64, 128, 3)
SHRINK_VARIANT(16, 32, 64, 4)
SHRINK_VARIANT(16, 32, 128, 3)
SHRINK_VARIANT(16, 128, 64, 3)
SHRINK_VARIANT(16, 128, 64, 4)
SHRINK_VARIANT(64, 64, 64, 2)
SHRINK_VARIANT(64, 64, 64, 4)
SHRINK_VARIANT(64, 64, 128, 2)
SHRINK_VARIANT(64, 128, 64, 3)
SHRINK_VARIANT(64, 128, 64, 4)

// The same.
BACKWARD_A_VARIANT(16, 64, 64, 2)
BACKWARD_A_VARIANT(16, 64, 64, 4)
BACKWARD_A_VARIANT(16, 64, 64, 6)
BACKWARD_A_VARIANT(16, 128, 64, 2)
BACKWARD_A_VARIANT(16, 128, 64, 3)
BACKWARD_A_VARIANT(16, 64, 32, 4)
BACKWARD_A_VARIANT(16, 32, 128, 4)
BACKWARD_A_VARIANT(16, 64, 128, 3)
BACKWARD_A_VARIANT(16, 64, 128, 4)
BACKWARD_A_VARIANT(64, 64, 64, 2)
BACKWARD_A_VARIANT(64, 64, 64, 4)
BACKWARD_A_VARIANT(64, 128, 64, 2)
BACKWARD_A_VARIANT(64, 64, 128, 3)

// Rows and columns of a tile of the result.
EXPAND_VARIANT(16, 32, 64)
EXPAND_VARIANT(16, 32, 128)
EXPAND_VARIANT(16, 64, 32)
EXPAND_VARIANT(16, 64, 128)
EXPAND_VARIANT(16, 128, 32)
EXPAND_VARIANT(16, 128, 64)
EXPAND_VARIANT(16, 128, 128)
EXPAND_VARIANT(64, 32, 64)
EXPAND_VARIANT(64, 64, 128)
EXPAND_VARIANT(64, 128, 64)

// Column tiles of a chunk, and tiles of dY in flight.
BACKWARD_DY_VARIANT(16, 8, 2)
BACKWARD_DY_VARIANT(16, 8, 4)
BACKWARD_DY_VARIANT(16, 4, 3)
BACKWARD_DY_VARIANT(16, 4, 4)
BACKWARD_DY_VARIANT(16, 2, 3)
BACKWARD_DY_VARIANT(16, 2, 4)
BACKWARD_DY_VARIANT(16, 1, 4)
BACKWARD_DY_VARIANT(64, 4, 2)
BACKWARD_DY_VARIANT(64, 2, 3)
BACKWARD_DY_VARIANT(64, 2, 4)
BACKWARD_DY_VARIANT(64, 1, 4)

// A block's tile of the weight, a thread's part of it, and the values of k that are staged at once.
WEIGHT_UPDATE_VARIANT(64, 64, 4, 4, 16)
WEIGHT_UPDATE_VARIANT(64, 64, 4, 8, 16)
WEIGHT_UPDATE_VARIANT(64, 64, 4, 8, 32)
WEIGHT_UPDATE_VARIANT(64, 64, 8, 8, 16)
WEIGHT_UPDATE_VARIANT(64, 128, 4, 8, 16)
WEIGHT_UPDATE_VARIANT(64, 128, 8, 8, 16)
WEIGHT_UPDATE_VARIANT(128, 64, 8, 4, 16)
WEIGHT_UPDATE_VARIANT(128, 128, 8, 8, 16)

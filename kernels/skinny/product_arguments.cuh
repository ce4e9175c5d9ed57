// Arguments of the skinny products; mirrored by src/cuda/arguments/products.rs.
#pragma once
#include "skinny/product_constants.cuh"
#include "view.cuh"

// Dropout of elements whose 16-bit draw is below `threshold`; 0 keeps all.
struct DropoutMask {
    uint64_t seed;
    uint64_t offset;
    uint32_t threshold;
    uint32_t padding;
};
static_assert(sizeof(DropoutMask) == 24, "mirrored in Rust");

// How work along the summed dimension is divided, and the f32 slabs that receive the partial sums.
// `blocks` many ranges of `tiles` tiles each; the last may be shorter.
struct Split {
    uint32_t blocks;
    uint32_t tiles;
};

struct ShrinkArguments {
    View x;                 // [M, K]
    View a;                 // [R, K]
    DropoutMask mask;       // of x
    uint64_t slabs;         // f32 [split.blocks][M][slab_columns]
    uint64_t copy;          // receives x, before dropout, in rows aligned to VECTOR_BYTES
    int64_t copy_stride;    // elements between its rows; 0 for no copy
    Split split;            // of K
    uint32_t rank_chunks;
    uint32_t slab_columns;  // rank_chunks times the kernel's rank
};
static_assert(sizeof(ShrinkArguments) == 144, "mirrored in Rust");

struct BackwardDyArguments {
    View dy;                // [M, N]
    View b;                 // [R, N]
    View s;                 // [M, R]; read where db_slabs is given
    uint64_t ds_slabs;      // f32 [column_groups][M][slab_columns], or null
    uint64_t db_slabs;      // f32 [split.blocks][N][slab_columns], or null
    uint64_t dbias_slabs;   // f32 [2 * split.blocks][N], or null
    uint64_t copy;          // receives dy, in rows aligned to VECTOR_BYTES
    int64_t copy_stride;    // elements between its rows; 0 for no copy
    Split split;            // of M
    uint32_t column_groups;
    uint32_t chunks_per_group;
    uint32_t rank_chunks;
    uint32_t slab_columns;
};
static_assert(sizeof(BackwardDyArguments) == 184, "mirrored in Rust");

struct BackwardAArguments {
    View x;                 // [M, K]
    View ds;                // [M, R]
    DropoutMask mask;       // of x
    uint64_t slabs;         // f32 [split.blocks][K][slab_columns]
    Split split;            // of M
    uint32_t rank_chunks;
    uint32_t slab_columns;
};
static_assert(sizeof(BackwardAArguments) == 128, "mirrored in Rust");

struct ExpandArguments {
    View s;                 // [M, R]
    View b;                 // [R, N]
    View out;               // [M, N]
    DropoutMask mask;       // of the product
    uint64_t bias;          // [N], or null
    int64_t bias_stride;
    uint32_t bias_dtype;
    uint32_t accumulate;    // whether the old contents of out are added
    float scale;            // of the product
    uint32_t padding;
};
static_assert(sizeof(ExpandArguments) == 176, "mirrored in Rust");

// Columns [first_column, first_column + columns) of a reduced slab go to one matrix.
struct FinalizeSegment {
    uint64_t address;
    int64_t row_stride;
    int64_t column_stride;
    uint32_t first_column;
    uint32_t columns;
    uint32_t dtype;
    uint32_t accumulate;
    float scale;
    uint32_t padding;
};
static_assert(sizeof(FinalizeSegment) == 48, "mirrored in Rust");

struct FinalizeArguments {
    uint64_t slabs;         // f32 [slab_count][rows][slab_columns]
    int64_t rows;
    uint32_t slab_columns;
    uint32_t slab_count;    // 0: the sum is zero
    uint32_t segment_count;
    uint32_t columns;       // sum of the segments' columns
    FinalizeSegment segments[MAX_SEGMENTS];
};
static_assert(sizeof(FinalizeArguments) == 416, "mirrored in Rust");

// A matrix [rank, features] that becomes rows first_row, first_row + 1, … of the packed matrix.
struct PackSegment {
    View source;
    uint32_t first_row;
    uint32_t dtype;
};
static_assert(sizeof(PackSegment) == 48, "mirrored in Rust");

struct PackArguments {
    uint64_t out;
    int64_t out_stride;     // elements between rows
    uint32_t out_dtype;
    uint32_t segment_count;
    PackSegment segments[MAX_SEGMENTS];
};
static_assert(sizeof(PackArguments) == 408, "mirrored in Rust");

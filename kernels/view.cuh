// Matrices in argument structs.
#pragma once
#include "arch/kernel.cuh"

// A matrix in global memory. Strides are in elements; a transposed view swaps them.
struct View {
    uint64_t address;
    int64_t row_stride;
    int64_t column_stride;
    int64_t rows;
    int64_t columns;
};
static_assert(sizeof(View) == 40, "mirrored in Rust");

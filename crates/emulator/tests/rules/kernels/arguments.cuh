// What all kernels here take. `from` and `to` are x and y as matrices of 128 rows of 32 words, in boxes of 8 rows.
#pragma once
#include <cuda.h>

#include "arch/kernel.cuh"

struct Arguments {
    CUtensorMap from, to;
    uint64_t x, y;
    uint32_t n, unused;
};

constexpr uint32_t box_bytes = 8 * 128;

__device__ __forceinline__ const uint32_t* input(const Arguments& arguments) { return reinterpret_cast<const uint32_t*>(arguments.x); }
__device__ __forceinline__ uint32_t* output(const Arguments& arguments) { return reinterpret_cast<uint32_t*>(arguments.y); }

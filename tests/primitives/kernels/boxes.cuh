// What kernels with tensor maps take: two maps, of the input or of the output.
#pragma once
#include <cuda.h>

#include "arch/kernel.cuh"

struct Boxes {
    CUtensorMap from, to;
    uint64_t input, output;
    // CUDA 12 aligns maps to 64 bytes, CUDA 13 to 128.
    uint64_t unused[14];
};
static_assert(sizeof(Boxes) == 384, "tests/primitives/cases.rs writes these bytes");

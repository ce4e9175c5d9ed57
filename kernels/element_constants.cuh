// What kernels and planner agree on about elements. build.rs reads all *_constants.cuh files into Rust (src/constants.rs) and
// refuses what is neither a constant nor a function of one expression.
#pragma once
#include "arch/kernel.cuh"

// Bytes that are copied at once where addresses and strides are multiples of it.
constexpr int VECTOR_BYTES = 16;

// The code of f32 in argument structs.
constexpr uint32_t DTYPE_F32 = 0;
// The code of f16 in argument structs.
constexpr uint32_t DTYPE_F16 = 1;
// The code of bf16 in argument structs.
constexpr uint32_t DTYPE_BF16 = 2;

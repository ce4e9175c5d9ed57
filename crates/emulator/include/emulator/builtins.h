// Force-included ahead of every kernel: CUDA's qualifiers, built-in variables and functions for an ordinary C++ compiler.
#pragma once
#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "runtime.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ EMULATOR_INLINE
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
// The library's thread-local storage is a block's static shared memory: see runtime.cpp.
#define __shared__ static thread_local

#define threadIdx (emulator::thread().thread_index)
#define blockIdx (emulator::thread().block_index)
#define blockDim (emulator::thread().block_dimensions)
#define gridDim (emulator::thread().grid_dimensions)
constexpr int warpSize = 32;

#include "atomics.h"
#include "integer_intrinsics.h"
#include "float_intrinsics.h"
#include "memory_intrinsics.h"
#include "synchronization.h"

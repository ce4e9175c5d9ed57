// How a kernel is declared. Each takes one argument struct by value, called `arguments`.
#pragma once
#ifdef LORA_EMULATOR
#include <emulator/kernel.h>
#else
#include <cstdint>
#define LORA_KERNEL(name, Arguments, threads) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Arguments arguments)
// A kernel whose blocks run in clusters of `cluster` neighbours in x (sm_90). Without a number of blocks in its bounds,
// ptxas drops setmaxnreg (C7508).
#define LORA_CLUSTER_KERNEL(name, Arguments, threads, cluster)                                     \
    extern "C" __global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, 1) name( \
        const __grid_constant__ Arguments arguments)
// The block's dynamic shared memory, as bytes.
#define LORA_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

// Barriers of some warps of a block. Id 0 is __syncthreads; `threads` is a multiple of 32.
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/named_barrier.h>
#else
__device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads) {
    asm volatile("bar.sync %0, %1;\n" :: "r"(id), "r"(threads) : "memory");
}
// Arrives without waiting.
__device__ __forceinline__ void named_barrier_arrive(uint32_t id, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;\n" :: "r"(id), "r"(threads) : "memory");
}
#endif

// Asynchronous copies from global to shared memory (sm_80 and later).
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/cp_async.h>
#else
// Copies source_bytes (0 to 16) of 16; the rest is filled with zero. Both addresses are multiples of 16.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int source_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :: "r"(shared_address(shared)), "l"(global), "r"(source_bytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most `pending` of this thread's newest groups are unfinished.
template <int pending>
__device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;\n" :: "n"(pending) : "memory"); }
#endif

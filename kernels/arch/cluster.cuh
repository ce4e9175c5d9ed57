// Blocks that run together and reach each other's dynamic shared memory (sm_90).
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/cluster.h>
#else
__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ uint32_t cluster_blocks() {
    uint32_t blocks;
    asm volatile("mov.u32 %0, %%cluster_nctarank;\n" : "=r"(blocks));
    return blocks;
}
// All threads of the cluster arrive, then wait; work between the two overlaps with the others'.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory"); }
// What lies at the same place of another block's dynamic shared memory. That block must not have ended.
template <class T>
__device__ __forceinline__ T* cluster_pointer(T* own, uint32_t block_rank) {
    uint64_t address;
    asm volatile("mapa.u64 %0, %1, %2;\n" : "=l"(address) : "l"(own), "r"(block_rank));
    return reinterpret_cast<T*>(address);
}
#endif

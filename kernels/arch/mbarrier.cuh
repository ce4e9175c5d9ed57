// Barriers in shared memory that count arrivals and bytes of asynchronous copies (sm_90).
//
// A phase ends when `arrivals` threads have arrived and all announced bytes have come. Waits name the parity of the
// phase they wait for: 0 for the first.
//
// Without `_cluster`, what an arrival at another block says is that reads and asynchronous accesses are over, which is what a
// ring of tiles needs. Ordinary stores that another block reads need the forms with `_cluster` on both sides; in a main loop
// they are slow: an invalidation of L1 after each wait, a fence of the whole GPU before each arrival.
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/mbarrier.h>
#else
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" :: "r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" :: "r"(shared_address(barrier)) : "memory");
}
// Arrives, and announces bytes that asynchronous copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n"
                 :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Arrives at the barrier that lies at the same place in another block of the cluster.
__device__ __forceinline__ void mbarrier_arrive_remote(uint64_t* barrier, uint32_t block_rank) {
    asm volatile(
        "{\n"
        ".reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
        "}\n" :: "r"(shared_address(barrier)), "r"(block_rank) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_remote_cluster(uint64_t* barrier, uint32_t block_rank) {
    asm volatile(
        "{\n"
        ".reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
        "}\n" :: "r"(shared_address(barrier)), "r"(block_rank) : "memory");
}
// Waits until the phase of this parity has ended.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" :: "r"(shared_address(barrier)), "r"(parity) : "memory");
}
__device__ __forceinline__ void mbarrier_wait_cluster(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" :: "r"(shared_address(barrier)), "r"(parity) : "memory");
}
// Makes initialised barriers visible to asynchronous copies and to other blocks of the cluster.
__device__ __forceinline__ void mbarrier_fence_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
#endif

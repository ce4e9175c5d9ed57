// Copies of 2-D boxes between a matrix in global memory and shared memory, by the tensor memory accelerator (sm_90).
//
// `column` and `row` name the box's first element; what lies outside of the matrix is read as zero and not written.
// The map must be a kernel argument. Shared addresses are multiples of 128.
#pragma once
#include <cuda.h>
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/tma.h>
#else
// Loads a box; its bytes count at the barrier.
__device__ __forceinline__ void tma_load_2d(void* shared, const CUtensorMap* map, uint64_t* barrier, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];\n"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row) : "memory");
}
// Loads a box into the same place of every block whose bit is set in `blocks`; each counts at its own barrier.
__device__ __forceinline__ void tma_load_2d_multicast(void* shared, const CUtensorMap* map, uint64_t* barrier, int column,
                                                      int row, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%3, %4}], [%2], %5;\n"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "h"(blocks)
                 : "memory");
}
// Stores a box. The thread commits its stores to a group, and waits for it.
__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, const void* shared, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];\n"
                 :: "l"(map), "r"(shared_address(shared)), "r"(column), "r"(row) : "memory");
}
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }
// Waits until at most `pending` of this thread's newest groups still read shared memory.
template <int pending>
__device__ __forceinline__ void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;\n" :: "n"(pending) : "memory");
}
// Waits until at most `pending` of this thread's newest groups are unfinished.
template <int pending>
__device__ __forceinline__ void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;\n" :: "n"(pending) : "memory");
}
#endif

// The emulator's side of kernels/arch/cluster.cuh.
#pragma once

EMULATOR_INLINE uint32_t cluster_rank() { return emulator::thread().block_rank_in_cluster; }
EMULATOR_INLINE uint32_t cluster_blocks() { return emulator::thread().blocks_in_cluster; }
EMULATOR_INLINE void cluster_arrive() { emulator_cluster_arrive(); }
EMULATOR_INLINE void cluster_wait() { emulator_cluster_wait(); }
template <class T>
EMULATOR_INLINE T* cluster_pointer(T* own, uint32_t block_rank) {
    return static_cast<T*>(emulator_cluster_pointer(own, block_rank));
}

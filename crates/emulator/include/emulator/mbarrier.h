// The emulator's side of kernels/arch/mbarrier.cuh.
#pragma once

EMULATOR_INLINE void mbarrier_init(uint64_t* barrier, uint32_t arrivals) { emulator_mbarrier_init(barrier, arrivals); }
EMULATOR_INLINE void mbarrier_arrive(uint64_t* barrier) { emulator_mbarrier_arrive(barrier, 0, -1, false); }
EMULATOR_INLINE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
    emulator_mbarrier_arrive(barrier, bytes, -1, false);
}
EMULATOR_INLINE void mbarrier_arrive_remote(uint64_t* barrier, uint32_t block_rank) {
    emulator_mbarrier_arrive(barrier, 0, static_cast<int32_t>(block_rank), false);
}
EMULATOR_INLINE void mbarrier_arrive_remote_cluster(uint64_t* barrier, uint32_t block_rank) {
    emulator_mbarrier_arrive(barrier, 0, static_cast<int32_t>(block_rank), true);
}
EMULATOR_INLINE void mbarrier_wait(uint64_t* barrier, uint32_t parity) { emulator_mbarrier_wait(barrier, parity, false); }
EMULATOR_INLINE void mbarrier_wait_cluster(uint64_t* barrier, uint32_t parity) {
    emulator_mbarrier_wait(barrier, parity, true);
}
EMULATOR_INLINE void mbarrier_fence_init() { emulator_fence(emulator::fence_mbarrier_init); }

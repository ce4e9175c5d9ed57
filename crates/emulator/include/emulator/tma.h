// The emulator's side of kernels/arch/tma.cuh.
#pragma once

EMULATOR_INLINE void tma_load_2d(void* shared, const CUtensorMap* map, uint64_t* barrier, int column, int row) {
    emulator_tma_load(shared, map, barrier, column, row, -1);
}
EMULATOR_INLINE void tma_load_2d_multicast(void* shared, const CUtensorMap* map, uint64_t* barrier, int column, int row,
                                           uint16_t blocks) {
    emulator_tma_load(shared, map, barrier, column, row, blocks);
}
EMULATOR_INLINE void tma_store_2d(const CUtensorMap* map, const void* shared, int column, int row) {
    emulator_tma_store(map, shared, column, row);
}
EMULATOR_INLINE void tma_store_commit() { emulator_tma_store_commit(); }
template <int pending>
EMULATOR_INLINE void tma_store_wait_read() {
    emulator_tma_store_wait(pending, true);
}
template <int pending>
EMULATOR_INLINE void tma_store_wait() {
    emulator_tma_store_wait(pending, false);
}

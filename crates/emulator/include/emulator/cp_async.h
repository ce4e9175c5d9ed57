// The emulator's side of kernels/arch/cp_async.cuh.
#pragma once

EMULATOR_INLINE void cp_async_16(void* shared, const void* global, int source_bytes) {
    emulator_cp_async(shared, global, 16, static_cast<uint32_t>(source_bytes));
}
EMULATOR_INLINE void cp_async_commit() { emulator_cp_async_commit(); }
template <int pending>
EMULATOR_INLINE void cp_async_wait() {
    emulator_cp_async_wait(pending);
}

// The emulator's side of kernels/arch/named_barrier.cuh.
#pragma once

EMULATOR_INLINE void named_barrier_sync(uint32_t id, uint32_t threads) { emulator_barrier_sync(id, threads); }
EMULATOR_INLINE void named_barrier_arrive(uint32_t id, uint32_t threads) { emulator_barrier_arrive(id, threads); }

// The emulator's side of kernels/arch/fence.cuh.
#pragma once

EMULATOR_INLINE void fence_async_shared() { emulator_fence(emulator::fence_proxy_async_shared); }
EMULATOR_INLINE void fence_async_global() { emulator_fence(emulator::fence_proxy_async_global); }

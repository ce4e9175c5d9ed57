// Orders ordinary stores before asynchronous reads of the same shared memory (sm_90).
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/fence.h>
#else
// For the calling thread's stores: each writing thread calls it, then a barrier, then TMA or wgmma may read.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
#endif

// Orders ordinary stores before asynchronous reads and writes of the same memory (sm_90).
//
// For the calling thread's stores: each writing thread calls it, then a barrier, then TMA or wgmma may use the memory. Where
// TMA reads what another block stored to global memory, its thread calls fence_async_global too, once it knows of the store.
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/fence.h>
#else
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
__device__ __forceinline__ void fence_async_global() { asm volatile("fence.proxy.async.global;\n" ::: "memory"); }
#endif

// Moves registers between warpgroups (sm_90a): a multiple of 8 from 24 to 256, the same for all warps of a warpgroup.
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/registers.h>
#else
template <int count>
__device__ __forceinline__ void increase_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" :: "n"(count));
}
template <int count>
__device__ __forceinline__ void decrease_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" :: "n"(count));
}
#endif

// Overlap of a kernel's start with the end of the one before it (sm_90, programmatic dependent launch).
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/grid_dependency.h>
#else
// Waits until the kernel before has ended, and its writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;\n" ::: "memory"); }
// Lets the next kernel start.
__device__ __forceinline__ void allow_next_kernel() { asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory"); }
#endif

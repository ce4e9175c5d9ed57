// The emulated thread that is running, and what it may ask of the emulator.
#pragma once
#include <cstddef>
#include <cstdint>

// Inlined, so that the caller's program counter is a line of the kernel.
#define EMULATOR_INLINE inline __attribute__((always_inline))

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {

// Each thread runs on a stack of its own, aligned to its size, with this context at the bottom. src/machine/thread.rs mirrors it.
constexpr uintptr_t stack_bytes = 1 << 16;

struct Thread {
    uint3 thread_index, block_index, block_dimensions, grid_dimensions;
    unsigned char* dynamic_shared;
    const void* arguments;
    uint64_t argument_bytes;
    uint32_t lane, warp;
    uint32_t block_rank_in_cluster, blocks_in_cluster;
};

EMULATOR_INLINE Thread& thread() {
    auto address = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    return *reinterpret_cast<Thread*>(address & ~(stack_bytes - 1));
}

}  // namespace emulator

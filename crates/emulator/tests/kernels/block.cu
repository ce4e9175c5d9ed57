// Block- and warp-level kernels, right ones and ones with a planted fault.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "arch/cp_async.cuh"
#include "arch/kernel.cuh"
#include "arch/ldmatrix.cuh"
#include "arch/mma.cuh"
#include "arch/named_barrier.cuh"

struct Vectors {
    uint64_t x, y;
    uint32_t n, unused;
};

// y[i] = sum of all x of the block's part, by a tree in shared memory and shuffles.
template <bool first_barrier, bool second_barrier>
__device__ void block_sums(const Vectors& arguments) {
    __shared__ float part[8];
    auto* x = reinterpret_cast<const float*>(arguments.x);
    auto* y = reinterpret_cast<float*>(arguments.y);
    unsigned thread = threadIdx.x, i = blockIdx.x * blockDim.x + thread;
    for (int round = 0; round < 2; round++) {
        float value = i < arguments.n ? x[i] : 0.0f;
        for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
        if (thread % 32 == 0) part[thread / 32] = value;
        if (first_barrier) __syncthreads();
        float sum = 0.0f;
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += part[warp];
        if (i < arguments.n) y[i] = sum;
        if (second_barrier) __syncthreads();
    }
}
LORA_KERNEL(block_sums_right, Vectors, 256) { block_sums<true, true>(arguments); }
LORA_KERNEL(block_sums_without_first_barrier, Vectors, 256) { block_sums<false, true>(arguments); }
LORA_KERNEL(block_sums_without_second_barrier, Vectors, 256) { block_sums<true, false>(arguments); }

// Lanes of a warp hand values to each other through shared memory.
template <bool barrier>
__device__ void rotate_lanes(const Vectors& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* values = reinterpret_cast<float*>(bytes);
    values[threadIdx.x] = reinterpret_cast<const float*>(arguments.x)[threadIdx.x];
    if (barrier) __syncwarp();
    else __shfl_sync(0xffffffffu, 0, 0);  // brings lanes together, but orders no memory
    unsigned source = (threadIdx.x & ~31u) | ((threadIdx.x + 1) & 31u);
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = values[source];
}
LORA_KERNEL(rotate_lanes_right, Vectors, 64) { rotate_lanes<true>(arguments); }
LORA_KERNEL(rotate_lanes_without_barrier, Vectors, 64) { rotate_lanes<false>(arguments); }

// Stages x through shared memory with cp.async; the last chunk is filled with zero.
template <bool commit, int pending, bool barrier>
__device__ void staged_copy(const Vectors& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* tile = reinterpret_cast<float*>(bytes);
    unsigned first = threadIdx.x * 4;
    int remaining = (static_cast<int>(arguments.n) - static_cast<int>(first)) * 4;
    cp_async_16(tile + first, reinterpret_cast<const float*>(arguments.x) + (remaining > 0 ? first : 0), max(0, min(16, remaining)));
    if (commit) cp_async_commit();
    cp_async_wait<pending>();
    if (barrier) __syncthreads();
    unsigned other = (first + 64) % 128;
    for (unsigned i = 0; i < 4; i++) reinterpret_cast<float*>(arguments.y)[other + i] = tile[other + i];
}
LORA_KERNEL(staged_copy_right, Vectors, 32) { staged_copy<true, 0, true>(arguments); }
LORA_KERNEL(staged_copy_without_commit, Vectors, 32) { staged_copy<false, 0, true>(arguments); }
LORA_KERNEL(staged_copy_without_wait, Vectors, 32) { staged_copy<true, 1, true>(arguments); }
LORA_KERNEL(staged_copy_without_barrier, Vectors, 32) { staged_copy<true, 0, false>(arguments); }
LORA_KERNEL(copy_never_waited_for, Vectors, 32) {
    LORA_DYNAMIC_SHARED(bytes);
    cp_async_16(bytes + 16 * threadIdx.x, reinterpret_cast<const float*>(arguments.x) + 4 * threadIdx.x, 16);
    cp_async_commit();
}

LORA_KERNEL(past_the_end, Vectors, 32) {
    auto* y = reinterpret_cast<float*>(arguments.y);
    y[threadIdx.x + arguments.n - 31] = 1.0f;
}
LORA_KERNEL(past_the_shared_variable, Vectors, 32) {
    __shared__ float small[8];
    float* first = small;
    first[threadIdx.x < arguments.n ? threadIdx.x : 0] = 1.0f;
    __syncwarp();
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = small[0];
}
LORA_KERNEL(past_dynamic_shared, Vectors, 32) {
    LORA_DYNAMIC_SHARED(bytes);
    bytes[threadIdx.x + arguments.n] = 1;
}
LORA_KERNEL(misaligned, Vectors, 32) {
    auto* y = reinterpret_cast<float*>(arguments.y) + 4 * threadIdx.x;
    *reinterpret_cast<float4*>(y + arguments.n) = make_float4(0, 0, 0, 0);
}
LORA_KERNEL(outside_its_array, Vectors, 32) {
    __shared__ float pairs[2][16];
    if (threadIdx.x == 0) pairs[0][arguments.n] = 1;
    __syncwarp();
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = pairs[1][0];
}
LORA_KERNEL(reads_unwritten_shared, Vectors, 32) {
    LORA_DYNAMIC_SHARED(bytes);
    if (threadIdx.x < arguments.n) bytes[threadIdx.x] = 1;
    __syncwarp();
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = bytes[31 - threadIdx.x];
}
LORA_KERNEL(reads_unwritten_global, Vectors, 32) {
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] += 1.0f;
}
LORA_KERNEL(blocks_write_the_same, Vectors, 32) {
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = static_cast<float>(blockIdx.x);
}
LORA_KERNEL(divergent_shuffle, Vectors, 32) {
    float value = 1.0f;
    if (threadIdx.x < arguments.n) value = __shfl_xor_sync(0xffffffffu, value, 1);
    else value = __shfl_xor_sync(0xffff0000u, value, 1);
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = value;
}
LORA_KERNEL(ended_lanes, Vectors, 32) {
    if (threadIdx.x < arguments.n) return;
    __syncwarp();
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = 0.0f;
}
LORA_KERNEL(half_a_warp_waits, Vectors, 64) {
    if (threadIdx.x < arguments.n) __syncwarp(0x0000ffffu);
    if (threadIdx.x < 32) __syncwarp(); else __syncthreads();
    if (threadIdx.x == 0) while (true) __syncwarp(1u), named_barrier_sync(3, 64);
}
LORA_KERNEL(traps, Vectors, 32) { __trap(); }

// The last block to finish adds up what all blocks left in y.
template <bool fence>
__device__ void last_block_sums(const Vectors& arguments) {
    auto* x = reinterpret_cast<float*>(arguments.x);
    auto* y = reinterpret_cast<float*>(arguments.y);
    auto* counter = reinterpret_cast<unsigned*>(y + gridDim.x * 32 + 32);
    __shared__ bool last;
    y[32 + blockIdx.x * 32 + threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        if (fence) __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
        if (fence) __threadfence();
    }
    __syncthreads();
    if (!last) return;
    float sum = 0.0f;
    for (unsigned block = 0; block < gridDim.x; block++) sum += y[32 + block * 32 + threadIdx.x];
    y[threadIdx.x] = sum;
}
LORA_KERNEL(last_block_sums_right, Vectors, 32) { last_block_sums<true>(arguments); }
LORA_KERNEL(last_block_sums_without_fence, Vectors, 32) { last_block_sums<false>(arguments); }

// Block 0 waits for a flag that the last block sets.
LORA_KERNEL(waits_for_other_block, Vectors, 32) {
    auto* flag = reinterpret_cast<volatile unsigned*>(arguments.y);
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) *flag = 1;
    if (blockIdx.x == 0 && threadIdx.x == 0) while (!*flag) {}
}
LORA_KERNEL(waits_for_nobody, Vectors, 32) {
    auto* flag = reinterpret_cast<volatile unsigned*>(arguments.y);
    if (threadIdx.x == 0) while (*flag != 7) {}
}

// The sums that identify matrices: see src/fingerprint.rs.
#pragma once
#include "arch/kernel.cuh"

// The finaliser of SplitMix64.
__device__ __forceinline__ uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// What word number `n` of a matrix adds.
__device__ __forceinline__ uint64_t word_term(uint64_t n, uint64_t word) { return mix(n * 0x9E3779B97F4A7C15ull ^ word); }

// Adds the sum over a block of `threads` threads to the uint64_t at `target`.
template <int threads>
__device__ __forceinline__ void add_block_sum(uint64_t own, unsigned long long (&sums)[threads], uint64_t target) {
    sums[threadIdx.x] = own;
    for (int half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    // Integer sums wrap the same way in any order.
    if (threadIdx.x == 0) atomicAdd(reinterpret_cast<unsigned long long*>(target), sums[0]);
}

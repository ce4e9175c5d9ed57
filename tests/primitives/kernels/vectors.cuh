// What all primitive kernels but those with boxes take: 32-bit words in, 32-bit words out.
#pragma once
#include "arch/kernel.cuh"

struct Vectors {
    uint64_t input, output;
};

__device__ __forceinline__ const uint32_t* input_words(uint64_t address) { return reinterpret_cast<const uint32_t*>(address); }
__device__ __forceinline__ uint32_t* output_words(uint64_t address) { return reinterpret_cast<uint32_t*>(address); }
__device__ __forceinline__ uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

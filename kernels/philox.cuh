// Counter-based random numbers: the same function as `philox4x32_10` in src/dropout.rs.
#pragma once
#include "arch/kernel.cuh"

struct PhiloxWords {
    uint32_t word[4];
};

__device__ __forceinline__ PhiloxWords philox4x32_10(PhiloxWords counter, uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = static_cast<uint64_t>(counter.word[0]) * 0xD2511F53u;
        const uint64_t second = static_cast<uint64_t>(counter.word[2]) * 0xCD9E8D57u;
        counter = {{static_cast<uint32_t>(second >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(second),
                    static_cast<uint32_t>(first >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(first)}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// Codes and escapes of restore records: see src/restore.rs.
#pragma once
#include "weights/weight_arguments.cuh"
#include "weights/weight_format.cuh"

// The number of what the old weight would be, had rounding lost nothing.
template <class Weight>
__device__ __forceinline__ uint32_t guess_weight(uint32_t merged, float scale, float sum) {
    return Weight::nearest(__fmaf_rn(-scale, sum, Weight::decode(merged)));
}

template <class Weight>
__device__ __forceinline__ uint32_t weight_from_code(uint32_t merged, float scale, float sum, int code) {
    const uint32_t key = static_cast<uint32_t>(weight_key<Weight>(guess_weight<Weight>(merged, scale, sum)));
    // The sum may wrap where the code marks an escape.
    return weight_from_key<Weight>(static_cast<int32_t>(key + static_cast<uint32_t>(code)));
}

template <class Weight>
__device__ __forceinline__ int code_of_weight(uint32_t old, uint32_t merged, float scale, float sum) {
    const uint32_t guess = guess_weight<Weight>(merged, scale, sum);
    const int64_t steps = int64_t(weight_key<Weight>(old)) - weight_key<Weight>(guess);
    const bool fits = steps >= -MAX_CODE && steps <= MAX_CODE && weight_is_finite<Weight>(old) && weight_is_finite<Weight>(guess);
    return fits ? static_cast<int>(steps) : ESCAPE_CODE;
}

struct EscapeLookup {
    bool exists;
    uint32_t bits;
};

// The escape at this index.
__device__ __forceinline__ EscapeLookup find_escape(const WeightUpdateArguments& arguments, uint64_t index) {
    const EscapeEntry* escapes = reinterpret_cast<const EscapeEntry*>(arguments.old_escapes);
    uint64_t first = 0, end = arguments.old_escape_count;
    while (first < end) {
        const uint64_t middle = first + (end - first) / 2;
        if (escapes[middle].index < index) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    if (first < arguments.old_escape_count && escapes[first].index == index) return {true, escapes[first].bits};
    return {false, 0};
}

// Slots are taken in any order; the host sorts by index.
__device__ __forceinline__ void append_escape(const WeightUpdateArguments& arguments, uint64_t index, uint32_t bits) {
    const uint64_t slot = atomicAdd(reinterpret_cast<unsigned long long*>(arguments.new_escape_count), 1ull);
    if (slot < arguments.new_escape_capacity) {
        reinterpret_cast<EscapeEntry*>(arguments.new_escapes)[slot] = {index, bits, 0};
    }
}

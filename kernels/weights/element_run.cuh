// Neighbouring elements of 1, 2 or 4 bytes between global memory and registers, as few wide accesses where aligned.
#pragma once
#include "arch/global_store.cuh"

template <int words>
__device__ __forceinline__ void load_words(const void* source, uint32_t (&target)[words]) {
    static_assert(words == 1 || words == 2 || words % 4 == 0, "as vectors");
    if constexpr (words == 1) {
        target[0] = *static_cast<const uint32_t*>(source);
    } else if constexpr (words == 2) {
        const uint2 vector = *static_cast<const uint2*>(source);
        target[0] = vector.x, target[1] = vector.y;
    } else {
#pragma unroll
        for (int n = 0; n < words / 4; ++n) {
            const uint4 vector = static_cast<const uint4*>(source)[n];
            target[4 * n] = vector.x, target[4 * n + 1] = vector.y;
            target[4 * n + 2] = vector.z, target[4 * n + 3] = vector.w;
        }
    }
}

template <int words>
__device__ __forceinline__ void store_words(void* target, const uint32_t (&source)[words]) {
    static_assert(words == 1 || words == 2 || words % 4 == 0, "as vectors");
    if constexpr (words == 1) {
        *static_cast<uint32_t*>(target) = source[0];
    } else if constexpr (words == 2) {
        store_global_8(target, source);
    } else {
#pragma unroll
        for (int n = 0; n < words / 4; ++n) {
            const uint32_t vector[4] = {source[4 * n], source[4 * n + 1], source[4 * n + 2], source[4 * n + 3]};
            store_global_16(static_cast<uint4*>(target) + n, vector);
        }
    }
}

// The first `count` of `size` elements; the others are zero. `vectors` says that whole runs are aligned to their size,
// or to 16 bytes.
template <class Element, int size>
__device__ __forceinline__ void load_run(const Element* source, int64_t count, bool vectors, uint32_t (&target)[size]) {
    constexpr int per_word = 4 / sizeof(Element);
    if (vectors && count >= size) {
        uint32_t words[size / per_word];
        load_words(source, words);
#pragma unroll
        for (int n = 0; n < size; ++n) {
            target[n] = static_cast<Element>(words[n / per_word] >> n % per_word * 8 * sizeof(Element));
        }
    } else {
#pragma unroll
        for (int n = 0; n < size; ++n) target[n] = n < count ? source[n] : 0;
    }
}

template <class Element, int size>
__device__ __forceinline__ void store_run(Element* target, int64_t count, bool vectors, const uint32_t (&source)[size]) {
    constexpr int per_word = 4 / sizeof(Element);
    if (vectors && count >= size) {
        uint32_t words[size / per_word] = {};
#pragma unroll
        for (int n = 0; n < size; ++n) {
            words[n / per_word] |= uint32_t(static_cast<Element>(source[n])) << n % per_word * 8 * sizeof(Element);
        }
        store_words(target, words);
    } else {
#pragma unroll
        for (int n = 0; n < size; ++n) {
            if (n < count) target[n] = static_cast<Element>(source[n]);
        }
    }
}

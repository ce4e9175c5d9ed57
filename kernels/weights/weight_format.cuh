// What an update does with the bits of one weight: the same functions as src/cpu/weights/weight.rs.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "arch/kernel.cuh"

struct WeightF32 {
    using Bits = uint32_t;
    static constexpr uint32_t SIGN = 0x80000000u;
    static constexpr uint32_t EXPONENT = 0x7F800000u;

    static __device__ __forceinline__ float decode(uint32_t bits) { return __uint_as_float(bits); }
    static __device__ __forceinline__ uint32_t nearest(float value) {
        return value != value ? 0x7FFFFFFFu : __float_as_uint(value);
    }
    static __device__ __forceinline__ uint32_t stochastic(float value, uint32_t) { return nearest(value); }
};

struct WeightBf16 {
    using Bits = uint16_t;
    static constexpr uint32_t SIGN = 0x8000u;
    static constexpr uint32_t EXPONENT = 0x7F80u;

    static __device__ __forceinline__ float decode(uint32_t bits) { return __uint_as_float(bits << 16); }
    static __device__ __forceinline__ uint32_t nearest(float value) {
        return value != value ? 0x7FFFu : __bfloat16_as_ushort(__float2bfloat16_rn(value));
    }
    static __device__ __forceinline__ uint32_t stochastic(float value, uint32_t draw) {
        // The low bits of an infinity are zero: nothing carries out of them.
        return value != value ? 0x7FFFu : (__float_as_uint(value) + (draw & 0xFFFFu)) >> 16;
    }
};

struct WeightF16 {
    using Bits = uint16_t;
    static constexpr uint32_t SIGN = 0x8000u;
    static constexpr uint32_t EXPONENT = 0x7C00u;

    static __device__ __forceinline__ float decode(uint32_t bits) {
        return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    }
    static __device__ __forceinline__ uint32_t nearest(float value) {
        return value != value ? 0x7FFFu : __half_as_ushort(__float2half_rn(value));
    }
    static __device__ __forceinline__ uint32_t stochastic(float value, uint32_t draw) {
        const uint32_t bits = __float_as_uint(value);
        const uint32_t magnitude = bits & 0x7FFFFFFFu;
        uint32_t rounded;
        if (magnitude >= 113u << 23) {  // 2^-14: normal
            rounded = (magnitude - (112u << 23) + (draw & 0x1FFFu)) >> 13;
            if (magnitude >= 143u << 23) rounded = EXPONENT;  // 2^16 and beyond
        } else {
            // |value| in units of 2^-24, with 32 binary digits of fraction.
            const int exponent = static_cast<int>(magnitude >> 23);
            const uint64_t significand = (magnitude & 0x7FFFFFu) | (exponent > 0 ? 0x800000u : 0u);
            const int shift = (exponent > 0 ? exponent : 1) - 94;
            const uint64_t fixed = shift >= 0 ? significand << shift : shift > -64 ? significand >> -shift : 0;
            rounded = static_cast<uint32_t>((fixed + draw) >> 32);
        }
        return value != value ? 0x7FFFu : (bits >> 16 & SIGN) | rounded;
    }
};

template <class Weight>
__device__ __forceinline__ bool weight_is_nan(uint32_t bits) {
    return (bits & ~Weight::SIGN) > Weight::EXPONENT;
}

template <class Weight>
__device__ __forceinline__ bool weight_is_finite(uint32_t bits) {
    return (bits & Weight::EXPONENT) != Weight::EXPONENT;
}

// Numbers weights in ascending order; -0 is one below +0.
template <class Weight>
__device__ __forceinline__ int32_t weight_key(uint32_t bits) {
    const int32_t magnitude = static_cast<int32_t>(bits & ~Weight::SIGN);
    return bits & Weight::SIGN ? ~magnitude : magnitude;
}

template <class Weight>
__device__ __forceinline__ uint32_t weight_from_key(int32_t key) {
    return key < 0 ? Weight::SIGN | static_cast<uint32_t>(~key) : static_cast<uint32_t>(key);
}

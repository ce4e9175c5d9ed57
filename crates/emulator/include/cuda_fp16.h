// Stand-in for CUDA's header of the same name: what the kernels use of it.
#pragma once
#include <emulator/builtins.h>

namespace emulator {

inline float half_to_float(unsigned short bits) {
    unsigned sign = static_cast<unsigned>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
    // A half's fields, shifted into a float's places, are too small by 2^112: true of subnormal halves too.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}

// To nearest, ties to even; NaN becomes 0x7fff.
inline unsigned short float_to_half(float value) {
    unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return 0x7fff;
    if (bits >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00);  // 65520 and more
    if (bits < 0x38800000u) {                                                    // below 2^-14: subnormal
        // 0.5 has an ulp of 2^-24, a subnormal half's unit, so that the addition rounds to it.
        return static_cast<unsigned short>(sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000u));
    }
    return static_cast<unsigned short>(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13);
}

}  // namespace emulator

struct __half {
    unsigned short bits;

    __half() = default;
    __half(float value) : bits(emulator::float_to_half(value)) {}
    operator float() const { return emulator::half_to_float(bits); }
};

struct alignas(4) __half2 {
    __half x, y;
};

using half = __half;
using half2 = __half2;

inline __half __ushort_as_half(unsigned short bits) {
    __half value;
    value.bits = bits;
    return value;
}
inline unsigned short __half_as_ushort(__half value) { return value.bits; }

inline float __half2float(__half value) { return static_cast<float>(value); }
inline __half __float2half_rn(float value) { return __half(value); }
inline __half __float2half(float value) { return __half(value); }

inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
inline __half2 __float22half2_rn(float2 value) { return __floats2half2_rn(value.x, value.y); }
inline __half2 __half2half2(__half value) { return {value, value}; }
inline float2 __half22float2(__half2 value) { return {value.x, value.y}; }
inline float __low2float(__half2 value) { return value.x; }
inline float __high2float(__half2 value) { return value.y; }
inline __half __low2half(__half2 value) { return value.x; }
inline __half __high2half(__half2 value) { return value.y; }
inline bool __hisnan(__half value) { return (value.bits & 0x7fff) > 0x7c00; }

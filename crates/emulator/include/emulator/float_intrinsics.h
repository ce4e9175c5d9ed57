// Single-precision functions with a stated rounding. Approximate ones are computed exactly.
#pragma once

using std::isfinite;
using std::isinf;
using std::isnan;

EMULATOR_INLINE float __fadd_rn(float a, float b) { return a + b; }
EMULATOR_INLINE float __fsub_rn(float a, float b) { return a - b; }
EMULATOR_INLINE float __fmul_rn(float a, float b) { return a * b; }
EMULATOR_INLINE float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
EMULATOR_INLINE float __fdiv_rn(float a, float b) { return a / b; }
EMULATOR_INLINE float __frcp_rn(float a) { return 1.0f / a; }
EMULATOR_INLINE float __fsqrt_rn(float a) { return std::sqrt(a); }
EMULATOR_INLINE float __fdividef(float a, float b) { return a / b; }
EMULATOR_INLINE float __expf(float a) { return std::exp(a); }
EMULATOR_INLINE float __logf(float a) { return std::log(a); }
EMULATOR_INLINE float __saturatef(float a) { return std::fmin(std::fmax(a, 0.0f), 1.0f); }
EMULATOR_INLINE float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
EMULATOR_INLINE double __dadd_rn(double a, double b) { return a + b; }
EMULATOR_INLINE double __dmul_rn(double a, double b) { return a * b; }
EMULATOR_INLINE double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

EMULATOR_INLINE int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
EMULATOR_INLINE int __float2int_rz(float a) { return static_cast<int>(a); }
EMULATOR_INLINE unsigned __float2uint_rn(float a) { return static_cast<unsigned>(std::nearbyint(a)); }
EMULATOR_INLINE unsigned __float2uint_rz(float a) { return static_cast<unsigned>(a); }
EMULATOR_INLINE float __int2float_rn(int a) { return static_cast<float>(a); }
EMULATOR_INLINE float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
EMULATOR_INLINE float __double2float_rn(double a) { return static_cast<float>(a); }

// CUDA's vector types with their alignments.
#pragma once
#include "thread.h"

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMULATOR_VECTORS(name, type)                                                             \
    struct alignas(2 * sizeof(type)) name##2 {                                                   \
        type x, y;                                                                               \
    };                                                                                           \
    struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 {                      \
        type x, y, z, w;                                                                         \
    };                                                                                           \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                             \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

EMULATOR_VECTORS(char, signed char)
EMULATOR_VECTORS(uchar, unsigned char)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(ushort, unsigned short)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(uint, unsigned)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(longlong, long long)
EMULATOR_VECTORS(ulonglong, unsigned long long)
EMULATOR_VECTORS(double, double)
#undef EMULATOR_VECTORS

inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

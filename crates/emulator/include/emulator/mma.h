// The emulator's side of kernels/arch/mma.cuh.
#pragma once

EMULATOR_INLINE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) {
    emulator_mma(emulator::mma_bf16, d, a, b);
}
EMULATOR_INLINE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
    emulator_mma(emulator::mma_f16, d, a, b);
}
EMULATOR_INLINE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulator_mma(emulator::mma_tf32, d, a, b);
}
// Round to nearest, ties away from zero, as cvt.rna does.
EMULATOR_INLINE uint32_t to_tf32(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return (bits & 0x007fffffu) ? 0x7fffffffu : bits;
    return (bits + 0x1000u) & ~0x1fffu;
}

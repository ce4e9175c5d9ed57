// The emulator's side of kernels/arch/wgmma.cuh.
#pragma once

template <class... Registers>
EMULATOR_INLINE void wgmma_fence(Registers&... registers) {
    (emulator_wgmma_registers(registers, sizeof(registers) / 4), ...);
    emulator_wgmma_fence();
}
EMULATOR_INLINE void wgmma_commit() { emulator_wgmma_commit(); }
template <int pending, class... Registers>
EMULATOR_INLINE void wgmma_wait(Registers&...) {
    emulator_wgmma_wait(pending);
}

namespace emulator {

template <class T, bool a_transposed, bool b_transposed, int registers>
EMULATOR_INLINE void wgmma(float (&d)[registers], const uint32_t* a_registers, uint64_t a, uint64_t b, bool accumulate) {
    emulator_wgmma(std::is_same_v<T, __half> ? mma_f16 : mma_bf16, 2 * registers,
                   accumulate * wgmma_accumulate | a_transposed * wgmma_a_transposed | b_transposed * wgmma_b_transposed, d,
                   a_registers, a, b);
}

}  // namespace emulator

template <class T, bool a_transposed, bool b_transposed, int registers>
EMULATOR_INLINE void wgmma(float (&d)[registers], uint64_t a, uint64_t b, bool accumulate) {
    emulator::wgmma<T, a_transposed, b_transposed>(d, nullptr, a, b, accumulate);
}
template <class T, bool a_transposed, bool b_transposed, int registers>
EMULATOR_INLINE void wgmma(float (&d)[registers], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    static_assert(!a_transposed, "registers have one layout");
    emulator::wgmma<T, a_transposed, b_transposed>(d, a, 0, b, accumulate);
}

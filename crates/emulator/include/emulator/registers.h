// The emulator's side of kernels/arch/registers.cuh.
#pragma once

template <int count>
EMULATOR_INLINE void increase_registers() {
    emulator_set_max_registers(count, true);
    emulator_registers_wait(count);
}
template <int count>
EMULATOR_INLINE void decrease_registers() {
    emulator_set_max_registers(count, false);
}

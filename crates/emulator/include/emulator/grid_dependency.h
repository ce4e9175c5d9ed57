// The emulator's side of kernels/arch/grid_dependency.cuh.
#pragma once

// Kernels run one after another here.
EMULATOR_INLINE void wait_for_previous_kernel() {}
EMULATOR_INLINE void allow_next_kernel() {}

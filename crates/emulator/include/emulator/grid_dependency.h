// The emulator's side of kernels/arch/grid_dependency.cuh.
#pragma once

EMULATOR_INLINE void wait_for_previous_kernel() { emulator_grid_dependency_wait(); }
// Kernels run one after another here: what overlaps is found from what was waited for.
EMULATOR_INLINE void allow_next_kernel() {}

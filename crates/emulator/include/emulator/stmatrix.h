// The emulator's side of kernels/arch/stmatrix.cuh.
#pragma once

EMULATOR_INLINE void stmatrix_x4(void* row, const uint32_t (&r)[4]) { emulator_stmatrix(r, 4, false, row); }
EMULATOR_INLINE void stmatrix_x4_transposed(void* row, const uint32_t (&r)[4]) { emulator_stmatrix(r, 4, true, row); }
EMULATOR_INLINE void stmatrix_x2(void* row, const uint32_t (&r)[2]) { emulator_stmatrix(r, 2, false, row); }
EMULATOR_INLINE void stmatrix_x2_transposed(void* row, const uint32_t (&r)[2]) { emulator_stmatrix(r, 2, true, row); }

// The emulator's side of kernels/arch/ldmatrix.cuh.
#pragma once

EMULATOR_INLINE void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulator_ldmatrix(r, 4, false, row); }
EMULATOR_INLINE void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) { emulator_ldmatrix(r, 4, true, row); }
EMULATOR_INLINE void ldmatrix_x2(uint32_t (&r)[2], const void* row) { emulator_ldmatrix(r, 2, false, row); }
EMULATOR_INLINE void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row) { emulator_ldmatrix(r, 2, true, row); }

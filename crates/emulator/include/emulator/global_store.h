// The emulator's side of kernels/arch/global_store.cuh: one access of all bytes.
#pragma once

namespace emulator {
template <class Whole, int count>
EMULATOR_INLINE void store_whole(void* target, const uint32_t (&words)[count]) {
    static_assert(sizeof(Whole) == sizeof(words));
    Whole whole;
    __builtin_memcpy(&whole, words, sizeof(whole));
    *static_cast<Whole*>(target) = whole;
}
}  // namespace emulator

EMULATOR_INLINE void store_global_8(void* target, const uint32_t (&words)[2]) {
    emulator::store_whole<uint64_t>(target, words);
}
EMULATOR_INLINE void store_global_16(void* target, const uint32_t (&words)[4]) {
    emulator::store_whole<unsigned __int128>(target, words);
}

// Barriers, shuffles and votes.
#pragma once

EMULATOR_INLINE void __syncthreads() { emulator_barrier_sync(0, 0); }
EMULATOR_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { emulator_sync_warp(mask); }
EMULATOR_INLINE void __nanosleep(unsigned) { emulator_pause(); }
EMULATOR_INLINE void __trap() { emulator_trap(); }

namespace emulator {

template <class T>
EMULATOR_INLINE T shuffle(unsigned mask, T value, uint32_t source) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = emulator_shuffle(mask, bits, source);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

// First lane of the segment of `width` lanes that this lane is in.
EMULATOR_INLINE int segment(int width) { return static_cast<int>(thread().lane) & ~(width - 1); }

}  // namespace emulator

template <class T>
EMULATOR_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return emulator::shuffle(mask, value, emulator::segment(width) + (source & (width - 1)));
}
template <class T>
EMULATOR_INLINE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    int lane = emulator::thread().lane, source = lane ^ lanes;
    return emulator::shuffle(mask, value, source < emulator::segment(width) + width ? source : lane);
}
template <class T>
EMULATOR_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    int lane = emulator::thread().lane, source = lane - static_cast<int>(lanes);
    return emulator::shuffle(mask, value, source >= emulator::segment(width) ? source : lane);
}
template <class T>
EMULATOR_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    int lane = emulator::thread().lane, source = lane + static_cast<int>(lanes);
    return emulator::shuffle(mask, value, source < emulator::segment(width) + width ? source : lane);
}

EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate) {
    return emulator_vote(emulator::vote_ballot, mask, predicate != 0);
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T>
EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value) {
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    return emulator_vote(emulator::vote_match, mask, bits);
}
EMULATOR_INLINE unsigned __activemask() { return emulator_active_mask(); }

namespace emulator {

template <class T, class Combine>
EMULATOR_INLINE T reduce(unsigned mask, T value, Combine combine) {
    T result = shuffle(mask, value, __builtin_ctz(mask));
    for (int lane = __builtin_ctz(mask) + 1; lane < 32; lane++) {
        if (mask >> lane & 1) result = combine(result, shuffle(mask, value, lane));
    }
    return result;
}

}  // namespace emulator

template <class T>
EMULATOR_INLINE T __reduce_add_sync(unsigned mask, T value) {
    return emulator::reduce(mask, value, [](T a, T b) { return a + b; });
}
template <class T>
EMULATOR_INLINE T __reduce_min_sync(unsigned mask, T value) {
    return emulator::reduce(mask, value, [](T a, T b) { return a < b ? a : b; });
}
template <class T>
EMULATOR_INLINE T __reduce_max_sync(unsigned mask, T value) {
    return emulator::reduce(mask, value, [](T a, T b) { return a < b ? b : a; });
}
template <class T>
EMULATOR_INLINE T __reduce_or_sync(unsigned mask, T value) {
    return emulator::reduce(mask, value, [](T a, T b) { return a | b; });
}

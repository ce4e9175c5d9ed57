// Integer functions, and reinterpretation of bits.
#pragma once

namespace emulator {

template <class To, class From>
EMULATOR_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}

}  // namespace emulator

EMULATOR_INLINE unsigned __float_as_uint(float value) { return emulator::bit_cast<unsigned>(value); }
EMULATOR_INLINE int __float_as_int(float value) { return emulator::bit_cast<int>(value); }
EMULATOR_INLINE float __uint_as_float(unsigned bits) { return emulator::bit_cast<float>(bits); }
EMULATOR_INLINE float __int_as_float(int bits) { return emulator::bit_cast<float>(bits); }
EMULATOR_INLINE long long __double_as_longlong(double value) { return emulator::bit_cast<long long>(value); }
EMULATOR_INLINE double __longlong_as_double(long long bits) { return emulator::bit_cast<double>(bits); }

EMULATOR_INLINE unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t(a) * b) >> 32); }
EMULATOR_INLINE int __mulhi(int a, int b) { return static_cast<int>((int64_t(a) * b) >> 32); }
EMULATOR_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
EMULATOR_INLINE int __popc(unsigned value) { return __builtin_popcount(value); }
EMULATOR_INLINE int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
EMULATOR_INLINE int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
EMULATOR_INLINE int __clzll(long long value) { return value ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64; }
EMULATOR_INLINE int __ffs(int value) { return __builtin_ffs(value); }
EMULATOR_INLINE unsigned __brev(unsigned value) {
    unsigned result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (value >> bit & 1u) << (31 - bit);
    return result;
}
// Each of the selector's low four nibbles picks one of the eight bytes of (b, a), b's being the higher.
EMULATOR_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> (4 * i) & 0xf;
        unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7))) & 0xff;
        if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << (8 * i);
    }
    return result;
}
EMULATOR_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
EMULATOR_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t(high) << 32 | low) >> (shift & 31));
}

template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

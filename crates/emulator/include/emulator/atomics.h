// Atomic operations on integers. There are none on floating-point numbers: their results would depend on the order.
#pragma once

namespace emulator {

template <class T>
EMULATOR_INLINE T atomic(AtomicOperation operation, T* address, T operand, T expected = T(), MemoryOrder order = order_relaxed) {
    static_assert(std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "32- and 64-bit integers only");
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(emulator_atomic(operation, order, address, sizeof(T), static_cast<Unsigned>(operand),
                                          static_cast<Unsigned>(expected)));
}

}  // namespace emulator

#define EMULATOR_ATOMICS(T, minimum, maximum)                                                                   \
    EMULATOR_INLINE T atomicAdd(T* address, T value) { return emulator::atomic(emulator::atomic_add, address, value); }  \
    EMULATOR_INLINE T atomicExch(T* address, T value) { return emulator::atomic(emulator::atomic_exchange, address, value); } \
    EMULATOR_INLINE T atomicMin(T* address, T value) { return emulator::atomic(emulator::minimum, address, value); }     \
    EMULATOR_INLINE T atomicMax(T* address, T value) { return emulator::atomic(emulator::maximum, address, value); }     \
    EMULATOR_INLINE T atomicAnd(T* address, T value) { return emulator::atomic(emulator::atomic_and, address, value); }  \
    EMULATOR_INLINE T atomicOr(T* address, T value) { return emulator::atomic(emulator::atomic_or, address, value); }    \
    EMULATOR_INLINE T atomicXor(T* address, T value) { return emulator::atomic(emulator::atomic_xor, address, value); }  \
    EMULATOR_INLINE T atomicCAS(T* address, T expected, T value) {                                                       \
        return emulator::atomic(emulator::atomic_compare_exchange, address, value, expected);                   \
    }

EMULATOR_ATOMICS(int, atomic_signed_minimum, atomic_signed_maximum)
EMULATOR_ATOMICS(unsigned, atomic_minimum, atomic_maximum)
EMULATOR_ATOMICS(unsigned long long, atomic_minimum, atomic_maximum)
#undef EMULATOR_ATOMICS

EMULATOR_INLINE int atomicSub(int* address, int value) { return atomicAdd(address, -value); }
EMULATOR_INLINE unsigned atomicSub(unsigned* address, unsigned value) { return atomicAdd(address, 0u - value); }

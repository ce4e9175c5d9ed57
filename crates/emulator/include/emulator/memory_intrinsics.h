// Loads and stores with a cache hint: plain accesses here. (The functions are instrumented like the kernel itself.)
#pragma once

#define EMULATOR_LOAD(name)              \
    template <class T>                   \
    EMULATOR_INLINE T name(const T* address) {  \
        return *address;                 \
    }
#define EMULATOR_STORE(name)                     \
    template <class T>                           \
    EMULATOR_INLINE void name(T* address, T value) {    \
        *address = value;                        \
    }

EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwt)
#undef EMULATOR_LOAD
#undef EMULATOR_STORE

EMULATOR_INLINE void __threadfence_block() { emulator_fence(emulator::fence_block); }
EMULATOR_INLINE void __threadfence() { emulator_fence(emulator::fence_device); }
EMULATOR_INLINE void __threadfence_system() { emulator_fence(emulator::fence_device); }
EMULATOR_INLINE unsigned __cvta_generic_to_shared(const void* pointer) { return emulator_shared_address(pointer); }

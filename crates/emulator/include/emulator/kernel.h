// The emulator's side of kernels/arch/kernel.cuh.
#pragma once
#include "registration.h"
#include "runtime.h"

#define LORA_KERNEL(name, Arguments, threads) LORA_CLUSTER_KERNEL(name, Arguments, threads, 1)

// With LORA_ONLY, kernels for which LORA_ONLY_name is `~, EMULATOR_KERNEL` are compiled; the others become templates that nobody
// asks for.
#ifdef LORA_ONLY
#define LORA_CLUSTER_KERNEL(name, Arguments, threads, cluster) \
    EMULATOR_CHOICE(LORA_ONLY_##name, EMULATOR_LEFT_OUT, ~)(name, Arguments, threads, cluster)
#define EMULATOR_CHOICE(...) EMULATOR_SECOND(__VA_ARGS__)
#define EMULATOR_SECOND(first, second, ...) second
#define EMULATOR_LEFT_OUT(name, Arguments, threads, cluster) \
    template <class> void name(const Arguments& arguments)
#else
#define LORA_CLUSTER_KERNEL(name, Arguments, threads, cluster) EMULATOR_KERNEL(name, Arguments, threads, cluster)
#endif

#define EMULATOR_KERNEL(name, Arguments, threads, cluster)                                                          \
    extern "C" void name(const Arguments& arguments);                                                               \
    static const emulator::Registration name##_registration(                                                        \
        #name, [](const void* bytes) { name(*static_cast<const Arguments*>(bytes)); }, sizeof(Arguments), threads, \
        cluster);                                                                                                   \
    extern "C" void name(const Arguments& arguments)

#define LORA_DYNAMIC_SHARED(name) unsigned char* const name = emulator::thread().dynamic_shared

EMULATOR_INLINE uint32_t shared_address(const void* pointer) { return emulator_shared_address(pointer); }

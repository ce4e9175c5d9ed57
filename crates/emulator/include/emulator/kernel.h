// The emulator's side of kernels/arch/kernel.cuh.
#pragma once
#include "registration.h"
#include "runtime.h"

#define LORA_KERNEL(name, Arguments, threads) LORA_CLUSTER_KERNEL(name, Arguments, threads, 1)

#define LORA_CLUSTER_KERNEL(name, Arguments, threads, cluster)                                                      \
    extern "C" void name(const Arguments& arguments);                                                               \
    static const emulator::Registration name##_registration(                                                        \
        #name, [](const void* bytes) { name(*static_cast<const Arguments*>(bytes)); }, sizeof(Arguments), threads, \
        cluster);                                                                                                   \
    extern "C" void name(const Arguments& arguments)

#define LORA_DYNAMIC_SHARED(name) unsigned char* const name = emulator::thread().dynamic_shared

EMULATOR_INLINE uint32_t shared_address(const void* pointer) { return emulator_shared_address(pointer); }

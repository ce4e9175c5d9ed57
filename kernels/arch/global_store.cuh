// Stores of 8 and 16 bytes to global memory that stay whole. Where another path stores the same elements one by one, the
// compiler merges the two and cuts a vector that is assigned in C++ into words.
#pragma once
#include "kernel.cuh"
#ifdef LORA_EMULATOR
#include <emulator/global_store.h>
#else
// The address is a multiple of 8.
__device__ __forceinline__ void store_global_8(void* target, const uint32_t (&words)[2]) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};\n"
                 :: "l"(__cvta_generic_to_global(target)), "r"(words[0]), "r"(words[1]) : "memory");
}
// The address is a multiple of 16.
__device__ __forceinline__ void store_global_16(void* target, const uint32_t (&words)[4]) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};\n"
                 :: "l"(__cvta_generic_to_global(target)), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}
#endif

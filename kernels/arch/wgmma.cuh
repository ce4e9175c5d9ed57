// Asynchronous products of a warpgroup: D[64,n] += A[64,16] B[16,n] in f32, for bf16 and f16 (sm_90a).
//
// A and B lie in shared memory and are named by descriptors; A may also be in registers, in the layout of mma.sync's A
// with 16 rows a warp. `transposed` factors are stored with k as their slow direction ("MN-major"). Call wgmma_fence
// before the first product, and after other instructions touched D or A's registers; commit; then wait. Both name the
// registers, so that the compiler moves no use of them across.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "kernel.cuh"

enum class Swizzle : uint64_t { none = 0, bytes_128 = 1, bytes_64 = 2, bytes_32 = 3 };

// Descriptor of a factor in shared memory. The two offsets are in bytes; what they mean depends on the major direction:
// PTX manual, "Strides" under "Matrix descriptor format".
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, uint32_t leading_offset, uint32_t stride_offset,
                                                     Swizzle swizzle) {
    return (address & 0x3ffff) >> 4 | static_cast<uint64_t>((leading_offset & 0x3ffff) >> 4) << 16 |
           static_cast<uint64_t>((stride_offset & 0x3ffff) >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

#ifdef LORA_EMULATOR
#include <emulator/wgmma.h>
#else
// Keeps uses of registers on their side of a place in the program.
struct WgmmaRegisters {
    template <int count>
    __device__ __forceinline__ static void pin(float (&registers)[count]) {
#pragma unroll
        for (int i = 0; i < count; i++) asm volatile("" : "+f"(registers[i]) :: "memory");
    }
    template <int count>
    __device__ __forceinline__ static void pin(uint32_t (&registers)[count]) {
#pragma unroll
        for (int i = 0; i < count; i++) asm volatile("" : "+r"(registers[i]) :: "memory");
    }
};
// Takes the arrays that products up to the next wait use: D, and A where it is in registers.
template <class... Registers>
__device__ __forceinline__ void wgmma_fence(Registers&... registers) {
    (WgmmaRegisters::pin(registers), ...);
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
// Waits until at most `pending` of the newest groups are unfinished. Takes the arrays that may be used afterwards.
template <int pending, class... Registers>
__device__ __forceinline__ void wgmma_wait(Registers&... registers) {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" :: "n"(pending) : "memory");
    (WgmmaRegisters::pin(registers), ...);
}

// Registers of D by number, for each n.
#define WGMMA_NAMES_8 "%0, %1, %2, %3"
#define WGMMA_NAMES_16 WGMMA_NAMES_8 \
    ", %4, %5, %6, %7"
#define WGMMA_NAMES_32 WGMMA_NAMES_16 \
    ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_NAMES_64 WGMMA_NAMES_32 \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_128 WGMMA_NAMES_64 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_256 WGMMA_NAMES_128 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define WGMMA_REGISTERS_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_REGISTERS_16(i) WGMMA_REGISTERS_8(i), WGMMA_REGISTERS_8(i + 4)
#define WGMMA_REGISTERS_32(i) WGMMA_REGISTERS_16(i), WGMMA_REGISTERS_16(i + 8)
#define WGMMA_REGISTERS_64(i) WGMMA_REGISTERS_32(i), WGMMA_REGISTERS_32(i + 16)
#define WGMMA_REGISTERS_128(i) WGMMA_REGISTERS_64(i), WGMMA_REGISTERS_64(i + 32)
#define WGMMA_REGISTERS_256(i) WGMMA_REGISTERS_128(i), WGMMA_REGISTERS_128(i + 64)

template <int n, bool a_transposed, bool b_transposed>
struct Wgmma;

// The numbers are those of the operands after D's registers.
#define WGMMA_PRODUCTS(n, type, T, first, second, third, fourth, fifth, sixth, seventh)                          \
    __device__ __forceinline__ static void run(float (&d)[n / 2], uint64_t a, uint64_t b, bool accumulate, T) {          \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #third ", 0;\n"                                               \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" WGMMA_NAMES_##n "}, "          \
                     "%" #first ", %" #second ", p, 1, 1, %" #fourth ", %" #fifth ";\n}\n"                               \
                     : WGMMA_REGISTERS_##n(0)                                                                            \
                     : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(a_transposed)),           \
                       "n"(static_cast<int>(b_transposed)) : "memory");                                                  \
    }                                                                                                                    \
    __device__ __forceinline__ static void run(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,  \
                                               T) {                                                                      \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #sixth ", 0;\n"                                               \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" WGMMA_NAMES_##n "}, "          \
                     "{%" #first ", %" #second ", %" #third ", %" #fourth "}, %" #fifth ", p, 1, 1, %" #seventh ";\n}\n" \
                     : WGMMA_REGISTERS_##n(0)                                                                            \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),            \
                       "n"(static_cast<int>(b_transposed)) : "memory");                                                  \
    }

#define WGMMA_SIZE(n, ...)                                            \
    template <bool a_transposed, bool b_transposed>                   \
    struct Wgmma<n, a_transposed, b_transposed> {                     \
        WGMMA_PRODUCTS(n, "bf16", __nv_bfloat16, __VA_ARGS__)         \
        WGMMA_PRODUCTS(n, "f16", __half, __VA_ARGS__)                 \
    };

WGMMA_SIZE(8, 4, 5, 6, 7, 8, 9, 10)
WGMMA_SIZE(16, 8, 9, 10, 11, 12, 13, 14)
WGMMA_SIZE(32, 16, 17, 18, 19, 20, 21, 22)
WGMMA_SIZE(64, 32, 33, 34, 35, 36, 37, 38)
WGMMA_SIZE(128, 64, 65, 66, 67, 68, 69, 70)
WGMMA_SIZE(256, 128, 129, 130, 131, 132, 133, 134)
#undef WGMMA_SIZE
#undef WGMMA_PRODUCTS

// D = A B, or D += A B where `accumulate`. n = 2 * registers of D: 8, 16, 32, 64, 128 or 256. A: descriptor or registers.
template <class T, bool a_transposed, bool b_transposed, int registers, class A>
__device__ __forceinline__ void wgmma(float (&d)[registers], const A& a, uint64_t b, bool accumulate) {
    Wgmma<2 * registers, a_transposed, b_transposed>::run(d, a, b, accumulate, T());
}
#endif

// Elementwise passes of the unfused baseline, one PyTorch kernel each. scripts/baseline-ptx makes elementwise.ptx of them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "arch/kernel.cuh"

constexpr int THREADS = 256;
// Elements of a thread.
constexpr int RUN = 8;

struct Elementwise {
    uint64_t to, from, mask, count;
    uint64_t seed;
    // What is kept is multiplied by it.
    float factor;
    // Draws of 16 bits below it drop an element.
    uint32_t threshold;
};
static_assert(sizeof(Elementwise) == 48, "mirrored in Rust");

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ void round_to(float& to, float value) { to = value; }
__device__ __forceinline__ void round_to(__half& to, float value) { to = __float2half_rn(value); }
__device__ __forceinline__ void round_to(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

template <class T> struct alignas(sizeof(T) * RUN < 16 ? sizeof(T) * RUN : 16) Run { T values[RUN]; };

// Four draws of splitmix64: a cheap generator, as the baseline on CPUs has.
__device__ __forceinline__ uint64_t draw_four(uint64_t seed, uint64_t place) {
    uint64_t word = seed + (place + 1) * 0x9E3779B97F4A7C15u;
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
    return word ^ (word >> 31);
}

enum class Mask { None, Drawn, Stored };

// to = from · mask · factor. A mask that is drawn is stored too, a byte an element. `count` is a multiple of RUN.
template <class T, Mask kind> __device__ __forceinline__ void multiply(const Elementwise& arguments) {
    const uint64_t first = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * RUN;
    if (first >= arguments.count) return;
    auto* mask = reinterpret_cast<Run<uint8_t>*>(arguments.mask + first);
    Run<T> run = *reinterpret_cast<const Run<T>*>(arguments.from + first * sizeof(T));
    Run<uint8_t> keep;
    if (kind == Mask::Stored) keep = *mask;
    if (kind == Mask::Drawn) {
#pragma unroll
        for (int i = 0; i < RUN; i += 4) {
            const uint64_t word = draw_four(arguments.seed, first + i);
#pragma unroll
            for (int j = 0; j < 4; j++) keep.values[i + j] = uint32_t(word >> 16 * j & 0xFFFF) >= arguments.threshold;
        }
        *mask = keep;
    }
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        const float kept = kind == Mask::None || keep.values[i] ? arguments.factor : 0.0f;
        round_to(run.values[i], to_float(run.values[i]) * kept);
    }
    *reinterpret_cast<Run<T>*>(arguments.to + first * sizeof(T)) = run;
}

#define ELEMENTWISE(name, T)                                                                             \
    LORA_KERNEL(scaled_##name, Elementwise, THREADS) { multiply<T, Mask::None>(arguments); }             \
    LORA_KERNEL(dropped_##name, Elementwise, THREADS) { multiply<T, Mask::Drawn>(arguments); }           \
    LORA_KERNEL(masked_##name, Elementwise, THREADS) { multiply<T, Mask::Stored>(arguments); }

ELEMENTWISE(f32, float)
ELEMENTWISE(f16, __half)
ELEMENTWISE(bf16, __nv_bfloat16)

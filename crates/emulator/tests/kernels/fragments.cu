// One warp multiplies X [16, k] and Y [k, 8], all in row-major order, from fragments filled by hand or by ldmatrix.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "arch/kernel.cuh"
#include "arch/ldmatrix.cuh"
#include "arch/mma.cuh"

struct Factors {
    uint64_t a, b, c;
};

template <class T>
__device__ uint32_t pack(T low, T high) {
    unsigned short bits[2];
    memcpy(bits, &low, 2);
    memcpy(bits + 1, &high, 2);
    return bits[0] | static_cast<uint32_t>(bits[1]) << 16;
}

// C holds the sum's start. Element i of a lane's accumulator is row lane/4 (+8 for i >= 2), column 2(lane%4) + i%2.
template <class Product>
__device__ void with_accumulator(float* c, Product product) {
    unsigned row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = c[(row + i / 2 * 8) * 8 + column + i % 2];
    product(d);
    for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + column + i % 2] = d[i];
}

template <class T>
__device__ void multiply_by_hand(const Factors& arguments) {
    auto* a = reinterpret_cast<const T*>(arguments.a);
    auto* b = reinterpret_cast<const T*>(arguments.b);
    unsigned group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
    uint32_t a_registers[4], b_registers[2];
    for (int i = 0; i < 4; i++) {
        const T* element = a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
        a_registers[i] = pack(element[0], element[1]);
    }
    for (int i = 0; i < 2; i++) b_registers[i] = pack(b[(pair + i * 8) * 8 + group], b[(pair + 1 + i * 8) * 8 + group]);
    with_accumulator(reinterpret_cast<float*>(arguments.c),
                     [&](float (&d)[4]) { mma_m16n8k16(d, a_registers, b_registers, T()); });
}
LORA_KERNEL(multiply_bf16, Factors, 32) { multiply_by_hand<__nv_bfloat16>(arguments); }
LORA_KERNEL(multiply_f16, Factors, 32) { multiply_by_hand<__half>(arguments); }

LORA_KERNEL(multiply_tf32, Factors, 32) {
    auto* a = reinterpret_cast<const float*>(arguments.a);
    auto* b = reinterpret_cast<const float*>(arguments.b);
    unsigned group = threadIdx.x / 4, within = threadIdx.x % 4;
    uint32_t a_registers[4], b_registers[2];
    for (int i = 0; i < 4; i++) a_registers[i] = to_tf32(a[(group + i % 2 * 8) * 8 + within + i / 2 * 4]);
    for (int i = 0; i < 2; i++) b_registers[i] = to_tf32(b[(within + i * 4) * 8 + group]);
    with_accumulator(reinterpret_cast<float*>(arguments.c),
                     [&](float (&d)[4]) { mma_m16n8k8_tf32(d, a_registers, b_registers); });
}

// The same through shared memory and ldmatrix.
LORA_KERNEL(multiply_ldmatrix, Factors, 32) {
    __shared__ __align__(16) __nv_bfloat16 a_tile[16][24];
    __shared__ __align__(16) __nv_bfloat16 b_tile[16][8];
    auto* a = reinterpret_cast<const __nv_bfloat16*>(arguments.a);
    auto* b = reinterpret_cast<const __nv_bfloat16*>(arguments.b);
    for (unsigned i = threadIdx.x; i < 256; i += 32) a_tile[i / 16][i % 16] = a[i];
    for (unsigned i = threadIdx.x; i < 128; i += 32) b_tile[i / 8][i % 8] = b[i];
    __syncwarp();
    uint32_t a_registers[4], b_registers[2];
    ldmatrix_x4(a_registers, &a_tile[threadIdx.x % 16][threadIdx.x / 16 * 8]);
    ldmatrix_x2_transposed(b_registers, &b_tile[threadIdx.x % 16][0]);
    with_accumulator(reinterpret_cast<float*>(arguments.c),
                     [&](float (&d)[4]) { mma_m16n8k16(d, a_registers, b_registers, __nv_bfloat16()); });
}

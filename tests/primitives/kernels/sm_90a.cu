// The wrappers that only Hopper has.
#include "arch/fence.cuh"
#include "arch/mbarrier.cuh"
#include "arch/named_barrier.cuh"
#include "arch/registers.cuh"
#include "arch/tma.cuh"
#include "arch/wgmma.cuh"
#include "boxes.cuh"
#include "vectors.cuh"
#include <type_traits>

// The factor at an address, in one of the layouts of 64-bit descriptors.
__device__ uint64_t factor(uint32_t address, Swizzle swizzle, bool transposed) {
    if (swizzle == Swizzle::none) return wgmma_descriptor(address, 128, 256, swizzle);
    uint32_t row_bytes = swizzle == Swizzle::bytes_32 ? 32 : swizzle == Swizzle::bytes_64 ? 64 : 128;
    return wgmma_descriptor(address, transposed ? 16 * row_bytes : 16, 8 * row_bytes, swizzle);
}

// The input's 16 KiB are the images of A and B in shared memory. D = A B, then D += A B.
template <class T, int n, bool a_transposed, bool b_transposed, class A>
__device__ void multiply(const Vectors& arguments, A& a, uint64_t b) {
    float d[n / 2];
    for (float& value : d) value = -1.0f;
    if constexpr (std::is_array_v<A>) wgmma_fence(d, a);
    else wgmma_fence(d);
    wgmma<T, a_transposed, b_transposed>(d, a, b, false);
    wgmma_commit();
    wgmma<T, a_transposed, b_transposed>(d, a, b, true);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_wait<0>(d);
    // Larger tiles are given as one sum a thread, in which each register has a weight of its own. It is exact.
    if constexpr (n == 8) {
        for (int i = 0; i < n / 2; i++) output_words(arguments.output)[threadIdx.x * (n / 2) + i] = float_bits(d[i]);
    } else {
        float sum = 0.0f;
        for (int i = 0; i < n / 2; i++) sum += static_cast<float>(i + 1) * d[i];
        output_words(arguments.output)[threadIdx.x] = float_bits(sum);
    }
}

constexpr unsigned image_bytes = 8192;

__device__ void copy_images(const Vectors& arguments, unsigned char* images) {
    for (unsigned i = threadIdx.x; i < 2 * image_bytes / 4; i += 128) {
        reinterpret_cast<uint32_t*>(images)[i] = input_words(arguments.input)[i];
    }
    fence_async_shared();
    __syncthreads();
}

template <class T, int n, Swizzle a_swizzle, bool a_transposed, Swizzle b_swizzle, bool b_transposed>
__device__ void multiply_shared(const Vectors& arguments) {
    LORA_DYNAMIC_SHARED(images);
    copy_images(arguments, images);
    uint64_t a = factor(shared_address(images), a_swizzle, a_transposed);
    multiply<T, n, a_transposed, b_transposed>(arguments, a,
                                               factor(shared_address(images + image_bytes), b_swizzle, b_transposed));
}

template <class T, int n, Swizzle b_swizzle, bool b_transposed>
__device__ void multiply_registers(const Vectors& arguments) {
    LORA_DYNAMIC_SHARED(images);
    copy_images(arguments, images);
    uint32_t a[4];
    for (int i = 0; i < 4; i++) a[i] = input_words(arguments.input)[threadIdx.x * 4 + i];
    multiply<T, n, false, b_transposed>(arguments, a,
                                        factor(shared_address(images + image_bytes), b_swizzle, b_transposed));
}

LORA_KERNEL(wgmma_8_f16, Vectors, 128) {
    multiply_shared<__half, 8, Swizzle::none, false, Swizzle::none, false>(arguments);
}
LORA_KERNEL(wgmma_16_bf16, Vectors, 128) {
    multiply_shared<__nv_bfloat16, 16, Swizzle::bytes_64, false, Swizzle::bytes_128, false>(arguments);
}
LORA_KERNEL(wgmma_32_f16_registers, Vectors, 128) {
    multiply_registers<__half, 32, Swizzle::bytes_32, false>(arguments);
}
LORA_KERNEL(wgmma_64_bf16_registers, Vectors, 128) {
    multiply_registers<__nv_bfloat16, 64, Swizzle::bytes_64, true>(arguments);
}
LORA_KERNEL(wgmma_64_f16_transposed, Vectors, 128) {
    multiply_shared<__half, 64, Swizzle::bytes_128, true, Swizzle::bytes_64, false>(arguments);
}
LORA_KERNEL(wgmma_64_bf16, Vectors, 128) {
    multiply_shared<__nv_bfloat16, 64, Swizzle::bytes_128, false, Swizzle::bytes_128, true>(arguments);
}
LORA_KERNEL(wgmma_128_f16_transposed, Vectors, 128) {
    multiply_shared<__half, 128, Swizzle::none, true, Swizzle::none, true>(arguments);
}
LORA_KERNEL(wgmma_256_bf16, Vectors, 128) {
    multiply_shared<__nv_bfloat16, 256, Swizzle::bytes_32, true, Swizzle::bytes_32, false>(arguments);
}

// Of three warpgroups with 168 registers a thread, one gives up what the others take.
__device__ __forceinline__ void move_registers(const Vectors& arguments) {
    if (threadIdx.x < 128) decrease_registers<24>();
    else increase_registers<240>();
    if (threadIdx.x % 4 == 0) {
        const uint32_t i = (blockIdx.x * blockDim.x + threadIdx.x) / 4;
        output_words(arguments.output)[i] = ~input_words(arguments.input)[4 * i];
    }
}
LORA_KERNEL(moved_registers, Vectors, 384) { move_registers(arguments); }
LORA_CLUSTER_KERNEL(moved_registers_in_cluster, Vectors, 384, 2) { move_registers(arguments); }

#include "tile_products.cuh"

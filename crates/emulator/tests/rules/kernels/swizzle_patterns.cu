// Swizzled tiles at byte n of dynamic shared memory.
#include "arch/fence.cuh"
#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "arch/wgmma.cuh"
#include "arguments.cuh"

LORA_KERNEL(loads_a_tile, Arguments, 64) {
    LORA_DYNAMIC_SHARED(bytes);
    __shared__ uint64_t barrier;
    uint32_t box = arguments.unused;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        mbarrier_fence_init();
        mbarrier_arrive_expect(&barrier, box);
        tma_load_2d(bytes + arguments.n, &arguments.from, &barrier, 0, 8);
    }
    __syncthreads();
    mbarrier_wait(&barrier, 0);
    auto* words = reinterpret_cast<uint32_t*>(bytes + arguments.n);
    for (unsigned i = threadIdx.x; i < box / 4; i += 64) output(arguments)[i] = words[i];
}

// A is 64 x 16 and B 16 x 8, of ones, in one tile of ones.
template <Swizzle swizzle, int row_bytes, bool transposed>
__device__ void multiply_a_tile(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    for (unsigned i = threadIdx.x; i < 4096; i += 128) words[i] = 0x3f803f80;
    fence_async_shared();
    __syncthreads();
    uint64_t tile = wgmma_descriptor(shared_address(bytes) + arguments.n, transposed ? 16 * row_bytes : 16, 8 * row_bytes, swizzle);
    float d[4];
    wgmma_fence(d);
    wgmma<__nv_bfloat16, transposed, false>(d, tile, wgmma_descriptor(shared_address(bytes), 16, 8 * row_bytes, swizzle), false);
    wgmma_commit();
    wgmma_wait<0>(d);
    for (int i = 0; i < 4; i++) output(arguments)[threadIdx.x * 4 + i] = static_cast<uint32_t>(d[i]);
}
LORA_KERNEL(multiplies_128, Arguments, 128) { multiply_a_tile<Swizzle::bytes_128, 128, false>(arguments); }
LORA_KERNEL(multiplies_64, Arguments, 128) { multiply_a_tile<Swizzle::bytes_64, 64, false>(arguments); }
LORA_KERNEL(multiplies_32, Arguments, 128) { multiply_a_tile<Swizzle::bytes_32, 32, false>(arguments); }
LORA_KERNEL(multiplies_128_transposed, Arguments, 128) { multiply_a_tile<Swizzle::bytes_128, 128, true>(arguments); }

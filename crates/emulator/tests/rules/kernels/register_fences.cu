// Registers that wgmma takes: A of ones in registers, B of ones in shared memory.
#include "arch/fence.cuh"
#include "arch/wgmma.cuh"
#include "arguments.cuh"

enum class Fault { none, new_factor, new_accumulator, changes_factor_in_flight, changes_accumulator_in_flight, names_neither };

// Twice D = A B, D += A B with A changed between, and E along with it.
template <Fault fault>
__device__ void multiply(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    for (unsigned i = threadIdx.x; i < 256; i += 128) words[i] = 0x3f803f80;
    fence_async_shared();
    __syncthreads();
    uint64_t b = wgmma_descriptor(shared_address(bytes), 16, 1024, Swizzle::bytes_128);
    uint32_t a[2][4];
    float d[4] = {1, 2, 3, 4}, e[4] = {5, 6, 7, 8};
    for (uint32_t& word : a[0]) word = 0x3f803f80;
    for (uint32_t& word : a[1]) word = 0;
    if (fault == Fault::names_neither) wgmma_fence();
    else wgmma_fence(d, a[0]);
    wgmma<__nv_bfloat16, false, false>(d, a[0], b, true);
    wgmma_commit();
    if (fault == Fault::changes_factor_in_flight) a[0][2] = 0x40004000;
    if (fault == Fault::changes_accumulator_in_flight) d[1] += 1.0f;
    // The second factor is read while the first product runs.
    if (fault != Fault::new_factor) {
        for (uint32_t& word : a[1]) word = 0x40004000;
    }
    wgmma_fence(e, a[1]);
    if (fault == Fault::new_factor) {
        for (uint32_t& word : a[1]) word = 0x40004000;
    }
    wgmma<__nv_bfloat16, false, false>(e, a[1], b, true);
    wgmma_commit();
    wgmma_wait<1>(d);
    for (float& value : d) value += 100.0f;
    if (fault != Fault::new_accumulator) wgmma_fence(d, a[1]);
    wgmma<__nv_bfloat16, false, false>(d, a[1], b, true);
    wgmma_commit();
    wgmma_wait<0>(d, e);
    for (int i = 0; i < 4; i++) {
        output(arguments)[threadIdx.x * 8 + i] = static_cast<uint32_t>(d[i]);
        output(arguments)[threadIdx.x * 8 + 4 + i] = static_cast<uint32_t>(e[i]);
    }
}
LORA_KERNEL(multiplies, Arguments, 128) { multiply<Fault::none>(arguments); }
LORA_KERNEL(names_neither, Arguments, 128) { multiply<Fault::names_neither>(arguments); }
LORA_KERNEL(new_factor_after_the_fence, Arguments, 128) { multiply<Fault::new_factor>(arguments); }
LORA_KERNEL(new_accumulator_without_a_fence, Arguments, 128) { multiply<Fault::new_accumulator>(arguments); }
LORA_KERNEL(changes_factor_in_flight, Arguments, 128) { multiply<Fault::changes_factor_in_flight>(arguments); }
LORA_KERNEL(changes_accumulator_in_flight, Arguments, 128) { multiply<Fault::changes_accumulator_in_flight>(arguments); }

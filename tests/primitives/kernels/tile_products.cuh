// Products of tiles that TMA brought, of several steps and several groups.
#pragma once

// One word a thread, in which each register has a weight of its own. It is exact.
template <int count>
__device__ __forceinline__ uint32_t weighted(const float (&d)[count]) {
    float sum = 0.0f;
    for (int i = 0; i < count; i++) sum += static_cast<float>(i + 1) * d[i];
    return float_bits(sum);
}

// A [128, 64] and B [64, 256], 128-byte swizzled, by two warpgroups. `turned` factors are stored with k as their slow
// direction, in boxes of 64 columns.
template <bool turned>
__device__ void multiply_tiles(const Boxes& arguments) {
    constexpr uint32_t a_bytes = 128 * 128, b_bytes = 256 * 128, box_bytes = 64 * 128;
    LORA_DYNAMIC_SHARED(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes + a_bytes + b_bytes);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_fence_init();
        mbarrier_arrive_expect(barrier, a_bytes + b_bytes);
        if (turned) {
            for (int i = 0; i < 2; i++) tma_load_2d(bytes + i * box_bytes, &arguments.from, barrier, i * 64, 0);
            for (int i = 0; i < 4; i++) tma_load_2d(bytes + a_bytes + i * box_bytes, &arguments.to, barrier, i * 64, 0);
        } else {
            tma_load_2d(bytes, &arguments.from, barrier, 0, 0);
            tma_load_2d(bytes + a_bytes, &arguments.to, barrier, 0, 0);
        }
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
    uint32_t a = shared_address(bytes) + threadIdx.x / 128 * box_bytes, b = shared_address(bytes) + a_bytes;
    // Between 64 columns of a turned factor, and between 8 rows of either.
    constexpr uint32_t leading = turned ? box_bytes : 16, step = turned ? 16 * 128 : 32;
    float d[128];
    wgmma_fence(d);
    for (int k = 0; k < 4; k++) {
        wgmma<__nv_bfloat16, turned, turned>(d, wgmma_descriptor(a + k * step, leading, 1024, Swizzle::bytes_128),
                                             wgmma_descriptor(b + k * step, leading, 1024, Swizzle::bytes_128), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(d);
    output_words(arguments.output)[threadIdx.x] = weighted(d);
}
LORA_KERNEL(tiles_256_bf16, Boxes, 256) { multiply_tiles<false>(arguments); }
LORA_KERNEL(tiles_256_bf16_turned, Boxes, 256) { multiply_tiles<true>(arguments); }

// Two accumulators and two factors in registers in turn, with a group in flight while the next factor is read.
LORA_KERNEL(two_groups_in_flight, Vectors, 128) {
    LORA_DYNAMIC_SHARED(images);
    copy_images(arguments, images);
    uint64_t b = factor(shared_address(images), Swizzle::bytes_64, false);
    uint32_t a[2][4];
    float d[2][32];
    for (auto& accumulator : d) {
        for (float& value : accumulator) value = 1.0f;
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
        for (int i = 0; i < 4; i++) a[step % 2][i] = input_words(arguments.input)[(step * 128 + threadIdx.x) * 4 + i];
        wgmma_fence(d[step % 2], a[step % 2]);
        wgmma<__nv_bfloat16, false, false>(d[step % 2], a[step % 2], b, true);
        wgmma_commit();
        // The older one is done: its accumulators and its factor are free.
        wgmma_wait<1>(d[step % 2 ^ 1], a[step % 2 ^ 1]);
        if (step > 0) {
            for (float& value : d[step % 2 ^ 1]) value += 2.0f;
        }
    }
    wgmma_wait<0>(d[0], d[1]);
    output_words(arguments.output)[threadIdx.x] = weighted(d[0]);
    output_words(arguments.output)[128 + threadIdx.x] = weighted(d[1]);
}

// Consumers that need more registers a thread than a block of 384 threads starts with.
LORA_CLUSTER_KERNEL(many_live_values_in_cluster, Vectors, 384, 2) {
    if (threadIdx.x < 128) {
        decrease_registers<24>();
        return;
    }
    increase_registers<240>();
    constexpr int values = 200;
    const uint32_t* input = input_words(arguments.input) + blockIdx.x * 256 + threadIdx.x - 128;
    uint32_t v[values];
#pragma unroll
    for (int i = 0; i < values; i++) v[i] = input[i];
    for (int round = 0; round < 3; round++) {
#pragma unroll
        for (int i = 0; i < values; i++) v[i] = v[i] * 3 + v[(i + 37) % values];
    }
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < values; i++) sum = sum * 5 + v[i];
    output_words(arguments.output)[blockIdx.x * 256 + threadIdx.x - 128] = sum;
}

// Two warpgroups take turns at a state that remembers the order.
LORA_KERNEL(warpgroups_in_turn, Vectors, 256) {
    __shared__ uint32_t state[128];
    unsigned group = threadIdx.x / 128, thread = threadIdx.x % 128, steps = 4;
    if (group == 1) {
        state[thread] = thread;
        named_barrier_arrive(1, 256);
    }
    for (unsigned step = 0; step < steps; step++) {
        named_barrier_sync(1 + group, 256);
        state[thread] = state[thread] * 5 + input_words(arguments.input)[step * 256 + threadIdx.x];
        if (step * 2 + group + 1 < steps * 2) named_barrier_arrive(2 - group, 256);
    }
    if (group == 1) output_words(arguments.output)[thread] = state[thread];
}

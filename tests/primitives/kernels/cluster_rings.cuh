// Clusters of two blocks.
#pragma once

// Each block loads half of a tile for both, through a ring of two stages; the last arrivals are waited for.
LORA_CLUSTER_KERNEL(multicast_ring, Boxes, 64, 2) {
    constexpr unsigned stages = 2, steps = 8, half = 512;
    LORA_DYNAMIC_SHARED(bytes);
    auto* full = reinterpret_cast<uint64_t*>(bytes + stages * 2 * half);
    auto* empty = full + stages;
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (unsigned stage = 0; stage < stages; stage++) {
            mbarrier_init(&full[stage], 1);
            mbarrier_init(&empty[stage], 2);
        }
        mbarrier_fence_init();
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x == 0) {
        for (unsigned step = 0; step < steps; step++) {
            unsigned stage = step % stages;
            mbarrier_wait(&empty[stage], step / stages % 2 ^ 1);
            // The other block's half may have come before.
            mbarrier_arrive_expect(&full[stage], 2 * half);
            tma_load_2d_multicast(bytes + (stage * 2 + cluster_rank()) * half, &arguments.from, &full[stage], 0,
                                  step * 8 + cluster_rank() * 4, 3);
        }
        // Both blocks' consumers are done with both blocks' stages.
        for (unsigned step = steps; step < steps + stages; step++) {
            mbarrier_wait(&empty[step % stages], step / stages % 2 ^ 1);
        }
    } else if (warp == 1) {
        for (unsigned step = 0; step < steps; step++) {
            unsigned stage = step % stages;
            mbarrier_wait(&full[stage], step / stages % 2);
            auto* words = reinterpret_cast<uint32_t*>(bytes + stage * 2 * half);
            uint32_t sum = 0;
            for (unsigned i = 0; i < 8; i++) sum += (i + 1) * words[i * 32 + (lane ^ i)];
            output_words(arguments.output)[(blockIdx.x * steps + step) * 32 + lane] = sum;
            __syncwarp();
            if (lane < 2) mbarrier_arrive_remote(&empty[stage], lane);
        }
    }
}

// Each block stores words in the other's memory, with barriers of cluster scope.
LORA_CLUSTER_KERNEL(cluster_handover, Vectors, 32, 2) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes + 128);
    uint32_t other = cluster_rank() ^ 1;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 32);
        mbarrier_fence_init();
    }
    cluster_arrive();
    cluster_wait();
    cluster_pointer(words, other)[threadIdx.x ^ 1] = input_words(arguments.input)[blockIdx.x * 32 + threadIdx.x];
    mbarrier_arrive_remote_cluster(barrier, other);
    mbarrier_wait_cluster(barrier, 0);
    output_words(arguments.output)[blockIdx.x * 32 + threadIdx.x] = words[threadIdx.x];
}

// Two blocks that each take all the shared memory that there is, and read each other's last words.
LORA_CLUSTER_KERNEL(cluster_of_227_kib, Vectors, 32, 2) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* first = reinterpret_cast<uint32_t*>(bytes);
    auto* last = reinterpret_cast<uint32_t*>(bytes + 227 * 1024) - 32;
    first[threadIdx.x] = input_words(arguments.input)[blockIdx.x * 64 + threadIdx.x];
    last[threadIdx.x] = input_words(arguments.input)[blockIdx.x * 64 + 32 + threadIdx.x];
    cluster_arrive();
    cluster_wait();
    uint32_t* output = output_words(arguments.output) + blockIdx.x * 64;
    output[threadIdx.x] = cluster_pointer(first, cluster_rank() ^ 1)[threadIdx.x];
    output[32 + threadIdx.x] = cluster_pointer(last, cluster_rank() ^ 1)[threadIdx.x];
    cluster_arrive();
    cluster_wait();
}

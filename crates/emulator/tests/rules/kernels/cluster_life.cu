// Two blocks: what must have happened before one uses the other's shared memory, and before it ends.
#include "arch/cluster.cuh"
#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "arguments.cuh"

enum class Fault { none, no_cluster_barrier, late_fence, no_fence, no_drain, arrives_and_ends };

// Every thread of block 1 arrives at a barrier of block 0.
template <Fault fault>
__device__ void arrive_remotely(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 32);
        if (fault != Fault::late_fence && fault != Fault::no_fence) mbarrier_fence_init();
    }
    if (fault != Fault::no_cluster_barrier) {
        cluster_arrive();
        cluster_wait();
    }
    if (fault == Fault::late_fence && threadIdx.x == 0) mbarrier_fence_init();
    if (cluster_rank() == 1) mbarrier_arrive_remote(barrier, 0);
    else if (fault != Fault::no_drain) mbarrier_wait(barrier, 0);
    output(arguments)[blockIdx.x * 32 + threadIdx.x] = blockIdx.x;
    if (fault == Fault::arrives_and_ends) cluster_arrive();
}
LORA_CLUSTER_KERNEL(arrives_remotely, Arguments, 32, 2) { arrive_remotely<Fault::none>(arguments); }
LORA_CLUSTER_KERNEL(arrives_before_a_cluster_barrier, Arguments, 32, 2) { arrive_remotely<Fault::no_cluster_barrier>(arguments); }
LORA_CLUSTER_KERNEL(fences_after_the_cluster_barrier, Arguments, 32, 2) { arrive_remotely<Fault::late_fence>(arguments); }
LORA_CLUSTER_KERNEL(does_not_fence_its_barrier, Arguments, 32, 2) { arrive_remotely<Fault::no_fence>(arguments); }
LORA_CLUSTER_KERNEL(ends_before_the_arrival, Arguments, 32, 2) { arrive_remotely<Fault::no_drain>(arguments); }
LORA_CLUSTER_KERNEL(arrives_and_ends, Arguments, 32, 2) { arrive_remotely<Fault::arrives_and_ends>(arguments); }

// Block 1 stores words in block 0's memory and says so.
template <bool store_has_cluster_scope, bool wait_has_cluster_scope>
__device__ void hand_over(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes + 128);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 32);
        mbarrier_fence_init();
    }
    cluster_arrive();
    cluster_wait();
    if (cluster_rank() == 1) {
        cluster_pointer(words, 0)[threadIdx.x] = input(arguments)[threadIdx.x];
        if (store_has_cluster_scope) mbarrier_arrive_remote_cluster(barrier, 0);
        else mbarrier_arrive_remote(barrier, 0);
    } else {
        if (wait_has_cluster_scope) mbarrier_wait_cluster(barrier, 0);
        else mbarrier_wait(barrier, 0);
        output(arguments)[threadIdx.x] = words[threadIdx.x ^ 1];
    }
    cluster_arrive();
    cluster_wait();
}
LORA_CLUSTER_KERNEL(hands_over, Arguments, 32, 2) { hand_over<true, true>(arguments); }
LORA_CLUSTER_KERNEL(hands_over_with_block_scope, Arguments, 32, 2) { hand_over<false, true>(arguments); }
LORA_CLUSTER_KERNEL(takes_over_with_block_scope, Arguments, 32, 2) { hand_over<true, false>(arguments); }

// Block 0 loads a box for the blocks in `receivers`; where `own_only`, block 1 takes it for its box too that block 0 has its.
template <uint16_t receivers, bool own_only>
__device__ void multicast(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    auto* full = reinterpret_cast<uint64_t*>(bytes + box_bytes);
    auto* told = full + 1;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(told, 1);
        mbarrier_fence_init();
        mbarrier_arrive_expect(full, box_bytes);
    }
    cluster_arrive();
    cluster_wait();
    if (cluster_rank() == 0 && threadIdx.x == 0) tma_load_2d_multicast(words, &arguments.from, full, 0, 8, receivers);
    if (cluster_rank() == 0 || !own_only) mbarrier_wait(full, 0);
    if (cluster_rank() == 0 && threadIdx.x == 0) mbarrier_arrive_remote_cluster(told, 1);
    if (cluster_rank() == 1 && own_only) mbarrier_wait_cluster(told, 0);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 32) output(arguments)[blockIdx.x * box_bytes / 4 + i] = words[i];
    cluster_arrive();
    cluster_wait();
}
LORA_CLUSTER_KERNEL(multicasts, Arguments, 32, 2) { multicast<3, false>(arguments); }
LORA_CLUSTER_KERNEL(takes_one_box_for_both, Arguments, 32, 2) { multicast<3, true>(arguments); }
LORA_CLUSTER_KERNEL(multicasts_to_nobody, Arguments, 32, 2) { multicast<0, false>(arguments); }
LORA_CLUSTER_KERNEL(multicasts_beyond_the_cluster, Arguments, 32, 2) { multicast<7, false>(arguments); }

LORA_CLUSTER_KERNEL(declares_sixteen_blocks, Arguments, 32, 16) { output(arguments)[blockIdx.x * 32 + threadIdx.x] = 1; }

// Its clusters are what the launch says.
LORA_KERNEL(any_cluster, Arguments, 32) {
    output(arguments)[blockIdx.x * 32 + threadIdx.x] = cluster_rank() << 16 | cluster_blocks();
    cluster_arrive();
    cluster_wait();
}

// Barriers that warps execute as one.
#include "arch/cluster.cuh"
#include "arch/named_barrier.cuh"
#include "arguments.cuh"

__device__ __forceinline__ void done(const Arguments& arguments) {
    output(arguments)[blockIdx.x * 128 + threadIdx.x] = input(arguments)[threadIdx.x];
}

LORA_KERNEL(block_barrier_together, Arguments, 128) {
    if (threadIdx.x % 32 < 16) __nanosleep(1);
    __syncthreads();
    done(arguments);
}
LORA_KERNEL(block_barrier_in_halves, Arguments, 128) {
    uint32_t* own = output(arguments) + 2048 + threadIdx.x;
    // Not one call for both, as a compiler might make of calls alone.
    if (threadIdx.x % 32 < 16) {
        __syncthreads();
        *own = 1;
    } else {
        __syncthreads();
        *own = 2;
    }
    done(arguments);
}
LORA_CLUSTER_KERNEL(cluster_barrier_together, Arguments, 128, 2) {
    if (threadIdx.x % 32 < 16) __nanosleep(1);
    cluster_arrive();
    cluster_wait();
    done(arguments);
}
LORA_CLUSTER_KERNEL(cluster_barrier_in_halves, Arguments, 128, 2) {
    uint32_t* own = output(arguments) + 2048 + blockIdx.x * 128 + threadIdx.x;
    if (threadIdx.x % 32 < 16) {
        cluster_arrive();
        *own = 1;
    } else {
        cluster_arrive();
        *own = 2;
    }
    cluster_wait();
    done(arguments);
}
// Two warps, by themselves.
LORA_KERNEL(named_barrier_of_warps, Arguments, 128) {
    if (threadIdx.x < 64) named_barrier_sync(1, 64);
    done(arguments);
}
// Sixty-four threads, too, but of four warps.
LORA_KERNEL(named_barrier_of_half_warps, Arguments, 128) {
    if (threadIdx.x % 32 < 16) named_barrier_sync(1, 64);
    done(arguments);
}
LORA_KERNEL(arrival_of_half_warps, Arguments, 128) {
    if (threadIdx.x % 32 < 16) named_barrier_arrive(1, 128);
    else named_barrier_sync(1, 128);
    done(arguments);
}
// Lanes that have ended take no part.
LORA_KERNEL(block_barrier_without_ended_lanes, Arguments, 128) {
    done(arguments);
    if (threadIdx.x % 32 >= 16) return;
    __syncthreads();
}

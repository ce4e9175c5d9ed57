// Declared and dynamic shared memory of one block.
#include "arch/cluster.cuh"
#include "arguments.cuh"

__device__ __forceinline__ void use_dynamic(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* last = reinterpret_cast<uint32_t*>(bytes + arguments.n) - 64;
    last[threadIdx.x] = input(arguments)[threadIdx.x];
    __syncthreads();
    output(arguments)[blockIdx.x * 64 + threadIdx.x] = last[threadIdx.x ^ 1];
}
LORA_KERNEL(dynamic_only, Arguments, 64) { use_dynamic(arguments); }
LORA_CLUSTER_KERNEL(dynamic_only_in_cluster, Arguments, 64, 2) {
    use_dynamic(arguments);
    cluster_arrive();
    cluster_wait();
}
LORA_KERNEL(dynamic_and_eight_bytes, Arguments, 64) {
    __shared__ uint32_t small[2];
    if (threadIdx.x < 2) small[threadIdx.x] = input(arguments)[threadIdx.x];
    use_dynamic(arguments);
    output(arguments)[64 + threadIdx.x] = small[threadIdx.x % 2];
}
LORA_KERNEL(declares_too_much, Arguments, 64) {
    __shared__ uint32_t large[12 * 1024 + 64];
    large[arguments.n + threadIdx.x] = input(arguments)[threadIdx.x];
    output(arguments)[threadIdx.x] = large[arguments.n + threadIdx.x];
}

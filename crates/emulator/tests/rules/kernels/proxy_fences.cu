// Ordinary stores to what TMA reads or overwrites.
#include "arch/fence.cuh"
#include "arch/mbarrier.cuh"
#include "arch/tma.cuh"
#include "arguments.cuh"

enum class Fence { by_writers, by_reader, none, of_the_other_space };

template <Fence fence>
__device__ void before_barrier(bool global) {
    if (fence == Fence::by_writers ? global : fence == Fence::of_the_other_space && !global) fence_async_global();
    if (fence == Fence::by_writers ? !global : fence == Fence::of_the_other_space && global) fence_async_shared();
}
template <Fence fence>
__device__ void after_barrier() {
    if (fence == Fence::by_reader && threadIdx.x == 0) fence_async_global(), fence_async_shared();
}

__device__ __forceinline__ void load(const CUtensorMap* map, void* tile, uint64_t* barrier, int row) {
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_fence_init();
        mbarrier_arrive_expect(barrier, box_bytes);
        tma_load_2d(tile, map, barrier, 0, row);
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
}

// Shared memory holds what threads stored, and becomes a box.
template <Fence fence>
__device__ void reuse(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes + box_bytes);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) words[i] = i;
    before_barrier<fence>(false);
    __syncthreads();
    after_barrier<fence>();
    load(&arguments.from, bytes, barrier, 8);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) output(arguments)[i] = words[i];
}
LORA_KERNEL(reuses, Arguments, 64) { reuse<Fence::by_writers>(arguments); }
LORA_KERNEL(reuses_fenced_by_reader, Arguments, 64) { reuse<Fence::by_reader>(arguments); }
LORA_KERNEL(reuses_unfenced, Arguments, 64) { reuse<Fence::none>(arguments); }
LORA_KERNEL(reuses_with_a_global_fence, Arguments, 64) { reuse<Fence::of_the_other_space>(arguments); }

// Threads store a box in shared memory, and TMA stores it.
template <Fence fence>
__device__ void store(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) words[i] = input(arguments)[256 + i];
    before_barrier<fence>(false);
    __syncthreads();
    after_barrier<fence>();
    if (threadIdx.x == 0) {
        tma_store_2d(&arguments.to, bytes, 0, 0);
        tma_store_commit();
        tma_store_wait<0>();
    }
}
LORA_KERNEL(stores, Arguments, 64) { store<Fence::by_writers>(arguments); }
LORA_KERNEL(stores_fenced_by_reader, Arguments, 64) { store<Fence::by_reader>(arguments); }
LORA_KERNEL(stores_unfenced, Arguments, 64) { store<Fence::none>(arguments); }

// Threads store a box in global memory, and TMA loads it.
template <Fence fence>
__device__ void read_back(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes + box_bytes);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) output(arguments)[256 + i] = input(arguments)[256 + i];
    before_barrier<fence>(true);
    __syncthreads();
    after_barrier<fence>();
    load(&arguments.to, bytes, barrier, 8);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) output(arguments)[i] = words[i];
}
LORA_KERNEL(reads_back, Arguments, 64) { read_back<Fence::by_writers>(arguments); }
LORA_KERNEL(reads_back_fenced_by_reader, Arguments, 64) { read_back<Fence::by_reader>(arguments); }
LORA_KERNEL(reads_back_unfenced, Arguments, 64) { read_back<Fence::none>(arguments); }
LORA_KERNEL(reads_back_with_a_shared_fence, Arguments, 64) { read_back<Fence::of_the_other_space>(arguments); }

// The last block stores a box in global memory and raises a flag behind it; block 0 loads the box.
template <bool writer_fences, bool reader_fences>
__device__ void publish(const Arguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    auto* barrier = reinterpret_cast<uint64_t*>(bytes + box_bytes);
    uint32_t* flag = output(arguments) + 4095;
    if (blockIdx.x > 0) {
        for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) output(arguments)[256 + i] = input(arguments)[256 + i];
        if (writer_fences) fence_async_global();
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicExch(flag, 1u);
        }
        return;
    }
    if (threadIdx.x == 0) {
        while (atomicAdd(flag, 0u) != 1u) __nanosleep(32);
        __threadfence();
        if (reader_fences) fence_async_global();
    }
    load(&arguments.to, bytes, barrier, 8);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += 64) output(arguments)[i] = words[i];
}
LORA_KERNEL(publishes, Arguments, 64) { publish<true, true>(arguments); }
LORA_KERNEL(publishes_unfenced, Arguments, 64) { publish<false, true>(arguments); }
LORA_KERNEL(reads_what_is_published_unfenced, Arguments, 64) { publish<true, false>(arguments); }

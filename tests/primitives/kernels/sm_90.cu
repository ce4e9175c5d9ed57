// The wrappers that Hopper brought, and later GPUs have too.
#include "arch/cluster.cuh"
#include "arch/fence.cuh"
#include "arch/grid_dependency.cuh"
#include "arch/mbarrier.cuh"
#include "arch/named_barrier.cuh"
#include "arch/stmatrix.cuh"
#include "arch/tma.cuh"
#include "boxes.cuh"
#include "vectors.cuh"

template <int matrices, class Store>
__device__ void store_matrices(const Vectors& arguments, Store store) {
    __shared__ __align__(16) uint32_t tile[4 * 8][4];
    uint32_t registers[matrices];
    for (int i = 0; i < matrices; i++) registers[i] = input_words(arguments.input)[threadIdx.x * matrices + i];
    store(tile[threadIdx.x], registers);
    __syncwarp();
    for (unsigned i = threadIdx.x; i < matrices * 32; i += 32) output_words(arguments.output)[i] = tile[i / 4][i % 4];
}
LORA_KERNEL(stmatrix_of_four, Vectors, 32) {
    store_matrices<4>(arguments, [](void* row, const uint32_t (&r)[4]) { stmatrix_x4(row, r); });
}
LORA_KERNEL(stmatrix_of_four_transposed, Vectors, 32) {
    store_matrices<4>(arguments, [](void* row, const uint32_t (&r)[4]) { stmatrix_x4_transposed(row, r); });
}
LORA_KERNEL(stmatrix_of_two, Vectors, 32) {
    store_matrices<2>(arguments, [](void* row, const uint32_t (&r)[2]) { stmatrix_x2(row, r); });
}
LORA_KERNEL(stmatrix_of_two_transposed, Vectors, 32) {
    store_matrices<2>(arguments, [](void* row, const uint32_t (&r)[2]) { stmatrix_x2_transposed(row, r); });
}

// Warp 0 hands words to warp 1 through one slot, in four phases.
LORA_KERNEL(mbarrier_phases, Vectors, 64) {
    __shared__ uint32_t slot[32];
    __shared__ uint64_t full, empty;
    unsigned lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 32);
        mbarrier_init(&empty, 32);
    }
    __syncthreads();
    for (unsigned phase = 0; phase < 4; phase++) {
        if (threadIdx.x < 32) {
            // The phase before the first counts as ended.
            mbarrier_wait(&empty, phase % 2 ^ 1);
            slot[lane] = input_words(arguments.input)[phase * 32 + lane];
            mbarrier_arrive(&full);
        } else {
            mbarrier_wait(&full, phase % 2);
            output_words(arguments.output)[phase * 32 + lane] = slot[31 - lane];
            mbarrier_arrive(&empty);
        }
    }
}

// Loads a box, gives it as it lies in shared memory, and stores it with changed bits where `to` says.
template <int row_bytes, int column, int row = -1>
__device__ void move_box(const Boxes& arguments) {
    constexpr uint32_t bytes = 8 * row_bytes;
    LORA_DYNAMIC_SHARED(tile);
    __shared__ uint64_t barrier;
    auto* words = reinterpret_cast<uint32_t*>(tile);
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        mbarrier_fence_init();
        mbarrier_arrive_expect(&barrier, bytes);
        tma_load_2d(tile, &arguments.from, &barrier, column, row);
    }
    __syncthreads();
    mbarrier_wait(&barrier, 0);
    for (unsigned i = threadIdx.x; i < bytes / 4; i += blockDim.x) {
        output_words(arguments.output)[i] = words[i];
        words[i] ^= 0x80008000;
    }
    fence_async_shared();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&arguments.to, tile, column, row);
        tma_store_commit();
        tma_store_wait_read<0>();
        tma_store_wait<0>();
    }
}
LORA_KERNEL(tma_box, Boxes, 64) { move_box<32, 0>(arguments); }
LORA_KERNEL(tma_box_swizzled_32, Boxes, 64) { move_box<32, 60>(arguments); }
LORA_KERNEL(tma_box_swizzled_64, Boxes, 64) { move_box<64, -4>(arguments); }
LORA_KERNEL(tma_box_swizzled_128, Boxes, 64) { move_box<128, 16>(arguments); }
// Nothing of these lies in the matrix: they come as zeros, and nothing of them is stored.
LORA_KERNEL(tma_box_right_of_all, Boxes, 64) { move_box<32, 80>(arguments); }
LORA_KERNEL(tma_box_above_all, Boxes, 64) { move_box<32, 0, -8>(arguments); }

// Block 0 loads a box for both blocks of its cluster, once both have arrived at its barrier.
template <int column, int row>
__device__ void multicast_box(const Boxes& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* words = reinterpret_cast<uint32_t*>(bytes);
    auto* full = reinterpret_cast<uint64_t*>(bytes + 256);
    auto* ready = full + 1;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(ready, 2);
        mbarrier_fence_init();
        mbarrier_arrive_expect(full, 256);
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x == 0) mbarrier_arrive_remote(ready, 0);
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        mbarrier_wait(ready, 0);
        tma_load_2d_multicast(words, &arguments.from, full, column, row, 3);
    }
    mbarrier_wait(full, 0);
    for (unsigned i = threadIdx.x; i < 64; i += 32) {
        output_words(arguments.output)[cluster_rank() * 64 + i] = words[i];
    }
    cluster_arrive();
    cluster_wait();
}

LORA_CLUSTER_KERNEL(tma_multicast, Boxes, 32, 2) { multicast_box<8, 2>(arguments); }
// Its bytes count whole at the barriers, inside of the matrix or not.
LORA_CLUSTER_KERNEL(tma_multicast_ragged, Boxes, 32, 2) { multicast_box<64, -3>(arguments); }

// Each block gives the next block's words, its rank and the cluster's size.
LORA_CLUSTER_KERNEL(cluster_neighbours, Vectors, 32, 4) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* own = reinterpret_cast<uint32_t*>(bytes);
    uint32_t rank = cluster_rank(), blocks = cluster_blocks();
    own[threadIdx.x] = input_words(arguments.input)[blockIdx.x * 32 + threadIdx.x];
    cluster_arrive();
    cluster_wait();
    uint32_t* output = output_words(arguments.output) + (blockIdx.x * 32 + threadIdx.x) * 2;
    output[0] = cluster_pointer(own, (rank + 1) % blocks)[threadIdx.x];
    output[1] = rank << 16 | blocks;
    // Nobody may leave while others read its memory.
    cluster_arrive();
    cluster_wait();
}

LORA_KERNEL(grid_dependency, Vectors, 32) {
    allow_next_kernel();
    wait_for_previous_kernel();
    output_words(arguments.output)[threadIdx.x] = input_words(arguments.input)[threadIdx.x ^ 1];
}
// The first one of a pair lets the second one start, which waits for what it stores.
LORA_KERNEL(programmatic_first, Vectors, 32) {
    allow_next_kernel();
    output_words(arguments.output)[threadIdx.x] = input_words(arguments.input)[threadIdx.x];
}
LORA_KERNEL(programmatic_second, Vectors, 32) {
    uint32_t own = input_words(arguments.input)[32 + threadIdx.x];
    wait_for_previous_kernel();
    output_words(arguments.output)[32 + threadIdx.x] = own ^ output_words(arguments.output)[threadIdx.x ^ 1] << 16;
}

#include "box_reuse.cuh"
#include "cluster_rings.cuh"

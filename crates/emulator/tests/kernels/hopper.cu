// Kernels for the mechanisms of sm_90a, right ones and ones with a planted fault.
#include "arch/cluster.cuh"
#include "arch/fence.cuh"
#include "arch/grid_dependency.cuh"
#include "arch/kernel.cuh"
#include "arch/mbarrier.cuh"
#include "arch/named_barrier.cuh"
#include "arch/registers.cuh"
#include "arch/stmatrix.cuh"
#include "arch/tma.cuh"
#include "arch/wgmma.cuh"

enum class Fault {
    none, no_empty_wait, no_full_wait, too_few_bytes, too_many_bytes, early_release, no_wgmma_wait, no_wgmma_fence,
    no_proxy_fence, no_store_wait, no_closing_barrier, no_init_fence, extra_arrival, swapped_operands
};

struct BoxArguments {
    CUtensorMap from, to;
    uint64_t image;
    int32_t column, row;
    uint32_t bytes, unused;
};

// Loads a box, gives its bytes as they lie in shared memory, and stores it elsewhere.
template <Fault fault>
__device__ void move_box(const BoxArguments& arguments) {
    LORA_DYNAMIC_SHARED(tile);
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        if (fault != Fault::no_init_fence) mbarrier_fence_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t bytes = arguments.bytes - 16 * (fault == Fault::too_few_bytes) + 16 * (fault == Fault::too_many_bytes);
        mbarrier_arrive_expect(&barrier, bytes);
        if (fault == Fault::extra_arrival) mbarrier_arrive(&barrier);
        tma_load_2d(tile, &arguments.from, &barrier, arguments.column, arguments.row);
    }
    if (fault != Fault::no_full_wait) mbarrier_wait(&barrier, 0);
    for (unsigned i = threadIdx.x; i < arguments.bytes; i += blockDim.x) {
        reinterpret_cast<unsigned char*>(arguments.image)[i] = tile[i];
        tile[i] ^= 1;
    }
    if (fault != Fault::no_proxy_fence) fence_async_shared();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&arguments.to, tile, arguments.column, arguments.row);
        tma_store_commit();
        if (fault != Fault::no_store_wait) tma_store_wait<0>();
    }
}
LORA_KERNEL(move_box_right, BoxArguments, 64) { move_box<Fault::none>(arguments); }
LORA_KERNEL(move_box_without_wait, BoxArguments, 64) { move_box<Fault::no_full_wait>(arguments); }
LORA_KERNEL(move_box_too_few_bytes, BoxArguments, 64) { move_box<Fault::too_few_bytes>(arguments); }
LORA_KERNEL(move_box_too_many_bytes, BoxArguments, 64) { move_box<Fault::too_many_bytes>(arguments); }
LORA_KERNEL(move_box_without_proxy_fence, BoxArguments, 64) { move_box<Fault::no_proxy_fence>(arguments); }
LORA_KERNEL(move_box_without_store_wait, BoxArguments, 64) { move_box<Fault::no_store_wait>(arguments); }
LORA_KERNEL(move_box_without_init_fence, BoxArguments, 64) { move_box<Fault::no_init_fence>(arguments); }
LORA_KERNEL(move_box_extra_arrival, BoxArguments, 64) { move_box<Fault::extra_arrival>(arguments); }

struct ProductArguments {
    uint64_t a, b, c;
    uint32_t a_bytes, b_bytes;
    uint32_t a_leading, a_stride, b_leading, b_stride;
    uint32_t swizzle, unused;
};

// D[64,n] = A[64,16] B[16,n], twice: the images of A and B are copied to shared memory as they are.
template <class T, int n, bool a_transposed, bool b_transposed, bool a_in_registers, Fault fault = Fault::none>
__device__ void multiply_images(const ProductArguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    unsigned char *a = bytes, *b = bytes + (arguments.a_bytes + 1023) / 1024 * 1024;
    for (unsigned i = threadIdx.x * 4; i < arguments.a_bytes; i += 512) {
        *reinterpret_cast<uint32_t*>(a + i) = *reinterpret_cast<const uint32_t*>(arguments.a + i);
    }
    for (unsigned i = threadIdx.x * 4; i < arguments.b_bytes; i += 512) {
        *reinterpret_cast<uint32_t*>(b + i) = *reinterpret_cast<const uint32_t*>(arguments.b + i);
    }
    if (fault != Fault::no_proxy_fence) fence_async_shared();
    __syncthreads();
    auto swizzle = static_cast<Swizzle>(arguments.swizzle);
    uint64_t a_descriptor = wgmma_descriptor(shared_address(a), arguments.a_leading, arguments.a_stride, swizzle);
    uint64_t b_descriptor = wgmma_descriptor(shared_address(b), arguments.b_leading, arguments.b_stride, swizzle);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float d[n / 2];
    for (float& value : d) value = -1.0f;
    if constexpr (a_in_registers) {
        // The image holds A in rows of 16, not swizzled.
        uint32_t registers[4];
        for (int i = 0; i < 4; i++) {
            unsigned row = warp * 16 + lane / 4 + i % 2 * 8, k = lane % 4 * 2 + i / 2 * 8;
            registers[i] = *reinterpret_cast<const uint32_t*>(arguments.a + (row * 16 + k) * 2);
        }
        wgmma_fence(d, registers);
        wgmma<T, false, b_transposed>(d, registers, b_descriptor, false);
        wgmma<T, false, b_transposed>(d, registers, b_descriptor, true);
        wgmma_commit();
        wgmma_wait<0>(d);
    } else {
        if (fault != Fault::no_wgmma_fence) wgmma_fence(d);
        wgmma<T, a_transposed, b_transposed>(d, a_descriptor, b_descriptor, false);
        wgmma<T, a_transposed, b_transposed>(d, a_descriptor, b_descriptor, true);
        wgmma_commit();
        if (fault != Fault::no_wgmma_wait) wgmma_wait<0>(d);
    }
    for (int i = 0; i < n / 2; i++) {
        unsigned row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        reinterpret_cast<float*>(arguments.c)[row * n + column] = d[i];
    }
}
LORA_KERNEL(wgmma_rows_rows_64, ProductArguments, 128) { multiply_images<__nv_bfloat16, 64, false, false, false>(arguments); }
LORA_KERNEL(wgmma_rows_columns_64, ProductArguments, 128) { multiply_images<__nv_bfloat16, 64, false, true, false>(arguments); }
LORA_KERNEL(wgmma_columns_rows_64, ProductArguments, 128) { multiply_images<__half, 64, true, false, false>(arguments); }
LORA_KERNEL(wgmma_columns_columns_64, ProductArguments, 128) { multiply_images<__half, 64, true, true, false>(arguments); }
LORA_KERNEL(wgmma_rows_rows_8, ProductArguments, 128) { multiply_images<__half, 8, false, false, false>(arguments); }
LORA_KERNEL(wgmma_rows_rows_256, ProductArguments, 128) { multiply_images<__half, 256, false, false, false>(arguments); }
LORA_KERNEL(wgmma_registers_64, ProductArguments, 128) { multiply_images<__nv_bfloat16, 64, false, false, true>(arguments); }
LORA_KERNEL(wgmma_without_proxy_fence, ProductArguments, 128) {
    multiply_images<__nv_bfloat16, 64, false, false, false, Fault::no_proxy_fence>(arguments);
}
LORA_KERNEL(wgmma_without_fence, ProductArguments, 128) {
    multiply_images<__nv_bfloat16, 64, false, false, false, Fault::no_wgmma_fence>(arguments);
}
LORA_KERNEL(wgmma_without_wait, ProductArguments, 128) {
    multiply_images<__nv_bfloat16, 64, false, false, false, Fault::no_wgmma_wait>(arguments);
}

struct GemmArguments {
    CUtensorMap a, b;
    uint64_t c;
    uint32_t n, k;
};

// C[m,n] = A[m,k] B[n,k]^T in f32: a producer warpgroup feeds two consumer warpgroups through a ring of two stages.
template <Fault fault>
__device__ void pipelined_gemm(const GemmArguments& arguments) {
    constexpr int stages = 2, tile_bytes = 128 * 128;
    LORA_DYNAMIC_SHARED(bytes);
    __shared__ uint64_t full[stages], empty[stages];
    unsigned warpgroup = threadIdx.x / 128, steps = arguments.k / 64;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < stages; stage++) {
            mbarrier_init(&full[stage], 1);
            mbarrier_init(&empty[stage], 2);
        }
        mbarrier_fence_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
        decrease_registers<24>();
        if (threadIdx.x != 0) return;
        for (unsigned step = 0; step < steps; step++) {
            unsigned stage = step % stages, phase = step / stages & 1;
            if (fault != Fault::no_empty_wait) mbarrier_wait(&empty[stage], phase ^ 1);
            mbarrier_arrive_expect(&full[stage], fault == Fault::too_few_bytes ? tile_bytes : 2 * tile_bytes);
            const CUtensorMap *a = &arguments.a, *b = &arguments.b;
            if (fault == Fault::swapped_operands) a = &arguments.b, b = &arguments.a;
            tma_load_2d(bytes + stage * tile_bytes, a, &full[stage], step * 64, blockIdx.y * 128);
            tma_load_2d(bytes + (stages + stage) * tile_bytes, b, &full[stage], step * 64, blockIdx.x * 128);
        }
        return;
    }
    increase_registers<232>();
    float d[64];
    for (unsigned step = 0; step < steps; step++) {
        unsigned stage = step % stages, phase = step / stages & 1;
        if (fault != Fault::no_full_wait) mbarrier_wait(&full[stage], phase);
        wgmma_fence(d);
        uint32_t a = shared_address(bytes + stage * tile_bytes) + (warpgroup - 1) * 64 * 128;
        uint32_t b = shared_address(bytes + (stages + stage) * tile_bytes);
        for (int k = 0; k < 4; k++) {
            wgmma<__nv_bfloat16, false, false>(d, wgmma_descriptor(a + k * 32, 16, 1024, Swizzle::bytes_128),
                                               wgmma_descriptor(b + k * 32, 16, 1024, Swizzle::bytes_128), step + k > 0);
        }
        wgmma_commit();
        if (fault == Fault::early_release && threadIdx.x % 128 == 0) mbarrier_arrive(&empty[stage]);
        if (fault == Fault::no_wgmma_wait) wgmma_wait<1>();
        else wgmma_wait<0>(d);
        if (fault != Fault::early_release && threadIdx.x % 128 == 0) mbarrier_arrive(&empty[stage]);
    }
    unsigned warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    for (int i = 0; i < 64; i++) {
        unsigned row = blockIdx.y * 128 + (warpgroup - 1) * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
        unsigned column = blockIdx.x * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2;
        reinterpret_cast<float*>(arguments.c)[row * arguments.n + column] = d[i];
    }
}
#define PIPELINED(name, fault) LORA_KERNEL(name, GemmArguments, 384) { pipelined_gemm<Fault::fault>(arguments); }
PIPELINED(pipelined_right, none)
PIPELINED(pipelined_without_empty_wait, no_empty_wait)
PIPELINED(pipelined_without_full_wait, no_full_wait)
PIPELINED(pipelined_too_few_bytes, too_few_bytes)
PIPELINED(pipelined_early_release, early_release)
PIPELINED(pipelined_without_wgmma_wait, no_wgmma_wait)
PIPELINED(pipelined_swapped_operands, swapped_operands)

struct ClusterArguments {
    CUtensorMap map;
    uint64_t x, y;
};

// Every block adds up the parts of all blocks of its cluster of four.
template <Fault fault>
__device__ void cluster_sums(const ClusterArguments& arguments) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* part = reinterpret_cast<float*>(bytes);
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = reinterpret_cast<const float*>(arguments.x)[i];
    if (fault != Fault::no_full_wait) {
        cluster_arrive();
        cluster_wait();
    }
    float sum = 0.0f;
    for (uint32_t rank = 0; rank < cluster_blocks(); rank++) sum += cluster_pointer(part, rank)[threadIdx.x];
    reinterpret_cast<float*>(arguments.y)[i] = sum;
    if (fault != Fault::no_closing_barrier) {
        cluster_arrive();
        cluster_wait();
    }
}
LORA_CLUSTER_KERNEL(cluster_sums_right, ClusterArguments, 32, 4) { cluster_sums<Fault::none>(arguments); }
LORA_CLUSTER_KERNEL(cluster_sums_without_barrier, ClusterArguments, 32, 4) { cluster_sums<Fault::no_full_wait>(arguments); }
LORA_CLUSTER_KERNEL(cluster_sums_without_closing_barrier, ClusterArguments, 32, 4) {
    cluster_sums<Fault::no_closing_barrier>(arguments);
}

// Block 0 loads a box for both blocks of its cluster, after both have said that they are ready.
LORA_CLUSTER_KERNEL(multicast, ClusterArguments, 32, 2) {
    LORA_DYNAMIC_SHARED(bytes);
    auto* tile = reinterpret_cast<float*>(bytes);
    auto* full = reinterpret_cast<uint64_t*>(bytes + 1024);
    auto* ready = full + 1;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(ready, 2);
        mbarrier_fence_init();
        mbarrier_arrive_expect(full, 8 * 32);
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x == 0) mbarrier_arrive_remote(ready, 0);
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        mbarrier_wait(ready, 0);
        tma_load_2d_multicast(tile, &arguments.map, full, 0, blockIdx.x / 2 * 8, 3);
    }
    mbarrier_wait(full, 0);
    for (int row = 0; row < 2; row++) {
        reinterpret_cast<float*>(arguments.y)[blockIdx.x * 64 + row * 32 + threadIdx.x] = tile[row * 32 + threadIdx.x];
    }
    cluster_arrive();
    cluster_wait();
}

struct Vectors {
    uint64_t x, y;
};

// Warps 1 to 3 hand values to warp 0 through a named barrier, and do not wait.
template <bool barrier>
__device__ void named_handover(const Vectors& arguments) {
    __shared__ float values[96];
    unsigned thread = threadIdx.x;
    if (thread >= 32) {
        values[thread - 32] = reinterpret_cast<const float*>(arguments.x)[thread];
        if (barrier) named_barrier_arrive(2, 128);
        return;
    }
    if (barrier) named_barrier_sync(2, 128);
    reinterpret_cast<float*>(arguments.y)[thread] = values[thread] + values[thread + 32] + values[thread + 64];
}
LORA_KERNEL(named_handover_right, Vectors, 128) { named_handover<true>(arguments); }
LORA_KERNEL(named_handover_without_barrier, Vectors, 128) { named_handover<false>(arguments); }

// Four 8x8 matrices through registers: the image that stmatrix leaves.
LORA_KERNEL(store_matrices, Vectors, 32) {
    __shared__ __align__(16) uint16_t tile[4][8][8];
    __shared__ __align__(16) uint16_t transposed[4][8][8];
    uint32_t registers[4];
    for (int i = 0; i < 4; i++) registers[i] = reinterpret_cast<const uint32_t*>(arguments.x)[i * 32 + threadIdx.x];
    stmatrix_x4(&tile[threadIdx.x / 8][threadIdx.x % 8][0], registers);
    stmatrix_x4_transposed(&transposed[threadIdx.x / 8][threadIdx.x % 8][0], registers);
    __syncwarp();
    auto* y = reinterpret_cast<uint16_t*>(arguments.y);
    for (unsigned i = threadIdx.x; i < 256; i += 32) {
        y[i] = tile[i / 64][i / 8 % 8][i % 8];
        y[256 + i] = transposed[i / 64][i / 8 % 8][i % 8];
    }
}

LORA_KERNEL(waits_at_uninitialised_mbarrier, Vectors, 32) {
    __shared__ uint64_t barrier;
    if (arguments.y == 0) barrier = 0;
    mbarrier_wait(&barrier, 0);
}
LORA_KERNEL(grid_dependency, Vectors, 32) {
    allow_next_kernel();
    wait_for_previous_kernel();
    reinterpret_cast<float*>(arguments.y)[threadIdx.x] = 1.0f;
}

// Memory that ordinary stores and TMA use in turn.
#pragma once

__device__ __forceinline__ void load_box(const CUtensorMap* map, void* tile, uint64_t* barrier, uint32_t bytes, int column, int row) {
    mbarrier_arrive_expect(barrier, bytes);
    tma_load_2d(tile, map, barrier, column, row);
}

// Four warps store a swizzled tile of 64 x 64 as fragments; it goes to a ragged corner of a matrix behind the image, and what is
// loaded over it is the image.
LORA_KERNEL(stmatrix_to_swizzled_box, Boxes, 128) {
    LORA_DYNAMIC_SHARED(tile);
    auto* barrier = reinterpret_cast<uint64_t*>(tile + 8192);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_fence_init();
    }
    unsigned row = warp * 16 + lane % 16;
    for (unsigned column = 0; column < 64; column += 16) {
        uint32_t registers[4];
        for (int i = 0; i < 4; i++) registers[i] = input_words(arguments.input)[(threadIdx.x * 4 + column / 16) * 4 + i];
        stmatrix_x4(tile + row * 128 + ((column / 8 + lane / 16) ^ row % 8) * 16, registers);
    }
    fence_async_shared();
    named_barrier_sync(1, 128);
    if (threadIdx.x == 0) {
        tma_store_2d(&arguments.to, tile, 16, 8);
        tma_store_commit();
        tma_store_wait_read<0>();
        load_box(&arguments.from, tile, barrier, 8192, 0, 32);
    }
    named_barrier_sync(1, 128);
    mbarrier_wait(barrier, 0);
    for (unsigned i = threadIdx.x; i < 2048; i += 128) output_words(arguments.output)[i] = reinterpret_cast<uint32_t*>(tile)[i];
    if (threadIdx.x == 0) tma_store_wait<0>();
}

// Threads store a matrix in global memory, and TMA loads a box of it.
LORA_KERNEL(tma_reads_stored_words, Boxes, 64) {
    LORA_DYNAMIC_SHARED(tile);
    auto* barrier = reinterpret_cast<uint64_t*>(tile + 256);
    uint32_t* matrix = output_words(arguments.output) + 64;
    for (unsigned i = threadIdx.x; i < 6 * 36; i += 64) matrix[i] = ~input_words(arguments.input)[i];
    fence_async_global();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_fence_init();
        load_box(&arguments.to, tile, barrier, 256, 8, -2);
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
    output_words(arguments.output)[threadIdx.x] = reinterpret_cast<uint32_t*>(tile)[threadIdx.x];
}

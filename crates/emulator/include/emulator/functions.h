// What a kernel asks of the emulator. runtime.cpp forwards each call to the Rust function of the same name (src/library/ffi.rs).
//
// X(result, name, (parameters), (arguments))
#pragma once
#include "thread.h"

namespace emulator {

enum AtomicOperation : uint32_t {
    atomic_load, atomic_store, atomic_exchange, atomic_compare_exchange, atomic_add, atomic_minimum, atomic_maximum,
    atomic_signed_minimum, atomic_signed_maximum, atomic_and, atomic_or, atomic_xor
};
enum MemoryOrder : uint32_t { order_relaxed = 0, order_acquire = 1, order_release = 2, order_acquire_release = 3 };
enum Fence : uint32_t { fence_block, fence_device, fence_proxy_async_shared, fence_proxy_async_global, fence_mbarrier_init };
enum MmaKind : uint32_t { mma_bf16, mma_f16, mma_tf32 };
enum WgmmaFlags : uint32_t { wgmma_accumulate = 1, wgmma_a_transposed = 2, wgmma_b_transposed = 4 };
enum VoteKind : uint32_t { vote_ballot, vote_match };

}  // namespace emulator

#define EMULATOR_FUNCTIONS(X)                                                                                          \
    X(void, barrier_sync, (uint32_t id, uint32_t threads), (id, threads))                                              \
    X(void, barrier_arrive, (uint32_t id, uint32_t threads), (id, threads))                                            \
    X(void, sync_warp, (uint32_t mask), (mask))                                                                        \
    X(uint64_t, shuffle, (uint32_t mask, uint64_t value, uint32_t source_lane), (mask, value, source_lane))            \
    X(uint32_t, vote, (uint32_t kind, uint32_t mask, uint64_t value), (kind, mask, value))                             \
    X(uint32_t, active_mask, (), ())                                                                                   \
    X(uint64_t, atomic, (uint32_t operation, uint32_t order, void* address, uint32_t bytes, uint64_t operand, uint64_t expected), \
      (operation, order, address, bytes, operand, expected))                                                           \
    X(void, fence, (uint32_t kind), (kind))                                                                            \
    X(void, misaligned, (uint64_t address, uint32_t alignment), (address, alignment))                                  \
    X(void, outside_array, (int64_t index), (index))                                                                   \
    X(void, pause, (), ())                                                                                             \
    X(void, trap, (), ())                                                                                              \
    X(uint32_t, shared_address, (const void* pointer), (pointer))                                                      \
    X(void, mma, (uint32_t kind, float* d, const uint32_t* a, const uint32_t* b), (kind, d, a, b))                     \
    X(void, ldmatrix, (uint32_t* registers, uint32_t matrices, uint32_t transposed, const void* row),                  \
      (registers, matrices, transposed, row))                                                                          \
    X(void, stmatrix, (const uint32_t* registers, uint32_t matrices, uint32_t transposed, void* row),                  \
      (registers, matrices, transposed, row))                                                                          \
    X(void, cp_async, (void* shared, const void* global, uint32_t bytes, uint32_t source_bytes),                       \
      (shared, global, bytes, source_bytes))                                                                           \
    X(void, cp_async_commit, (), ())                                                                                   \
    X(void, cp_async_wait, (uint32_t pending), (pending)) \
    X(void, mbarrier_init, (const void* barrier, uint32_t arrivals), (barrier, arrivals))                              \
    X(void, mbarrier_arrive, (const void* barrier, uint32_t bytes, int32_t block_rank, uint32_t cluster_scope),        \
      (barrier, bytes, block_rank, cluster_scope))                                                                     \
    X(void, mbarrier_wait, (const void* barrier, uint32_t parity, uint32_t cluster_scope),                             \
      (barrier, parity, cluster_scope))                                                                                \
    X(void, cluster_arrive, (), ())                                                                                    \
    X(void, cluster_wait, (), ())                                                                                      \
    X(void*, cluster_pointer, (const void* own, uint32_t block_rank), (own, block_rank))                               \
    X(void, tma_load, (void* shared, const void* map, const void* barrier, int32_t column, int32_t row, int32_t blocks), \
      (shared, map, barrier, column, row, blocks))                                                                     \
    X(void, tma_store, (const void* map, const void* shared, int32_t column, int32_t row), (map, shared, column, row)) \
    X(void, tma_store_commit, (), ())                                                                                  \
    X(void, tma_store_wait, (uint32_t pending, uint32_t only_read), (pending, only_read))                              \
    X(void, wgmma_fence, (), ())                                                                                       \
    X(void, wgmma_commit, (), ())                                                                                      \
    X(void, wgmma_wait, (uint32_t pending), (pending))                                                                 \
    X(void, wgmma, (uint32_t kind, uint32_t n, uint32_t flags, float* d, const uint32_t* a_registers, uint64_t a, uint64_t b), \
      (kind, n, flags, d, a_registers, a, b))                                                                          \
    X(void, wgmma_registers, (const void* address, uint32_t words), (address, words))                                  \
    X(void, grid_dependency_wait, (), ())                                                                              \
    X(void, registers_wait, (uint32_t count), (count))                                                                 \
    X(void, set_max_registers, (uint32_t count, uint32_t increase), (count, increase))

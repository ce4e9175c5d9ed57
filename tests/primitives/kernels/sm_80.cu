// The wrappers that every supported GPU has.
#include "arch/cp_async.cuh"
#include "arch/global_store.cuh"
#include "arch/ldmatrix.cuh"
#include "arch/mma.cuh"
#include "arch/named_barrier.cuh"
#include "vectors.cuh"

// Each lane copies 16 bytes in each of two groups, and gives its neighbour's.
LORA_KERNEL(cp_async_whole, Vectors, 32) {
    __shared__ __align__(16) uint32_t tile[2][32][4];
    const uint32_t* input = input_words(arguments.input) + threadIdx.x * 4;
    for (int group = 0; group < 2; group++) {
        cp_async_16(tile[group][threadIdx.x], input + group * 128, 16);
        cp_async_commit();
    }
    uint32_t* output = output_words(arguments.output) + threadIdx.x * 8;
    cp_async_wait<1>();
    __syncwarp();
    for (int i = 0; i < 4; i++) output[i] = tile[0][threadIdx.x ^ 1][i];
    cp_async_wait<0>();
    __syncwarp();
    for (int i = 0; i < 4; i++) output[4 + i] = tile[1][threadIdx.x ^ 1][i];
}

// Lane i copies i % 17 bytes; what is there before must be overwritten with zero.
LORA_KERNEL(cp_async_partial, Vectors, 32) {
    __shared__ __align__(16) uint32_t tile[32][4];
    for (uint32_t& word : tile[threadIdx.x]) word = 0xffffffff;
    __syncwarp();
    cp_async_16(tile[threadIdx.x], input_words(arguments.input) + threadIdx.x * 4, threadIdx.x % 17);
    cp_async_commit();
    cp_async_wait<0>();
    for (int i = 0; i < 4; i++) output_words(arguments.output)[threadIdx.x * 4 + i] = tile[threadIdx.x][i];
}

// Each lane stores 8 bytes, and 16 bytes behind those of all lanes.
LORA_KERNEL(global_stores, Vectors, 32) {
    const uint32_t* input = input_words(arguments.input) + threadIdx.x * 6;
    const uint32_t two[2] = {input[0], input[1]}, four[4] = {input[2], input[3], input[4], input[5]};
    store_global_8(output_words(arguments.output) + threadIdx.x * 2, two);
    store_global_16(output_words(arguments.output) + 64 + threadIdx.x * 4, four);
}

// Loads the input's first matrices, rows of 16 bytes one after the other.
template <int matrices, class Load>
__device__ void load_matrices(const Vectors& arguments, Load load) {
    __shared__ __align__(16) uint32_t tile[4 * 8][4];
    for (int i = 0; i < 4; i++) tile[threadIdx.x][i] = input_words(arguments.input)[threadIdx.x * 4 + i];
    __syncwarp();
    uint32_t registers[matrices];
    load(registers, tile[threadIdx.x]);
    for (int i = 0; i < matrices; i++) output_words(arguments.output)[threadIdx.x * matrices + i] = registers[i];
}
LORA_KERNEL(ldmatrix_of_four, Vectors, 32) {
    load_matrices<4>(arguments, [](uint32_t (&r)[4], const void* row) { ldmatrix_x4(r, row); });
}
LORA_KERNEL(ldmatrix_of_four_transposed, Vectors, 32) {
    load_matrices<4>(arguments, [](uint32_t (&r)[4], const void* row) { ldmatrix_x4_transposed(r, row); });
}
LORA_KERNEL(ldmatrix_of_two, Vectors, 32) {
    load_matrices<2>(arguments, [](uint32_t (&r)[2], const void* row) { ldmatrix_x2(r, row); });
}
LORA_KERNEL(ldmatrix_of_two_transposed, Vectors, 32) {
    load_matrices<2>(arguments, [](uint32_t (&r)[2], const void* row) { ldmatrix_x2_transposed(r, row); });
}

// Fragments are the input's words as they come; the accumulator starts with small integers.
template <class Product>
__device__ void multiply_fragments(const Vectors& arguments, Product product) {
    const uint32_t* input = input_words(arguments.input);
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = input[threadIdx.x * 4 + i];
    for (int i = 0; i < 2; i++) b[i] = input[128 + threadIdx.x * 2 + i];
    for (int i = 0; i < 4; i++) d[i] = static_cast<float>(static_cast<int>(threadIdx.x % 5) - i);
    product(d, a, b);
    for (int i = 0; i < 4; i++) output_words(arguments.output)[threadIdx.x * 4 + i] = float_bits(d[i]);
}
LORA_KERNEL(mma_bf16, Vectors, 32) {
    multiply_fragments(arguments, [](float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_m16n8k16(d, a, b, __nv_bfloat16());
    });
}
LORA_KERNEL(mma_f16, Vectors, 32) {
    multiply_fragments(arguments, [](float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_m16n8k16(d, a, b, __half());
    });
}
LORA_KERNEL(mma_tf32, Vectors, 32) {
    multiply_fragments(arguments, [](float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_m16n8k8_tf32(d, a, b);
    });
}

// The manual leaves the 13 low bits open.
LORA_KERNEL(rounding_to_tf32, Vectors, 32) {
    float value = reinterpret_cast<const float*>(arguments.input)[threadIdx.x];
    output_words(arguments.output)[threadIdx.x] = to_tf32(value) & 0xffffe000;
}

// Warps 1 to 3 hand their words to warp 0: two of them do not wait, and one does.
LORA_KERNEL(named_barrier, Vectors, 128) {
    __shared__ uint32_t tile[96];
    unsigned thread = threadIdx.x, warp = thread / 32;
    if (warp > 0) {
        tile[thread - 32] = input_words(arguments.input)[thread];
        if (warp < 3) named_barrier_arrive(3, 128);
        else named_barrier_sync(3, 128);
        return;
    }
    named_barrier_sync(3, 128);
    for (int i = 0; i < 3; i++) output_words(arguments.output)[thread * 3 + i] = tile[i * 32 + (thread ^ 1)];
}

// Products of one warp on tiles in shared memory, in four kinds of arithmetic with one layout of the accumulator.
#pragma once
#include "arch/ldmatrix.cuh"
#include "arch/mma.cuh"
#include <type_traits>
#include "element.cuh"

// Tensor cores on 16-bit elements.
struct F16 { using Element = __half; };
struct Bf16 { using Element = __nv_bfloat16; };
// True f32: fused multiply-add, no tensor cores.
struct F32 { using Element = float; };
// f32 elements, rounded to TF32 on their way into tensor cores.
struct Tf32 { using Element = float; };

// Accumulators of a warp for 16 x COLUMNS: those of mma.m16n8 for each 8 columns. Element [t][e] of a lane is at
// row lane / 4 + 8 * (e / 2), column 8 * t + 2 * (lane % 4) + e % 2.
template <int COLUMNS>
struct Accumulator {
    float value[COLUMNS / 8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int t = 0; t < COLUMNS / 8; ++t) {
#pragma unroll
            for (int e = 0; e < 4; ++e) value[t][e] = 0.0f;
        }
    }
};

// How an operand lies in shared memory: [row][depth] (for B: [column][depth]), or [depth][row] (for B: [depth][column]).
enum class Stored { DepthInner, DepthOuter };

template <Stored STORED>
__device__ __forceinline__ int operand_index(int row, int depth, int pitch) {
    return STORED == Stored::DepthInner ? row * pitch + depth : depth * pitch + row;
}

// D[16, COLUMNS] += A[16, DEPTH] B[DEPTH, COLUMNS].
template <class Mode, int DEPTH, int COLUMNS, Stored A, Stored B>
__device__ __forceinline__ void warp_product(Accumulator<COLUMNS>& d, const typename Mode::Element* a, int a_pitch,
                                             const typename Mode::Element* b, int b_pitch) {
    using T = typename Mode::Element;
    const int lane = threadIdx.x % 32;
    if constexpr (sizeof(T) == 2) {
        static_assert(DEPTH % 16 == 0 && COLUMNS % 16 == 0, "two mma tiles a load");
        // Lane i names row i % 8 of the 8x8 matrix i / 8 that ldmatrix loads.
        const int matrix = lane / 8, row = lane % 8;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t left[4];
            if constexpr (A == Stored::DepthInner) {
                ldmatrix_x4(left, a + (matrix % 2 * 8 + row) * a_pitch + k + matrix / 2 * 8);
            } else {
                ldmatrix_x4_transposed(left, a + (k + matrix / 2 * 8 + row) * a_pitch + matrix % 2 * 8);
            }
#pragma unroll
            for (int n = 0; n < COLUMNS; n += 16) {
                uint32_t right[4];
                if constexpr (B == Stored::DepthInner) {
                    ldmatrix_x4(right, b + (n + matrix / 2 * 8 + row) * b_pitch + k + matrix % 2 * 8);
                } else {
                    ldmatrix_x4_transposed(right, b + (k + matrix % 2 * 8 + row) * b_pitch + n + matrix / 2 * 8);
                }
                const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
                mma_m16n8k16(d.value[n / 8], left, first, T{});
                mma_m16n8k16(d.value[n / 8 + 1], left, second, T{});
            }
        }
    } else if constexpr (std::is_same<Mode, Tf32>::value) {
        const int group = lane / 4, member = lane % 4;
#pragma unroll 2
        for (int k = 0; k < DEPTH; k += 8) {
            uint32_t left[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                left[e] = to_tf32(a[operand_index<A>(group + e % 2 * 8, k + member + e / 2 * 4, a_pitch)]);
            }
#pragma unroll
            for (int t = 0; t < COLUMNS / 8; ++t) {
                uint32_t right[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    right[e] = to_tf32(b[operand_index<B>(t * 8 + group, k + member + e * 4, b_pitch)]);
                }
                mma_m16n8k8_tf32(d.value[t], left, right);
            }
        }
    } else {
        const int row = lane / 4, column = lane % 4 * 2;
#pragma unroll 4
        for (int k = 0; k < DEPTH; ++k) {
            const float upper = a[operand_index<A>(row, k, a_pitch)];
            const float lower = a[operand_index<A>(row + 8, k, a_pitch)];
#pragma unroll
            for (int t = 0; t < COLUMNS / 8; ++t) {
                const float even = b[operand_index<B>(t * 8 + column, k, b_pitch)];
                const float odd = b[operand_index<B>(t * 8 + column + 1, k, b_pitch)];
                d.value[t][0] = fmaf(upper, even, d.value[t][0]);
                d.value[t][1] = fmaf(upper, odd, d.value[t][1]);
                d.value[t][2] = fmaf(lower, even, d.value[t][2]);
                d.value[t][3] = fmaf(lower, odd, d.value[t][3]);
            }
        }
    }
}

// Writes the warp's accumulators to rows `row` to `row + 15` of an f32 slab, as far as the slab has rows; ADD adds to
// what this same thread wrote before.
template <int COLUMNS>
__device__ __forceinline__ void store_to_slab(
    const Accumulator<COLUMNS>& d, float* slab, int64_t row, int64_t rows, uint32_t slab_columns, bool add) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int64_t r = row + lane / 4 + half * 8;
        if (r >= rows) continue;
#pragma unroll
        for (int t = 0; t < COLUMNS / 8; ++t) {
            float2* target = reinterpret_cast<float2*>(slab + r * slab_columns + t * 8 + lane % 4 * 2);
            float2 sum = {d.value[t][half * 2], d.value[t][half * 2 + 1]};
            if (add) {
                const float2 old = *target;
                sum.x += old.x;
                sum.y += old.y;
            }
            *target = sum;
        }
    }
}

// K4: out = mask ⊙ scale · (S · B) + bias (+ out), rounded once: Y before the frozen product, and dX.
#include "skinny/product_kernels.cuh"
#include "skinny/tile.cuh"
#include "skinny/warp_product.cuh"

// Eight elements that go to memory together.
template <class T>
struct alignas(16) Vector {
    T element[UNIT];
};

// A block writes a tile of ROWS x COLUMNS with two threads for each row.
template <class Mode, int RANK, int ROWS = TILE, int COLUMNS = TILE>
__device__ __forceinline__ void expand(const ExpandArguments& arguments) {
    using T = typename Mode::Element;
    constexpr int PADDING = PADDING_BYTES / sizeof(T), BLOCK = block_threads(ROWS);
    using STile = Tile<T, ROWS, RANK, PADDING, BLOCK>;
    using BTile = Tile<T, RANK, COLUMNS, PADDING, BLOCK>;
    using OutTile = Tile<float, ROWS, COLUMNS, PADDING_BYTES / sizeof(float), BLOCK>;
    LORA_DYNAMIC_SHARED(shared);
    T* const stages = reinterpret_cast<T*>(shared);
    // Room for B as [rank][column] or as [column][rank].
    using TransposedBTile = Tile<T, COLUMNS, RANK, PADDING, BLOCK>;
    constexpr int STAGE = STile::ELEMENTS + (TransposedBTile::ELEMENTS > BTile::ELEMENTS ? TransposedBTile::ELEMENTS : BTile::ELEMENTS);
    constexpr size_t STAGE_BYTES = STAGE * sizeof(T), PRODUCT_BYTES = OutTile::ELEMENTS * sizeof(float);
    static_assert((EXPAND_STAGES * STAGE_BYTES > PRODUCT_BYTES ? EXPAND_STAGES * STAGE_BYTES : PRODUCT_BYTES) ==
                      expand_shared_bytes(RANK, ROWS, COLUMNS, EXPAND_STAGES, sizeof(T)),
                  "as planned");

    const View& out = arguments.out;
    const int64_t column_tiles = (out.columns + COLUMNS - 1) / COLUMNS;
    const int64_t row = blockIdx.x / column_tiles * ROWS;
    const int64_t column = blockIdx.x % column_tiles * COLUMNS;
    const int warp_row = threadIdx.x / 32 * 16;
    const int lane = threadIdx.x % 32;

    Accumulator<COLUMNS> sum;
    sum.clear();
    const View b_columns = transposed(arguments.b);
    const bool by_columns = arguments.b.column_stride != 1 && has_vector_rows<T>(b_columns);
    const int rank_chunks = int((arguments.s.columns + RANK - 1) / RANK);
    pipeline<EXPAND_STAGES>(
        rank_chunks,
        [&](int stage, int i) {
            load_tile<STile>(stages + stage * STAGE, arguments.s, row, int64_t(i) * RANK);
            T* const b = stages + stage * STAGE + STile::ELEMENTS;
            if (by_columns) {
                load_tile<TransposedBTile>(b, b_columns, column, int64_t(i) * RANK);
            } else {
                load_tile<BTile>(b, arguments.b, int64_t(i) * RANK, column);
            }
        },
        [](int, int) {},
        [&](int stage, int) {
            const T* const s = stages + stage * STAGE + warp_row * STile::PITCH;
            const T* const b = stages + stage * STAGE + STile::ELEMENTS;
            if (by_columns) {
                warp_product<Mode, RANK, COLUMNS, Stored::DepthInner, Stored::DepthInner>(
                    sum, s, STile::PITCH, b, TransposedBTile::PITCH);
            } else {
                warp_product<Mode, RANK, COLUMNS, Stored::DepthInner, Stored::DepthOuter>(
                    sum, s, STile::PITCH, b, BTile::PITCH);
            }
        });

    // Through shared memory (over the stages, which all threads are done with), so that each thread gets eight
    // neighbouring columns.
    __syncthreads();
    float* const product = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int t = 0; t < COLUMNS / 8; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            product[(warp_row + lane / 4 + e / 2 * 8) * OutTile::PITCH + t * 8 + lane % 4 * 2 + e % 2] = sum.value[t][e];
        }
    }
    __syncthreads();

    T* const base = reinterpret_cast<T*>(out.address);
    const bool vectors = has_vector_rows<T>(out);
#pragma unroll 1
    for (int i = 0; i < OutTile::UNITS_PER_THREAD; ++i) {
        const Unit unit = unit_of_thread<OutTile>(i, out);
        const int64_t r = row + unit.row, c = column + unit.column;
        const int inside = r < out.rows ? count_inside(out.columns, c, UNIT) : 0;
        if (inside == 0) continue;
        float value[UNIT];
#pragma unroll
        for (int j = 0; j < UNIT; ++j) value[j] = product[unit.row * OutTile::PITCH + unit.column + j] * arguments.scale;
        if (arguments.mask.threshold != 0) {
            const PhiloxWords draws = dropout_draws(arguments.mask, r, c);
#pragma unroll
            for (int j = 0; j < UNIT; j += 2) {
                if (keeps_low(draws.word[j / 2], arguments.mask.threshold) == 0) value[j] = 0.0f;
                if (keeps_high(draws.word[j / 2], arguments.mask.threshold) == 0) value[j + 1] = 0.0f;
            }
        }
        if (arguments.bias != 0) {
#pragma unroll
            for (int j = 0; j < UNIT; ++j) {
                if (j < inside) value[j] += load_element(arguments.bias, (c + j) * arguments.bias_stride, arguments.bias_dtype);
            }
        }
        T* const target = base + r * out.row_stride + c * out.column_stride;
        if (vectors && inside == UNIT) {
            Vector<T>* const whole = reinterpret_cast<Vector<T>*>(target);
            Vector<T> result;
            if (arguments.accumulate) {
                const Vector<T> old = *whole;
#pragma unroll
                for (int j = 0; j < UNIT; ++j) value[j] += to_float(old.element[j]);
            }
#pragma unroll
            for (int j = 0; j < UNIT; ++j) result.element[j] = from_float<T>(value[j]);
            *whole = result;
        } else {
#pragma unroll
            for (int j = 0; j < UNIT; ++j) {
                if (j >= inside) continue;
                T* const element = target + j * out.column_stride;
                *element = from_float<T>(value[j] + (arguments.accumulate ? to_float(*element) : 0.0f));
            }
        }
    }
}

LORA_PRODUCT_KERNELS(expand, ExpandArguments)

#ifdef LORA_KERNELS_SWEEP
#define EXPAND_VARIANT(rank, rows, columns) \
    LORA_KERNEL(expand_bf16_rank##rank##_rows##rows##_columns##columns, ExpandArguments, block_threads(rows)) { expand<Bf16, rank, rows, columns>(arguments); }
#include "sweep_variants.cuh"
#endif

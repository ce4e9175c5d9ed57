// Δ = s·A·B as a matrix, rounded once.
#include "weights/delta_tile.cuh"
#include "weights/element_run.cuh"
#include "weights/weight_format.cuh"

template <class Weight>
__device__ __forceinline__ void write_delta(const DeltaArguments& arguments) {
    __shared__ FactorStage stage;
    const ThreadPlace place = thread_place(arguments.target.columns);
    float sum[THREAD_ROWS][THREAD_COLUMNS] = {};
    delta_tile(arguments.term, place, stage, sum);

    using Bits = typename Weight::Bits;
    const int64_t row = place.tile_row + place.row, column = place.tile_column + place.column;
#pragma unroll
    for (int r = 0; r < THREAD_ROWS; ++r) {
        if (row + r >= arguments.target.rows) break;
        uint32_t bits[THREAD_COLUMNS];
#pragma unroll
        for (int c = 0; c < THREAD_COLUMNS; ++c) bits[c] = Weight::nearest(__fmul_rn(arguments.term.scale, sum[r][c]));
        Bits* target = reinterpret_cast<Bits*>(arguments.target.address) + (row + r) * arguments.target.row_stride + column;
        store_run(target, arguments.target.columns - column, arguments.vector_rows, bits);
    }
}

LORA_KERNEL(delta_f32, DeltaArguments, WEIGHT_THREADS) { write_delta<WeightF32>(arguments); }
LORA_KERNEL(delta_f16, DeltaArguments, WEIGHT_THREADS) { write_delta<WeightF16>(arguments); }
LORA_KERNEL(delta_bf16, DeltaArguments, WEIGHT_THREADS) { write_delta<WeightBf16>(arguments); }

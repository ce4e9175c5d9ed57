// Adds partial sums in a fixed order, scales them, and rounds once to where they belong.
#include "element.cuh"
#include "skinny/product_arguments.cuh"

LORA_KERNEL(finalize, FinalizeArguments, FINALIZE_THREADS) {
    const int64_t index = int64_t(blockIdx.x) * FINALIZE_THREADS + threadIdx.x;
    const int64_t row = index / arguments.columns;
    if (row >= arguments.rows) return;
    uint32_t column = static_cast<uint32_t>(index % arguments.columns);
    uint32_t s = 0;
    while (column >= arguments.segments[s].columns) column -= arguments.segments[s++].columns;
    const FinalizeSegment& segment = arguments.segments[s];

    const float* slab = reinterpret_cast<const float*>(arguments.slabs) + row * arguments.slab_columns +
                        segment.first_column + column;
    const int64_t slab_elements = arguments.rows * arguments.slab_columns;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t i = 0; i < arguments.slab_count; ++i) sum += slab[i * slab_elements];

    const int64_t target = row * segment.row_stride + column * segment.column_stride;
    float value = segment.scale * sum;
    if (segment.accumulate) value += load_element(segment.address, target, segment.dtype);
    store_element(segment.address, target, segment.dtype, value);
}

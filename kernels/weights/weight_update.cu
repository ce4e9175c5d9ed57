// W ← round(W − s₁·A₁·B₁ + s₂·A₂·B₂) in place: W is read once and written once.
//
// The recorded kernels also restore from a record and write one; the measured ones report what rounding did as well.
// The recorded kernels also add up the fingerprints of what they wrote. Recording takes two launches: a dry run counts and collects the escapes, so that the host can refuse before anything
// is written.
#include "weights/delta_tile.cuh"
#include "weights/element_run.cuh"
#include "weights/fingerprint.cuh"
#include "philox.cuh"
#include "weights/weight_format.cuh"
#include "weights/weight_record.cuh"

typedef uint32_t BitsTile[THREAD_ROWS][THREAD_COLUMNS];
typedef float SumTile[THREAD_ROWS][THREAD_COLUMNS];
// One bit for each weight of a thread.
typedef uint32_t TileMask;
static_assert(THREAD_ROWS * THREAD_COLUMNS <= 32, "no more than a TileMask has bits");

// This thread's part of the weight.
template <class Weight>
struct Part {
    const WeightUpdateArguments& arguments;
    int64_t row;
    int64_t column;

    using Bits = typename Weight::Bits;

    __device__ __forceinline__ int64_t rows() const { return arguments.w.rows - row; }
    __device__ __forceinline__ int64_t columns() const { return arguments.w.columns - column; }
    __device__ __forceinline__ bool holds(int r, int c) const { return r < rows() && c < columns(); }
    // Position in W [in, out].
    __device__ __forceinline__ uint64_t index(int r, int c) const {
        return arguments.transposed ? (column + c) * arguments.w.rows + row + r
                                    : (row + r) * arguments.w.columns + column + c;
    }
    __device__ __forceinline__ Bits* weights(int r) const {
        return reinterpret_cast<Bits*>(arguments.w.address) + (row + r) * arguments.w.row_stride + column;
    }

    template <int ROWS, int COLUMNS>
    __device__ __forceinline__ void load(uint32_t (&tile)[ROWS][COLUMNS]) const {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) load_run(weights(r), r < rows() ? columns() : 0, arguments.vector_rows, tile[r]);
    }
    template <int ROWS, int COLUMNS>
    __device__ __forceinline__ void store(const uint32_t (&tile)[ROWS][COLUMNS]) const {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) store_run(weights(r), r < rows() ? columns() : 0, arguments.vector_rows, tile[r]);
    }

    // Codes or old weights. Neighbours in W [in, out] are neighbours in a column of the tile where W is transposed.
    template <class Element>
    __device__ __forceinline__ void load_kept(BitsTile& tile) const {
        const Element* kept = reinterpret_cast<const Element*>(arguments.kept);
        if (arguments.transposed) {
#pragma unroll
            for (int c = 0; c < THREAD_COLUMNS; ++c) {
                uint32_t run[THREAD_ROWS];
                load_run(kept + index(0, c), c < columns() ? rows() : 0, arguments.vector_kept, run);
#pragma unroll
                for (int r = 0; r < THREAD_ROWS; ++r) tile[r][c] = run[r];
            }
        } else {
#pragma unroll
            for (int r = 0; r < THREAD_ROWS; ++r) {
                load_run(kept + index(r, 0), r < rows() ? columns() : 0, arguments.vector_kept, tile[r]);
            }
        }
    }
    template <class Element>
    __device__ __forceinline__ void store_kept(const BitsTile& tile) const {
        Element* kept = reinterpret_cast<Element*>(arguments.kept);
        if (arguments.transposed) {
#pragma unroll
            for (int c = 0; c < THREAD_COLUMNS; ++c) {
                uint32_t run[THREAD_ROWS];
#pragma unroll
                for (int r = 0; r < THREAD_ROWS; ++r) run[r] = tile[r][c];
                store_run(kept + index(0, c), c < columns() ? rows() : 0, arguments.vector_kept, run);
            }
        } else {
#pragma unroll
            for (int r = 0; r < THREAD_ROWS; ++r) {
                store_run(kept + index(r, 0), r < rows() ? columns() : 0, arguments.vector_kept, tile[r]);
            }
        }
    }
};

// Four draws of stochastic rounding: of weights (i, j) to (i, j + 3), j a multiple of 4.
__device__ __forceinline__ PhiloxWords rounding_draws(uint64_t seed, uint64_t i, uint64_t j) {
    const PhiloxWords counter = {{static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0x4C6F5241u}};
    return philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// A weight that is NaN stays as it is; `old(r, c)` gives a weight's bits and is asked only where the sum is NaN.
template <class Weight, class Old, int ROWS, int COLUMNS>
__device__ __forceinline__ void round_tile(
    const Part<Weight>& part, Old old, const float (&value)[ROWS][COLUMNS], uint32_t (&rounded)[ROWS][COLUMNS]) {
    static_assert(ROWS % 4 == 0 && COLUMNS % 4 == 0, "draws come by four");
    const WeightUpdateArguments& arguments = part.arguments;
    if (!arguments.stochastic) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) rounded[r][c] = Weight::nearest(value[r][c]);
        }
    } else if (arguments.transposed) {
#pragma unroll
        for (int n = 0; n < ROWS / 4 * COLUMNS; ++n) {
            const int first = n / COLUMNS * 4, c = n % COLUMNS;
            const PhiloxWords draws = rounding_draws(arguments.seed, part.column + c, part.row + first);
#pragma unroll
            for (int r = 0; r < 4; ++r) rounded[first + r][c] = Weight::stochastic(value[first + r][c], draws.word[r]);
        }
    } else {
#pragma unroll
        for (int n = 0; n < ROWS * (COLUMNS / 4); ++n) {
            const int r = n / (COLUMNS / 4), first = n % (COLUMNS / 4) * 4;
            const PhiloxWords draws = rounding_draws(arguments.seed, part.row + r, part.column + first);
#pragma unroll
            for (int c = 0; c < 4; ++c) rounded[r][first + c] = Weight::stochastic(value[r][first + c], draws.word[c]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            if (value[r][c] == value[r][c] || !part.holds(r, c)) continue;
            const uint32_t bits = old(r, c);
            if (weight_is_nan<Weight>(bits)) rounded[r][c] = bits;
        }
    }
}

template <int ROWS, int COLUMNS>
__device__ __forceinline__ void add_term(float scale, const float (&sum)[ROWS][COLUMNS], float (&value)[ROWS][COLUMNS]) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) value[r][c] = __fmaf_rn(scale, sum[r][c], value[r][c]);
    }
}

template <class Weight, int ROWS, int COLUMNS>
__device__ __forceinline__ void decode_tile(const uint32_t (&bits)[ROWS][COLUMNS], float (&value)[ROWS][COLUMNS]) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) value[r][c] = Weight::decode(bits[r][c]);
    }
}

template <class Weight, class Tiling = UsualTiling>
__device__ __forceinline__ void update(const WeightUpdateArguments& arguments) {
    constexpr int ROWS = Tiling::THREAD_ROWS, COLUMNS = Tiling::THREAD_COLUMNS;
    __shared__ StagedFactors<Tiling> stage;
    const ThreadPlace place = thread_place<Tiling>(arguments.w.columns);
    const Part<Weight> part{arguments, place.tile_row + place.row, place.tile_column + place.column};
    uint32_t bits[ROWS][COLUMNS];
    part.load(bits);
    float value[ROWS][COLUMNS];
    decode_tile<Weight>(bits, value);
    if (arguments.remove.left.columns > 0) {
        float sum[ROWS][COLUMNS] = {};
        delta_tile(arguments.remove, place, stage, sum);
        add_term(-arguments.remove.scale, sum, value);
    }
    if (arguments.add.left.columns > 0) {
        float sum[ROWS][COLUMNS] = {};
        delta_tile(arguments.add, place, stage, sum);
        add_term(arguments.add.scale, sum, value);
    }
    // Holding the old bits until here would cost the registers of a second block.
    round_tile(part, [&](int r, int c) -> uint32_t { return part.weights(r)[c]; }, value, bits);
    part.store(bits);
}

// The weights from before the merge that is being taken out.
template <class Weight>
__device__ __forceinline__ void restore_tile(const Part<Weight>& part, const BitsTile& current, const SumTile& removed, BitsTile& old) {
    const WeightUpdateArguments& arguments = part.arguments;
    if (arguments.keep == KEEP_BACKUP) {
        part.template load_kept<typename Weight::Bits>(old);
        return;
    }
    part.template load_kept<uint8_t>(old);
    TileMask escaped = 0;
#pragma unroll
    for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < THREAD_COLUMNS; ++c) {
            const int code = static_cast<int8_t>(old[r][c]);
            old[r][c] = weight_from_code<Weight>(current[r][c], arguments.remove.scale, removed[r][c], code);
            if (code == ESCAPE_CODE && part.holds(r, c)) escaped |= 1u << (r * THREAD_COLUMNS + c);
        }
    }
    // Rare, so a loop; registers cannot be indexed, so a search for the one that is meant.
#pragma unroll 1
    for (; escaped != 0; escaped &= escaped - 1) {
        const int n = __ffs(escaped) - 1;
        const EscapeLookup found = find_escape(arguments, part.index(n / THREAD_COLUMNS, n % THREAD_COLUMNS));
#pragma unroll
        for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
            for (int c = 0; c < THREAD_COLUMNS; ++c) {
                if (found.exists && n == r * THREAD_COLUMNS + c) old[r][c] = found.bits;
            }
        }
    }
}

template <class Weight>
__device__ __forceinline__ void record_tile(const Part<Weight>& part, const BitsTile& old, const BitsTile& merged, const SumTile& added) {
    const WeightUpdateArguments& arguments = part.arguments;
    if (arguments.keep == KEEP_BACKUP) {
        if (!arguments.dry_run) part.template store_kept<typename Weight::Bits>(old);
        return;
    }
    BitsTile codes;
    TileMask escaped = 0;
#pragma unroll
    for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < THREAD_COLUMNS; ++c) {
            const int code = code_of_weight<Weight>(old[r][c], merged[r][c], arguments.add.scale, added[r][c]);
            codes[r][c] = static_cast<uint8_t>(code);
            if (code == ESCAPE_CODE && part.holds(r, c)) escaped |= 1u << (r * THREAD_COLUMNS + c);
        }
    }
    if (!arguments.dry_run) {
        part.template store_kept<uint8_t>(codes);
        return;
    }
#pragma unroll 1
    for (; escaped != 0; escaped &= escaped - 1) {
        const int n = __ffs(escaped) - 1;
        uint32_t bits = 0;
#pragma unroll
        for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
            for (int c = 0; c < THREAD_COLUMNS; ++c) {
                if (n == r * THREAD_COLUMNS + c) bits = old[r][c];
            }
        }
        append_escape(arguments, part.index(n / THREAD_COLUMNS, n % THREAD_COLUMNS), bits);
    }
}

// What this thread's weights add to the fingerprint of W.
template <class Weight>
__device__ __forceinline__ uint64_t fingerprint_tile(const Part<Weight>& part, const BitsTile& tile) {
    static_assert(THREAD_ROWS == 4 && THREAD_COLUMNS == 4, "whole words");
    constexpr int BITS = 8 * sizeof(typename Weight::Bits), PER_WORD = 64 / BITS;
    const bool transposed = part.arguments.transposed;
    const int64_t features = transposed ? part.arguments.w.rows : part.arguments.w.columns;
    const int64_t words = (features + PER_WORD - 1) / PER_WORD;
    const int64_t i = transposed ? part.column : part.row, j = transposed ? part.row : part.column;
    uint64_t sum = 0;
    // Runs of neighbours in a row of W [in, out].
#pragma unroll
    for (int run = 0; run < 4; ++run) {
#pragma unroll
        for (int first = 0; first < 4; first += PER_WORD) {
            uint64_t word = 0;
#pragma unroll
            for (int n = 0; n < PER_WORD; ++n) {
                const uint32_t bits = transposed ? tile[first + n][run] : tile[run][first + n];
                const bool holds = transposed ? part.holds(first + n, run) : part.holds(run, first + n);
                word |= uint64_t(holds ? bits : 0) << n * BITS;
            }
            const bool exists = transposed ? part.holds(first, run) : part.holds(run, first);
            if (exists) sum += word_term((i + run) * words + (j + first) / PER_WORD, word);
        }
    }
    return sum;
}

// Adds up over the block in a fixed order.
__device__ __forceinline__ void reduce_parts(const MeasuredPart& own, MeasuredPart* parts, MeasuredPart* target) {
    parts[threadIdx.x] = own;
    for (int half = WEIGHT_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half) {
            MeasuredPart& sum = parts[threadIdx.x];
            const MeasuredPart& other = parts[threadIdx.x + half];
            sum.max_error = fmax(sum.max_error, other.max_error);
            sum.squares = __dadd_rn(sum.squares, other.squares);
            sum.measured += other.measured;
            sum.unchanged += other.unchanged;
            sum.non_finite += other.non_finite;
        }
    }
    if (threadIdx.x == 0) *target = parts[0];
}

// `current` became `rounded`, where `base` and the terms call for it.
template <class Weight>
__device__ __forceinline__ void measure_tile(const Part<Weight>& part, const BitsTile& current, const BitsTile& base,
                                             const BitsTile& rounded, bool removes, const SumTile& removed, const SumTile& added) {
    const WeightUpdateArguments& arguments = part.arguments;
    // A dry run measures nothing.
    if (!arguments.parts) return;
    __shared__ MeasuredPart parts[WEIGHT_THREADS];
    const bool adds = arguments.add.left.columns > 0;
    MeasuredPart own = {};
#pragma unroll
    for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < THREAD_COLUMNS; ++c) {
            if (!part.holds(r, c)) continue;
            double exact = Weight::decode(base[r][c]);
            // Products of two floats are exact in double precision.
            if (removes) exact = __fma_rn(-double(arguments.remove.scale), double(removed[r][c]), exact);
            if (adds) exact = __fma_rn(double(arguments.add.scale), double(added[r][c]), exact);
            const double error = fabs(__dadd_rn(double(Weight::decode(rounded[r][c])), -exact));
            own.unchanged += rounded[r][c] == current[r][c];
            own.non_finite += !weight_is_finite<Weight>(rounded[r][c]);
            if (error <= 1.7976931348623157e308) {
                own.measured += 1;
                own.max_error = fmax(own.max_error, error);
                own.squares = __fma_rn(error, error, own.squares);
            }
        }
    }
    reduce_parts(own, parts, reinterpret_cast<MeasuredPart*>(arguments.parts) + blockIdx.x);
}

// With a record, or to be measured.
template <class Weight, bool measures>
__device__ __forceinline__ void update_observed(const WeightUpdateArguments& arguments) {
    __shared__ FactorStage stage;
    const ThreadPlace place = thread_place(arguments.w.columns);
    const Part<Weight> part{arguments, place.tile_row + place.row, place.tile_column + place.column};
    BitsTile current;
    part.load(current);
    SumTile removed = {}, added = {};
    delta_tile(arguments.remove, place, stage, removed);
    delta_tile(arguments.add, place, stage, added);
    const bool removes = arguments.remove.left.columns > 0, adds = arguments.add.left.columns > 0;
    const bool restores = removes && arguments.keep != KEEP_NOTHING;

    // What the terms that are left apply to.
    BitsTile base;
#pragma unroll
    for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < THREAD_COLUMNS; ++c) base[r][c] = current[r][c];
    }
    if (restores) restore_tile(part, current, removed, base);
    const uint64_t base_sum = arguments.sums ? fingerprint_tile(part, base) : 0;
    BitsTile rounded;
    if (restores && !adds) {
#pragma unroll
        for (int r = 0; r < THREAD_ROWS; ++r) {
#pragma unroll
            for (int c = 0; c < THREAD_COLUMNS; ++c) {
                rounded[r][c] = base[r][c];
                // The error is that of the removal.
                base[r][c] = current[r][c];
            }
        }
    } else {
        SumTile value;
        decode_tile<Weight>(base, value);
        if (removes && !restores) add_term(-arguments.remove.scale, removed, value);
        if (adds) add_term(arguments.add.scale, added, value);
        round_tile(part, [&](int r, int c) { return base[r][c]; }, value, rounded);
    }
    if (adds && arguments.keep != KEEP_NOTHING) record_tile(part, base, rounded, added);
    if (!arguments.dry_run) part.store(rounded);
    if (arguments.sums) {
        __shared__ unsigned long long base_sums[WEIGHT_THREADS];
        __shared__ unsigned long long new_sums[WEIGHT_THREADS];
        add_block_sum(base_sum, base_sums, arguments.sums);
        add_block_sum(fingerprint_tile(part, rounded), new_sums, arguments.sums + sizeof(uint64_t));
    }

    if constexpr (measures) measure_tile(part, current, base, rounded, removes && !(restores && adds), removed, added);
}

LORA_KERNEL(weight_update_f32, WeightUpdateArguments, WEIGHT_THREADS) { update<WeightF32>(arguments); }
LORA_KERNEL(weight_update_f16, WeightUpdateArguments, WEIGHT_THREADS) { update<WeightF16>(arguments); }
LORA_KERNEL(weight_update_bf16, WeightUpdateArguments, WEIGHT_THREADS) { update<WeightBf16>(arguments); }
LORA_KERNEL(weight_update_recorded_f32, WeightUpdateArguments, WEIGHT_THREADS) { update_observed<WeightF32, false>(arguments); }
LORA_KERNEL(weight_update_recorded_f16, WeightUpdateArguments, WEIGHT_THREADS) { update_observed<WeightF16, false>(arguments); }
LORA_KERNEL(weight_update_recorded_bf16, WeightUpdateArguments, WEIGHT_THREADS) { update_observed<WeightBf16, false>(arguments); }
LORA_KERNEL(weight_update_measured_f32, WeightUpdateArguments, WEIGHT_THREADS) { update_observed<WeightF32, true>(arguments); }
LORA_KERNEL(weight_update_measured_f16, WeightUpdateArguments, WEIGHT_THREADS) { update_observed<WeightF16, true>(arguments); }
LORA_KERNEL(weight_update_measured_bf16, WeightUpdateArguments, WEIGHT_THREADS) { update_observed<WeightBf16, true>(arguments); }

#ifdef LORA_KERNELS_SWEEP
#define WEIGHT_UPDATE_VARIANT(tile_rows, tile_columns, thread_rows, thread_columns, depth)                                        \
    LORA_KERNEL(                                                                                                                  \
        weight_update_bf16_rows##tile_rows##_columns##tile_columns##_thread##thread_rows##x##thread_columns##_depth##depth,      \
        WeightUpdateArguments, weight_threads(tile_rows, tile_columns, thread_rows, thread_columns)) {                            \
        update<WeightBf16, WeightTiling<tile_rows, tile_columns, thread_rows, thread_columns, depth>>(arguments);                \
    }
#include "sweep_variants.cuh"
#endif

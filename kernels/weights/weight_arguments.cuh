// Arguments of the kernels that change or identify weights; mirrored by src/cuda/arguments/weights.rs.
#pragma once
#include "view.cuh"
#include "weights/weight_constants.cuh"

// Δ = s·A·B, oriented as the weight is stored: left [stored rows, r], right [r, stored columns].
// Without an adapter r is 0.
struct DeltaTerm {
    View left;
    View right;
    float scale;
    uint32_t dtype;
};
static_assert(sizeof(DeltaTerm) == 88, "mirrored in Rust");

// A weight that a code cannot describe; its index counts row by row in W [in, out].
struct EscapeEntry {
    uint64_t index;
    uint32_t bits;
    uint32_t padding;
};
static_assert(sizeof(EscapeEntry) == 16, "mirrored in Rust");

// What a block measured. The host adds these up in the order of blocks.
struct MeasuredPart {
    double max_error;
    double squares;
    uint64_t measured;
    uint64_t unchanged;
    uint64_t non_finite;
};
static_assert(sizeof(MeasuredPart) == 40, "mirrored in Rust");

struct WeightUpdateArguments {
    View w;                        // as stored: columns are contiguous
    DeltaTerm remove;
    DeltaTerm add;
    uint64_t kept;                 // codes or old weights, row by row in W [in, out]
    uint64_t old_escapes;          // EscapeEntry[old_escape_count], sorted by index
    uint64_t old_escape_count;
    uint64_t new_escapes;          // EscapeEntry[new_escape_capacity]
    uint64_t new_escape_capacity;
    uint64_t new_escape_count;     // uint64_t, added to
    uint64_t parts;                // MeasuredPart[blocks], or null
    uint64_t sums;                 // uint64_t[2], added to: fingerprints of the W that is added to, of the new one; or null
    uint64_t seed;
    uint32_t transposed;           // whether storage is [out, in]
    uint32_t vector_rows;          // rows of w may be copied 16 bytes at a time
    uint32_t vector_kept;          // likewise runs of neighbours in `kept`
    uint32_t stochastic;
    uint32_t keep;
    uint32_t dry_run;              // only count and collect escapes
};
static_assert(sizeof(WeightUpdateArguments) == 312, "mirrored in Rust");

struct DeltaArguments {
    View target;                   // as stored: columns are contiguous
    DeltaTerm term;
    uint32_t vector_rows;
    uint32_t padding;
};
static_assert(sizeof(DeltaArguments) == 136, "mirrored in Rust");

struct FingerprintArguments {
    View matrix;
    uint64_t sum;                  // uint64_t, added to
    uint32_t dtype;
    uint32_t stored_bits;          // the elements' own bits; otherwise those of their values in f32
};
static_assert(sizeof(FingerprintArguments) == 56, "mirrored in Rust");

struct CodesArguments {
    uint64_t codes;                // codes or old weights
    uint64_t bytes;
    uint64_t sum;                  // uint64_t, added to
    uint64_t escapes;              // uint64_t, to which the number of codes that mark an escape is added
};
static_assert(sizeof(CodesArguments) == 32, "mirrored in Rust");

//! Faults of weight updates, deltas and fingerprints.

use super::{Mutant, cases};

const UPDATE: Mutant = Mutant {
    fault: "",
    kernel: "weight_update.cu",
    changes: &[],
    launched: &["weight_update_bf16"],
    cases: cases::updates,
};
const RECORDED: Mutant =
    Mutant { launched: &["weight_update_recorded_bf16"], cases: cases::recorded_updates, ..UPDATE };
const MEASURED: Mutant =
    Mutant { launched: &["weight_update_measured_bf16"], cases: cases::measured_updates, ..UPDATE };
const DELTA: Mutant = Mutant { kernel: "delta.cu", launched: &["delta_f16"], cases: cases::deltas, ..UPDATE };
const DELTA_F32: Mutant = Mutant { launched: &["delta_f32"], cases: cases::deltas_f32, ..DELTA };
const FINGERPRINT: Mutant = Mutant {
    kernel: "fingerprint.cu",
    launched: &["fingerprint", "fingerprint_codes"],
    cases: cases::recorded_updates,
    ..UPDATE
};

pub const MUTANTS: &[Mutant] = &[
    // Sums of A·B.
    Mutant {
        fault: "factors are replaced while others read them",
        changes: &[("delta_tile.cuh", "rank - first_k);\n        __syncthreads();", "rank - first_k);")],
        ..UPDATE
    },
    Mutant {
        fault: "factors are read before they are complete",
        changes: &[("delta_tile.cuh", "__syncthreads();\n        for (int k = 0", "for (int k = 0")],
        ..UPDATE
    },
    Mutant {
        fault: "sums run downwards",
        changes: &[(
            "delta_tile.cuh",
            "for (int k = 0; k < depth; ++k) {",
            "for (int k = depth - 1; k >= 0; --k) {",
        )],
        ..DELTA_F32
    },
    Mutant {
        fault: "multiplication and addition round separately",
        changes: &[(
            "delta_tile.cuh",
            "__fmaf_rn(rows[r], columns[c], sum[r][c])",
            "__fadd_rn(__fmul_rn(rows[r], columns[c]), sum[r][c])",
        )],
        ..DELTA_F32
    },
    Mutant {
        fault: "factors are read past their end",
        changes: &[(
            "delta_tile.cuh",
            "position < end ? load_element(address, index, dtype) : 0.0f",
            "load_element(address, index, dtype)",
        )],
        ..UPDATE
    },
    Mutant {
        fault: "the last stage of factors is too long",
        changes: &[("delta_tile.cuh", "min(TILE_DEPTH, rank - first_k)", "TILE_DEPTH")],
        ..UPDATE
    },
    // Weights.
    Mutant {
        fault: "rows past the end are stored",
        changes: &[(
            "weight_update.cu",
            "store_run(weights(r), r < rows() ? columns() : 0,",
            "store_run(weights(r), columns(),",
        )],
        ..UPDATE
    },
    Mutant {
        fault: "the removed adapter is added",
        changes: &[(
            "weight_update.cu",
            "add_term(-arguments.remove.scale, sum, value);",
            "add_term(arguments.remove.scale, sum, value);",
        )],
        ..UPDATE
    },
    Mutant {
        fault: "NaNs lose their payload",
        changes: &[("weight_update.cu", "if (weight_is_nan<Weight>(bits)) rounded[r][c] = bits;", "")],
        ..UPDATE
    },
    Mutant {
        fault: "single elements of a run are not bounded",
        changes: &[(
            "element_run.cuh",
            "if (n < count) target[n] = static_cast<Element>(source[n]);",
            "target[n] = static_cast<Element>(source[n]);",
        )],
        ..UPDATE
    },
    Mutant {
        fault: "the wrong word of draws",
        changes: &[("weight_update.cu", "draws.word[c]", "draws.word[3 - c]")],
        cases: cases::stochastic_updates,
        ..UPDATE
    },
    Mutant {
        fault: "draws of another column",
        changes: &[(
            "weight_update.cu",
            "static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i),",
            "static_cast<uint32_t>(j), static_cast<uint32_t>(i),",
        )],
        cases: cases::stochastic_updates,
        ..UPDATE
    },
    // Records and reports.
    Mutant {
        fault: "escapes take their slots without atomics",
        changes: &[(
            "weight_record.cuh",
            "atomicAdd(reinterpret_cast<unsigned long long*>(arguments.new_escape_count), 1ull)",
            "(*reinterpret_cast<unsigned long long*>(arguments.new_escape_count))++",
        )],
        ..RECORDED
    },
    Mutant {
        fault: "the dry run stores weights",
        changes: &[(
            "weight_update.cu",
            "if (!arguments.dry_run) part.store(rounded);",
            "part.store(rounded);",
        )],
        ..RECORDED
    },
    Mutant {
        fault: "codes of a transposed weight in the wrong order",
        changes: &[(
            "weight_update.cu",
            "(column + c) * arguments.w.rows + row + r",
            "(row + r) * arguments.w.columns + column + c",
        )],
        ..RECORDED
    },
    Mutant {
        fault: "the search for an escape misses one",
        changes: &[("weight_record.cuh", "first = middle + 1;", "first = middle + 2;")],
        ..RECORDED
    },
    Mutant {
        fault: "negative weights are numbered upwards",
        changes: &[("weight_format.cuh", "bits & Weight::SIGN ? ~magnitude : magnitude", "magnitude")],
        ..RECORDED
    },
    Mutant {
        fault: "the sum over a block has no barriers",
        changes: &[("weight_update.cu", "half /= 2) {\n        __syncthreads();", "half /= 2) {")],
        ..MEASURED
    },
    Mutant {
        fault: "all blocks report to the first one's place",
        changes: &[("weight_update.cu", "(arguments.parts) + blockIdx.x", "(arguments.parts)")],
        ..MEASURED
    },
    Mutant {
        fault: "weights outside the matrix are measured",
        changes: &[(
            "weight_update.cu",
            "            if (!part.holds(r, c)) continue;\n            double",
            "            double",
        )],
        ..MEASURED
    },
    // Δ.
    Mutant {
        fault: "Δ is not scaled",
        changes: &[("delta.cu", "__fmul_rn(arguments.term.scale, sum[r][c])", "sum[r][c]")],
        ..DELTA
    },
    Mutant {
        fault: "a row too many of Δ",
        changes: &[(
            "delta.cu",
            "if (row + r >= arguments.target.rows) break;",
            "if (row + r > arguments.target.rows) break;",
        )],
        ..DELTA
    },
    // Fingerprints.
    Mutant {
        fault: "the sum over a block has no barriers",
        changes: &[("fingerprint.cuh", "half /= 2) {\n        __syncthreads();", "half /= 2) {")],
        ..FINGERPRINT
    },
    Mutant {
        fault: "blocks add to the fingerprint without atomics",
        changes: &[(
            "fingerprint.cuh",
            "atomicAdd(reinterpret_cast<unsigned long long*>(target), sums[0]);",
            "*reinterpret_cast<unsigned long long*>(target) += sums[0];",
        )],
        ..FINGERPRINT
    },
    Mutant {
        fault: "the fingerprint skips the gaps between columns only",
        changes: &[(
            "fingerprint.cu",
            "row * matrix.row_stride + (first + part) * matrix.column_stride",
            "row * matrix.row_stride + first + part",
        )],
        ..FINGERPRINT
    },
    Mutant {
        fault: "marks of escapes are counted in the upper half of a word only",
        changes: &[("fingerprint.cu", "(zeros >> 7) *", "(zeros >> 39) *")],
        ..FINGERPRINT
    },
    Mutant {
        fault: "the last word of the codes is left out",
        changes: &[("fingerprint.cu", "(arguments.bytes + 7) / 8", "arguments.bytes / 8")],
        ..FINGERPRINT
    },
    Mutant {
        fault: "words outside the matrix count in its fingerprint",
        changes: &[("weight_update.cu", "if (exists) sum += word_term", "sum += word_term")],
        ..RECORDED
    },
    // Found to be missed: the counter's first word repeats.
    Mutant {
        fault: "draws repeat every 256 columns",
        changes: &[(
            "weight_update.cu",
            "static_cast<uint32_t>(j / 4),",
            "static_cast<uint32_t>(j / 4 % 64),",
        )],
        cases: cases::wide_stochastic_updates,
        ..UPDATE
    },
    Mutant {
        fault: "draws repeat every 256 rows",
        changes: &[(
            "weight_update.cu",
            "static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32)",
            "static_cast<uint32_t>(i % 256), static_cast<uint32_t>(i >> 32)",
        )],
        cases: cases::wide_stochastic_updates,
        ..UPDATE
    },
    Mutant {
        fault: "128 steps up get a code, which is that of an escape",
        changes: &[("weight_record.cuh", "steps <= MAX_CODE", "steps <= MAX_CODE + 1")],
        cases: cases::far_updates,
        ..RECORDED
    },
    Mutant {
        fault: "127 steps down get an escape",
        changes: &[("weight_record.cuh", "steps >= -MAX_CODE", "steps > -MAX_CODE")],
        cases: cases::far_updates,
        ..RECORDED
    },
];

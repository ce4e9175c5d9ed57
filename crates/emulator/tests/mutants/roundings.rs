//! Faults that a tolerance hides, or that take an unusual shape to show: the order of sums, roundings, types of siblings.

use super::{Mutant, cases};

const SHRINK: Mutant = Mutant {
    fault: "",
    kernel: "shrink.cu",
    changes: &[],
    launched: &["shrink_f32_rank16"],
    cases: cases::order_of_s,
};
const BACKWARD_A: Mutant = Mutant {
    kernel: "backward_a.cu",
    launched: &["backward_a_f32_rank16"],
    cases: cases::order_of_da,
    ..SHRINK
};
const BACKWARD_DY: Mutant = Mutant {
    kernel: "backward_dy.cu",
    launched: &["backward_dy_f32_rank16"],
    cases: cases::order_of_db,
    ..SHRINK
};
const GROUPS: Mutant =
    Mutant { launched: &["backward_dy_f32_rank32"], cases: cases::order_of_groups, ..BACKWARD_DY };
const CHUNKS: Mutant =
    Mutant { launched: &["backward_dy_f32_rank64"], cases: cases::order_of_chunks, ..BACKWARD_DY };
const MANY_CHUNKS: Mutant =
    Mutant { launched: &["backward_dy_tf32_rank64"], cases: cases::many_columns_and_rows, ..BACKWARD_DY };
const EXPAND: Mutant = Mutant {
    kernel: "expand.cu",
    launched: &["expand_bf16_rank16", "expand_f16_rank16"],
    cases: cases::rounded_once,
    ..SHRINK
};
const FINALIZE: Mutant =
    Mutant { kernel: "finalize.cu", launched: &["finalize"], cases: cases::rounded_once, ..SHRINK };
const PACK: Mutant =
    Mutant { kernel: "pack.cu", launched: &["pack"], cases: cases::mixed_siblings, ..SHRINK };

const BACKWARDS: &[(&str, &str, &str)] = &[(
    "finalize.cu",
    "sum += slab[i * slab_elements]",
    "sum += slab[(arguments.slab_count - 1 - i) * slab_elements]",
)];

pub const MUTANTS: &[Mutant] = &[
    // The order of sums.
    Mutant {
        fault: "slabs of S are added backwards",
        changes: BACKWARDS,
        cases: cases::order_of_s,
        ..FINALIZE
    },
    Mutant {
        fault: "slabs of dS are added backwards",
        changes: BACKWARDS,
        cases: cases::order_of_groups,
        ..FINALIZE
    },
    Mutant {
        fault: "slabs of dA are added backwards",
        changes: BACKWARDS,
        cases: cases::order_of_da,
        ..FINALIZE
    },
    Mutant {
        fault: "slabs of dB are added backwards",
        changes: BACKWARDS,
        cases: cases::order_of_db,
        ..FINALIZE
    },
    Mutant {
        fault: "slabs of dbias are added backwards",
        changes: BACKWARDS,
        cases: cases::order_of_dbias,
        ..FINALIZE
    },
    Mutant {
        fault: "ranges of X's columns go to the slabs backwards",
        changes: &[("shrink.cu", "+ split * rows", "+ (arguments.split.blocks - 1 - split) * rows")],
        ..SHRINK
    },
    Mutant {
        fault: "ranges of X's rows go to the slabs backwards",
        changes: &[(
            "backward_a.cu",
            "+ split * columns",
            "+ (arguments.split.blocks - 1 - split) * columns",
        )],
        ..BACKWARD_A
    },
    Mutant {
        fault: "ranges of dY's rows go to the slabs of dB backwards",
        changes: &[(
            "backward_dy.cu",
            "(arguments.db_slabs) + split * columns",
            "(arguments.db_slabs) + (arguments.split.blocks - 1 - split) * columns",
        )],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "lower halves of tiles come before upper ones in dbias",
        changes: &[(
            "backward_dy.cu",
            "(split * 2 + threadIdx.x / TILE) * columns",
            "(split * 2 + 1 - threadIdx.x / TILE) * columns",
        )],
        cases: cases::order_of_dbias,
        ..BACKWARD_DY
    },
    Mutant {
        fault: "groups of dY's columns go to the slabs backwards",
        changes: &[("backward_dy.cu", "group * rows", "(arguments.column_groups - 1 - group) * rows")],
        ..GROUPS
    },
    Mutant {
        fault: "a group adds its chunks backwards",
        changes: &[
            (
                "backward_dy.cu",
                "arguments.chunks_per_group + c) * TILES;",
                "arguments.chunks_per_group + (arguments.chunks_per_group - 1 - c)) * TILES;",
            ),
            (
                "backward_dy.cu",
                "if (first_tile >= column_tiles) break;",
                "if (first_tile >= column_tiles) continue;",
            ),
        ],
        ..CHUNKS
    },
    // Chunks.
    Mutant {
        fault: "S is loaded for the first chunk only",
        changes: &[("backward_dy.cu", "if (wants_db && j == 0) {", "if (wants_db && j == 0 && c == 0) {")],
        ..MANY_CHUNKS
    },
    // Roundings.
    Mutant {
        fault: "gradients are rounded before they are added to what is there",
        changes: &[(
            "finalize.cu",
            "if (segment.accumulate) value +=",
            "if (segment.dtype == DTYPE_BF16) value = to_float(from_float<__nv_bfloat16>(value));\n    \
             if (segment.dtype == DTYPE_F16) value = to_float(from_float<__half>(value));\n    \
             if (segment.accumulate) value +=",
        )],
        ..FINALIZE
    },
    Mutant {
        fault: "vectors of dX are rounded before they are added to what is there",
        changes: &[(
            "expand.cu",
            "value[j] += to_float(old.element[j]);",
            "value[j] = to_float(from_float<T>(value[j])) + to_float(old.element[j]);",
        )],
        ..EXPAND
    },
    Mutant {
        fault: "single elements of dX are rounded before they are added to what is there",
        changes: &[(
            "expand.cu",
            "*element = from_float<T>(value[j] +",
            "*element = from_float<T>(to_float(from_float<T>(value[j])) +",
        )],
        ..EXPAND
    },
    // Types of siblings.
    Mutant {
        fault: "all outputs have the first one's type",
        changes: &[(
            "finalize.cu",
            "store_element(segment.address, target, segment.dtype,",
            "store_element(segment.address, target, arguments.segments[0].dtype,",
        )],
        cases: cases::mixed_siblings,
        ..FINALIZE
    },
    Mutant {
        fault: "all gradients are taken for the first one's type where they are added to",
        changes: &[(
            "finalize.cu",
            "load_element(segment.address, target, segment.dtype)",
            "load_element(segment.address, target, arguments.segments[0].dtype)",
        )],
        cases: cases::mixed_siblings,
        ..FINALIZE
    },
    Mutant {
        fault: "all adapters are taken for the first one's type",
        changes: &[(
            "pack.cu",
            "load_element(source.address, index, segment.dtype)",
            "load_element(source.address, index, arguments.segments[0].dtype)",
        )],
        ..PACK
    },
];

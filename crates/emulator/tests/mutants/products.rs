//! Faults of the skinny products.

use super::{Mutant, cases};

const SHRINK: Mutant = Mutant {
    fault: "",
    kernel: "shrink.cu",
    changes: &[],
    launched: &["shrink_bf16_rank16"],
    cases: cases::shrink,
};
const SHRINK_F32: Mutant =
    Mutant { launched: &["shrink_f32_rank16", "shrink_tf32_rank16"], cases: cases::shrink_f32, ..SHRINK };
const SHRINK_WIDE: Mutant =
    Mutant { launched: &["shrink_bf16_rank64"], cases: cases::wide_forward, ..SHRINK };
const COPIES: Mutant = Mutant { cases: cases::copies, ..SHRINK };
const COPIES_OF_DY: Mutant = Mutant { cases: cases::copies, ..BACKWARD_DY };
const EXPAND: Mutant =
    Mutant { kernel: "expand.cu", launched: &["expand_bf16_rank16"], cases: cases::expand, ..SHRINK };
const EXPAND_BACKWARD: Mutant = Mutant { cases: cases::expand_backward, ..EXPAND };
const EXPAND_WIDE: Mutant =
    Mutant { launched: &["expand_bf16_rank64"], cases: cases::wide_forward, ..EXPAND };
const BACKWARD_DY: Mutant = Mutant {
    kernel: "backward_dy.cu",
    launched: &["backward_dy_bf16_rank16"],
    cases: cases::backward_dy,
    ..SHRINK
};
const BACKWARD_DY_WIDE: Mutant =
    Mutant { launched: &["backward_dy_tf32_rank64"], cases: cases::many_columns, ..BACKWARD_DY };
const BACKWARD_A: Mutant = Mutant {
    kernel: "backward_a.cu",
    launched: &["backward_a_bf16_rank16"],
    cases: cases::backward_a,
    ..SHRINK
};
const PACK: Mutant = Mutant { kernel: "pack.cu", launched: &["pack"], cases: cases::siblings, ..SHRINK };
const FINALIZE: Mutant =
    Mutant { kernel: "finalize.cu", launched: &["finalize"], cases: cases::siblings, ..SHRINK };

pub const MUTANTS: &[Mutant] = &[
    // The pipeline of copies.
    Mutant {
        fault: "the pipeline has no barrier",
        changes: &[("tile.cuh", "refilled next.\n        __syncthreads();", "refilled next.")],
        ..SHRINK
    },
    Mutant {
        fault: "the pipeline does not wait for its copies",
        changes: &[("tile.cuh", "cp_async_wait<DEPTH - 2>();", "")],
        ..SHRINK
    },
    Mutant {
        fault: "the pipeline leaves one group too many unfinished",
        changes: &[("tile.cuh", "cp_async_wait<DEPTH - 2>()", "cp_async_wait<DEPTH - 1>()")],
        ..SHRINK
    },
    Mutant {
        fault: "copies in the loop are not committed",
        changes: &[("tile.cuh", "stage - 1, ahead);\n        cp_async_commit();", "stage - 1, ahead);")],
        ..SHRINK
    },
    Mutant {
        fault: "a stage is refilled while it is read",
        changes: &[("tile.cuh", "load(stage == 0 ? DEPTH - 1 : stage - 1, ahead)", "load(stage, ahead)")],
        ..SHRINK
    },
    // Tiles.
    Mutant {
        fault: "copies take 16 bytes where fewer are inside",
        changes: &[("tile.cuh", "source + part : base, bytes);", "source + part : base, 16);")],
        ..SHRINK
    },
    Mutant {
        fault: "copies count elements instead of bytes",
        changes: &[("tile.cuh", "inside : VECTOR) * int(sizeof(T));", "inside : VECTOR);")],
        ..SHRINK
    },
    Mutant {
        fault: "no zeros outside an unaligned matrix",
        changes: &[(
            "tile.cuh",
            "target[j] = j < inside ? source[j * view.column_stride] : from_float<T>(0.0f);",
            "if (j < inside) target[j] = source[j * view.column_stride];",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "one row too many",
        changes: &[(
            "tile.cuh",
            "count_inside(view.rows, row + first.row,",
            "count_inside(view.rows + 1, row + first.row,",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "the last column is missing",
        changes: &[(
            "tile.cuh",
            "count_inside(view.columns, column + first.column,",
            "count_inside(view.columns - 1, column + first.column,",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "the wrong stride from one row of copies to the next",
        changes: &[(
            "tile.cuh",
            "source += ROW_STEP * view.row_stride;",
            "source += ROW_STEP * Shape::PITCH;",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "the last range of a split lacks a tile",
        changes: &[(
            "tile.cuh",
            "count_inside(total, first, int(split.tiles))",
            "count_inside(total - 1, first, int(split.tiles))",
        )],
        ..SHRINK
    },
    // Dropout.
    Mutant {
        fault: "no dropout",
        changes: &[("tile.cuh", "if (mask.threshold == 0) return;", "return;")],
        ..SHRINK
    },
    Mutant {
        fault: "words of the generator's counter are swapped",
        changes: &[(
            "tile.cuh",
            "static_cast<uint32_t>(column / UNIT), static_cast<uint32_t>(row),",
            "static_cast<uint32_t>(row), static_cast<uint32_t>(column / UNIT),",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "nine rounds of the generator",
        changes: &[("philox.cuh", "round < 10", "round < 9")],
        ..SHRINK
    },
    Mutant {
        fault: "the wrong word of draws",
        changes: &[(
            "tile.cuh",
            "vector.y &= (low[1] & 0xFFFFu) | (high[1] & 0xFFFF0000u);",
            "vector.y &= (low[2] & 0xFFFFu) | (high[2] & 0xFFFF0000u);",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "half of a unit of f32 is not masked",
        changes: &[("tile.cuh", "target[1] = second;", "")],
        ..SHRINK_F32
    },
    Mutant {
        fault: "the mask of the range's first tile for all",
        changes: &[(
            "shrink.cu",
            "row, (range.first + i) * COLUMNS);\n        },",
            "row, range.first * COLUMNS);\n        },",
        )],
        ..SHRINK
    },
    // Fragments.
    Mutant {
        fault: "matrices of the left fragment are swapped",
        changes: &[(
            "warp_product.cuh",
            "a + (matrix % 2 * 8 + row) * a_pitch + k + matrix / 2 * 8",
            "a + (matrix / 2 * 8 + row) * a_pitch + k + matrix % 2 * 8",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "registers of the right fragments are swapped",
        changes: &[(
            "warp_product.cuh",
            "first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]}",
            "first[2] = {right[0], right[2]}, second[2] = {right[1], right[3]}",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "the left operand is loaded without transposition",
        changes: &[("warp_product.cuh", "ldmatrix_x4_transposed(left,", "ldmatrix_x4(left,")],
        ..BACKWARD_A
    },
    Mutant {
        fault: "a TF32 fragment's rows and depths are swapped",
        changes: &[(
            "warp_product.cuh",
            "group + e % 2 * 8, k + member + e / 2 * 4",
            "group + e / 2 * 8, k + member + e % 2 * 4",
        )],
        ..SHRINK_F32
    },
    Mutant {
        fault: "the wrong row in an f32 product",
        changes: &[("warp_product.cuh", "fmaf(lower, odd,", "fmaf(upper, odd,")],
        ..SHRINK_F32
    },
    Mutant {
        fault: "TF32 operands are cut, not rounded",
        changes: &[("warp_product.cuh", "left[e] = to_tf32(a[", "left[e] = __float_as_uint(a[")],
        cases: cases::shrink_tf32,
        ..SHRINK_F32
    },
    Mutant {
        fault: "one row past the end of a slab",
        changes: &[("warp_product.cuh", "if (r >= rows) continue;", "if (r > rows) continue;")],
        ..SHRINK
    },
    Mutant {
        fault: "both halves of a fragment go to overlapping rows",
        changes: &[("warp_product.cuh", "row + lane / 4 + half * 8;", "row + lane / 4 + half * 4;")],
        ..SHRINK
    },
    // shrink.
    Mutant {
        fault: "a warp starts at the wrong row",
        changes: &[("shrink.cu", "x + warp_row * XTile::PITCH", "x + warp_row / 2 * XTile::PITCH")],
        ..SHRINK
    },
    Mutant {
        fault: "all splits share a slab",
        changes: &[(
            "shrink.cu",
            "+ split * rows * arguments.slab_columns",
            "+ 0 * rows * arguments.slab_columns",
        )],
        ..SHRINK
    },
    Mutant {
        fault: "all chunks of ranks go to the same columns",
        changes: &[("shrink.cu", "arguments.slab_columns + chunk * RANK;", "arguments.slab_columns;")],
        ..SHRINK_WIDE
    },
    // expand.
    Mutant {
        fault: "the product overwrites stages that others read",
        changes: &[(
            "expand.cu",
            "// neighbouring columns.\n    __syncthreads();",
            "// neighbouring columns.",
        )],
        ..EXPAND
    },
    Mutant {
        fault: "the product is read before it is complete",
        changes: &[("expand.cu", "__syncthreads();\n\n    T* const base", "T* const base")],
        ..EXPAND
    },
    Mutant {
        fault: "all column tiles get the first tile's bias",
        changes: &[(
            "expand.cu",
            "(c + j) * arguments.bias_stride",
            "(unit.column + j) * arguments.bias_stride",
        )],
        ..EXPAND
    },
    Mutant {
        fault: "one column past the end",
        changes: &[("expand.cu", "if (j >= inside) continue;", "if (j > inside) continue;")],
        ..EXPAND
    },
    Mutant {
        fault: "whole vectors beyond the last column",
        changes: &[("expand.cu", "if (vectors && inside == UNIT) {", "if (vectors) {")],
        ..EXPAND
    },
    Mutant {
        fault: "vectors are not added to what is there",
        changes: &[("expand.cu", "if (arguments.accumulate) {", "if (false) {")],
        ..EXPAND_BACKWARD
    },
    Mutant {
        fault: "single elements are not added to what is there",
        changes: &[("expand.cu", "(arguments.accumulate ? to_float(*element) : 0.0f)", "0.0f")],
        ..EXPAND_BACKWARD
    },
    Mutant {
        fault: "the mask of dX is transposed",
        changes: &[(
            "expand.cu",
            "dropout_draws(arguments.mask, r, c)",
            "dropout_draws(arguments.mask, c, r)",
        )],
        ..EXPAND_BACKWARD
    },
    Mutant {
        fault: "kept elements are not scaled",
        changes: &[("expand.cu", "unit.column + j] * arguments.scale;", "unit.column + j];")],
        ..EXPAND_BACKWARD
    },
    Mutant {
        fault: "every chunk of ranks meets the first rows of B",
        changes: &[("expand.cu", "arguments.b, int64_t(i) * RANK, column)", "arguments.b, 0, column)")],
        ..EXPAND_WIDE
    },
    // backward_dy.
    Mutant {
        fault: "B is replaced while the previous chunk reads it",
        changes: &[(
            "backward_dy.cu",
            "with the previous chunk.\n        __syncthreads();",
            "with the previous chunk.",
        )],
        ..BACKWARD_DY_WIDE
    },
    Mutant {
        fault: "later chunks overwrite dS",
        changes: &[("backward_dy.cu", "arguments.slab_columns, c != 0);", "arguments.slab_columns, false);")],
        ..BACKWARD_DY_WIDE
    },
    Mutant {
        fault: "too few buffers for S",
        changes: &[
            (
                "backward_dy.cu",
                "m % DEPTH * STile::ELEMENTS, arguments.s",
                "m % 2 * STile::ELEMENTS, arguments.s",
            ),
            ("backward_dy.cu", "m % DEPTH * STile::ELEMENTS, STile", "m % 2 * STile::ELEMENTS, STile"),
        ],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "S is copied again for every column tile",
        changes: &[("backward_dy.cu", "if (wants_db && j == 0) {", "if (wants_db) {")],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "buffers of dY and S overlap",
        changes: &[(
            "backward_dy.cu",
            "dy_stages + DEPTH * DyTile::ELEMENTS;",
            "dy_stages + (DEPTH - 1) * DyTile::ELEMENTS;",
        )],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "dS is not cleared for a new row tile",
        changes: &[("backward_dy.cu", "if (tile == 0) ds.clear();", "if (i == 0) ds.clear();")],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "dS is stored before its last column tile",
        changes: &[("backward_dy.cu", "if (tile == tiles - 1) {", "if (tile == 0) {")],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "every column tile meets the first of B",
        changes: &[("backward_dy.cu", "b + tile * TILE, BTile::PITCH", "b, BTile::PITCH")],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "splits of dB share a slab",
        changes: &[(
            "backward_dy.cu",
            "(arguments.db_slabs) + split * columns",
            "(arguments.db_slabs) + 0 * columns",
        )],
        cases: cases::many_rows,
        ..BACKWARD_DY
    },
    Mutant {
        fault: "the lower half of the rows is missing from dbias",
        changes: &[(
            "backward_dy.cu",
            "threadIdx.x / TILE * (TILE / 2) * DyTile::PITCH",
            "0 * (TILE / 2) * DyTile::PITCH",
        )],
        ..BACKWARD_DY
    },
    Mutant {
        fault: "dbias one column past the end",
        changes: &[(
            "backward_dy.cu",
            "column + threadIdx.x % TILE < columns",
            "column + threadIdx.x % TILE <= columns",
        )],
        ..BACKWARD_DY
    },
    // backward_a.
    Mutant {
        fault: "a warp's columns are taken for rows",
        changes: &[("backward_a.cu", "sum, x + warp_column,", "sum, x + warp_column * XTile::PITCH,")],
        ..BACKWARD_A
    },
    Mutant {
        fault: "every split has the first one's mask",
        changes: &[(
            "backward_a.cu",
            "arguments.mask, (range.first + i) * ROWS, column",
            "arguments.mask, int64_t(i) * ROWS, column",
        )],
        ..BACKWARD_A
    },
    // pack.
    Mutant {
        fault: "the transposition has no barrier",
        changes: &[("pack.cu", "__syncthreads();", "")],
        ..PACK
    },
    Mutant {
        fault: "one rank too many is packed",
        changes: &[("pack.cu", "if (rank + i < source.rows", "if (rank + i <= source.rows")],
        ..PACK
    },
    Mutant {
        fault: "all adapters are packed to the first one's rows",
        changes: &[("pack.cu", "(segment.first_row + rank + i)", "(rank + i)")],
        ..PACK
    },
    Mutant {
        fault: "packed with rows and columns swapped",
        changes: &[("pack.cu", "tile[r][f] =", "tile[f][r] =")],
        ..PACK
    },
    Mutant {
        fault: "bits are moved whatever their type",
        changes: &[("pack.cu", "segment.dtype != arguments.out_dtype", "false")],
        cases: cases::mixed_siblings,
        ..PACK
    },
    Mutant {
        fault: "bits of the wrong width are read",
        changes: &[(
            "element.cuh",
            "load_bits(uint64_t address, int64_t index, uint32_t dtype) {\n    if (dtype == DTYPE_F32)",
            "load_bits(uint64_t address, int64_t index, uint32_t dtype) {\n    if (dtype != DTYPE_F32)",
        )],
        ..PACK
    },
    // Copies of X and dY.
    Mutant {
        fault: "what dropout has zeroed is copied",
        changes: &[(
            "shrink.cu",
            "            if (copies) {",
            "            mask_tile<XTile>(stages + stage * STAGE, arguments.x, arguments.mask, row, (range.first + i) * COLUMNS);\n            if (copies) {",
        )],
        ..COPIES
    },
    Mutant {
        fault: "all tiles are copied to the first column",
        changes: &[(
            "shrink.cu",
            "arguments.copy_stride, row,\n                                  (range.first + i) * COLUMNS);",
            "arguments.copy_stride, row, 0);",
        )],
        ..COPIES
    },
    Mutant {
        fault: "the copy has the distance of X's rows",
        changes: &[("shrink.cu", "arguments.copy_stride, row,", "arguments.x.row_stride, row,")],
        ..COPIES
    },
    Mutant {
        fault: "units at the edge are not copied",
        changes: &[("tile.cuh", "for (int j = 0; j < inside; ++j) target[j] = source[j];", "")],
        ..COPIES
    },
    Mutant {
        fault: "a row too many is copied",
        changes: &[(
            "tile.cuh",
            "const int inside = r < view.rows ? count_inside(view.columns, c, UNIT) : 0;\n        const T* source = tile",
            "const int inside = r <= view.rows ? count_inside(view.columns, c, UNIT) : 0;\n        const T* source = tile",
        )],
        ..COPIES
    },
    Mutant {
        fault: "threads copy what others have waited for",
        changes: &[(
            "tile.cuh",
            "const Unit unit = unit_of_thread<Shape>(i, view);\n        const int64_t r = row + unit.row;\n        const int64_t c = column + unit.column;\n        const int inside = r < view.rows ? count_inside(view.columns, c, UNIT) : 0;\n        const T* source = tile",
            "const Unit unit = unit_of_thread<Shape>(i, transposed(view));\n        const int64_t r = row + unit.row;\n        const int64_t c = column + unit.column;\n        const int inside = r < view.rows ? count_inside(view.columns, c, UNIT) : 0;\n        const T* source = tile",
        )],
        ..COPIES
    },
    Mutant {
        fault: "every column tile of dY is copied as the first",
        changes: &[(
            "backward_dy.cu",
            "first_column + i % tiles * TILE);\n            },",
            "first_column);\n            },",
        )],
        ..COPIES_OF_DY
    },
    Mutant {
        fault: "every row tile of dY is copied as the first",
        changes: &[(
            "backward_dy.cu",
            "(range.first + i / tiles) * TILE, first_column + i",
            "range.first * TILE, first_column + i",
        )],
        ..COPIES_OF_DY
    },
    Mutant {
        fault: "no pass copies X",
        changes: &[(
            "shrink.cu",
            "arguments.copy_stride != 0 && chunk == 0",
            "arguments.copy_stride != 0 && chunk == 2",
        )],
        cases: cases::wide_copies,
        ..SHRINK_WIDE
    },
    // finalize.
    Mutant {
        fault: "the first slab is left out",
        changes: &[("finalize.cu", "uint32_t i = 0; i <", "uint32_t i = 1; i <")],
        ..FINALIZE
    },
    Mutant {
        fault: "a row too many is finalized",
        changes: &[(
            "finalize.cu",
            "if (row >= arguments.rows) return;",
            "if (row > arguments.rows) return;",
        )],
        ..FINALIZE
    },
    Mutant {
        fault: "all layers get the first one's columns",
        changes: &[("finalize.cu", "segment.first_column + column;", "column;")],
        ..FINALIZE
    },
    Mutant {
        fault: "gradients are not added to what is there",
        changes: &[("finalize.cu", "if (segment.accumulate)", "if (false)")],
        ..FINALIZE
    },
    Mutant {
        fault: "strides of the result are swapped",
        changes: &[(
            "finalize.cu",
            "row * segment.row_stride + column * segment.column_stride",
            "column * segment.row_stride + row * segment.column_stride",
        )],
        ..FINALIZE
    },
];

//! Indices of 32 bits where matrices have more elements: what every far case is for.

use super::Mutant;
use crate::operations::Case;
use crate::operations::far::{self, What};

fn far(whats: &[What]) -> Vec<Case> {
    let cases = |&what| [31, 32].map(|bits| Case::Far(far::Case { what, bits }));
    whats.iter().flat_map(cases).collect()
}

fn shrink() -> Vec<Case> {
    let columns = [false, true].map(|transposed| What::ShrinkColumns { transposed });
    far(&[What::ShrinkFirst, What::ShrinkRows, columns[0], columns[1]])
}

fn backward_a() -> Vec<Case> {
    far(&[What::BackwardARows, What::BackwardAColumns])
}

fn backward_dy() -> Vec<Case> {
    far(&[What::BackwardDyRows, What::BackwardDyColumns])
}

fn expand() -> Vec<Case> {
    far(&[What::ExpandRows, What::ExpandColumns, What::ExpandTransposed])
}

fn finalize() -> Vec<Case> {
    far(&[What::FinalizeRows, What::FinalizeSegment])
}

fn pack() -> Vec<Case> {
    far(&[false, true].map(|transposed| What::PackFeatures { transposed }))
}

fn delta() -> Vec<Case> {
    far(&[What::DeltaRows, What::DeltaColumns])
}

fn update() -> Vec<Case> {
    far(&[What::UpdateFirst, What::UpdateRows, What::UpdateColumns])
}

fn recorded() -> Vec<Case> {
    let both = |what: fn(bool) -> What| [what(false), what(true)];
    let rows = both(|transposed| What::BackupRows { transposed });
    let columns = both(|transposed| What::BackupColumns { transposed });
    let escapes = both(|transposed| What::EscapesMade { transposed });
    far(&[&rows[..], &columns, &escapes, &[What::EscapesFound]].concat())
}

fn fingerprint() -> Vec<Case> {
    far(&[What::FingerprintRows, What::FingerprintColumns])
}

fn fingerprint_of_codes() -> Vec<Case> {
    far(&[What::FingerprintCodes])
}

/// A file, its kernels, the function that gives their cases, and what is narrowed: in words, the file, the text and its narrow form.
macro_rules! narrowed {
    ($($kernel:literal $launched:tt $cases:ident { $($what:literal: $file:literal $from:literal => $to:literal;)* })*) => {
        &[$($(Mutant {
            fault: concat!("32 bits for ", $what),
            kernel: $kernel,
            changes: &[($file, $from, $to)],
            launched: &$launched,
            cases: $cases,
        },)*)*]
    };
}

pub const MUTANTS: &[Mutant] = narrowed! {
    "shrink.cu" ["shrink_bf16_rank16"] shrink {
        "the row": "shrink.cu"
            "const int64_t row = int64_t(block / arguments.split.blocks) * ROWS;"
            => "const int32_t row = int32_t(block / arguments.split.blocks) * ROWS;";
        "the column": "shrink.cu"
            "const int64_t column = (range.first + i) * COLUMNS;"
            => "const int32_t column = (range.first + i) * COLUMNS;";
        "the number of rows": "shrink.cu"
            "const int64_t rows = arguments.x.rows;"
            => "const int32_t rows = arguments.x.rows;";
        "the start of a slab": "shrink.cu"
            "split * rows * arguments.slab_columns"
            => "static_cast<uint32_t>(split * rows * arguments.slab_columns)";
        "a row and column of load_tile": "tile.cuh"
            "load_tile(typename Shape::Element* tile, const View& view, int64_t row, int64_t column)"
            => "load_tile(typename Shape::Element* tile, const View& view, int32_t row, int32_t column)";
        "a position of vectors": "tile.cuh"
            "base + (row + first.row) * view.row_stride + column + first.column;"
            => "base + static_cast<int32_t>((row + first.row) * view.row_stride + column + first.column);";
        "a position of elements": "tile.cuh"
            "base + r * view.row_stride + c * view.column_stride;"
            => "base + static_cast<int32_t>(r * view.row_stride + c * view.column_stride);";
        "a row and column of elements": "tile.cuh"
            "const int64_t r = row + unit.row, c = column + unit.column;"
            => "const int32_t r = row + unit.row, c = column + unit.column;";
        "what is left of a view": "tile.cuh"
            "const int64_t left = length - start;"
            => "const int32_t left = length - start;";
        "the first tile of a split": "tile.cuh"
            "struct TileRange {\n    int64_t first;"
            => "struct TileRange {\n    int32_t first;";
        "a row and column of draws": "tile.cuh"
            "dropout_draws(const DropoutMask& mask, int64_t row, int64_t column)"
            => "dropout_draws(const DropoutMask& mask, int32_t row, int32_t column)";
        "a row and column of masks": "tile.cuh"
            "const View& view, const DropoutMask& mask, int64_t row, int64_t column) {"
            => "const View& view, const DropoutMask& mask, int32_t row, int32_t column) {";
        "a row of a slab": "warp_product.cuh"
            "const int64_t r = row + lane / 4 + half * 8;"
            => "const int32_t r = row + lane / 4 + half * 8;";
        "a position in a slab": "warp_product.cuh"
            "slab + r * slab_columns + t * 8 + lane % 4 * 2"
            => "slab + static_cast<uint32_t>(r * slab_columns + t * 8 + lane % 4 * 2)";
        "the rows of a slab": "warp_product.cuh"
            "float* slab, int64_t row, int64_t rows, uint32_t slab_columns"
            => "float* slab, int32_t row, int32_t rows, uint32_t slab_columns";
    }
    "backward_a.cu" ["backward_a_bf16_rank16"] backward_a {
        "the column": "backward_a.cu"
            "const int64_t column = int64_t(block / arguments.split.blocks) * COLUMNS;"
            => "const int32_t column = int32_t(block / arguments.split.blocks) * COLUMNS;";
        "the row": "backward_a.cu"
            "const int64_t row = (range.first + i) * ROWS;"
            => "const int32_t row = (range.first + i) * ROWS;";
        "the number of columns": "backward_a.cu"
            "const int64_t columns = arguments.x.columns;"
            => "const int32_t columns = arguments.x.columns;";
        "the start of a slab": "backward_a.cu"
            "split * columns * arguments.slab_columns"
            => "static_cast<uint32_t>(split * columns * arguments.slab_columns)";
    }
    "backward_dy.cu" ["backward_dy_bf16_rank16"] backward_dy {
        "the position in the copy": "tile.cuh"
            "reinterpret_cast<T*>(address) + r * stride + c"
            => "reinterpret_cast<T*>(address) + static_cast<int32_t>(r * stride + c)";
        "the column of the copy": "backward_dy.cu"
            "first_column + i % tiles * TILE);\n            },"
            => "static_cast<int32_t>(first_column + i % tiles * TILE));\n            },";
        "the shape": "backward_dy.cu"
            "const int64_t rows = arguments.dy.rows, columns = arguments.dy.columns;"
            => "const int32_t rows = arguments.dy.rows, columns = arguments.dy.columns;";
        "the first tile": "backward_dy.cu"
            "const int64_t first_tile = (int64_t(group)"
            => "const int32_t first_tile = (int32_t(group)";
        "the first column": "backward_dy.cu"
            "const int64_t first_column = first_tile * TILE;"
            => "const int32_t first_column = first_tile * TILE;";
        "the row": "backward_dy.cu"
            "const int64_t row = (range.first + m) * TILE;"
            => "const int32_t row = (range.first + m) * TILE;";
        "the row of dS": "backward_dy.cu"
            "const int64_t row = (range.first + m) * TILE + warp_row;"
            => "const int32_t row = (range.first + m) * TILE + warp_row;";
        "the start of a slab of dS": "backward_dy.cu"
            "group * rows * arguments.slab_columns"
            => "static_cast<uint32_t>(group * rows * arguments.slab_columns)";
        "the start of a slab of dB": "backward_dy.cu"
            "split * columns * arguments.slab_columns"
            => "static_cast<uint32_t>(split * columns * arguments.slab_columns)";
        "the start of a slab of dbias": "backward_dy.cu"
            "(split * 2 + threadIdx.x / TILE) * columns"
            => "static_cast<uint32_t>((split * 2 + threadIdx.x / TILE) * columns)";
        "the column": "backward_dy.cu"
            "const int64_t column = first_column + j * TILE;"
            => "const int32_t column = first_column + j * TILE;";
    }
    "expand.cu" ["expand_bf16_rank16"] expand {
        "the row of a tile": "expand.cu"
            "const int64_t row = blockIdx.x / column_tiles * ROWS;"
            => "const int32_t row = blockIdx.x / column_tiles * ROWS;";
        "the column of a tile": "expand.cu"
            "const int64_t column = blockIdx.x % column_tiles * COLUMNS;"
            => "const int32_t column = blockIdx.x % column_tiles * COLUMNS;";
        "the row and column": "expand.cu"
            "const int64_t r = row + unit.row, c = column + unit.column;"
            => "const int32_t r = row + unit.row, c = column + unit.column;";
        "the position": "expand.cu"
            "base + r * out.row_stride + c * out.column_stride"
            => "base + static_cast<int32_t>(r * out.row_stride + c * out.column_stride)";
        "the position of a bias": "expand.cu"
            "(c + j) * arguments.bias_stride"
            => "static_cast<int32_t>((c + j) * arguments.bias_stride)";
        "the distance of columns": "expand.cu"
            "target + j * out.column_stride"
            => "target + static_cast<int32_t>(j * out.column_stride)";
    }
    "finalize.cu" ["finalize"] finalize {
        "the index": "finalize.cu"
            "const int64_t index = int64_t(blockIdx.x)"
            => "const int32_t index = int32_t(blockIdx.x)";
        "the row": "finalize.cu"
            "const int64_t row = index / arguments.columns;"
            => "const int32_t row = index / arguments.columns;";
        "the position in a slab": "finalize.cu"
            "row * arguments.slab_columns +\n"
            => "static_cast<uint32_t>(row * arguments.slab_columns) +\n";
        "the size of a slab": "finalize.cu"
            "const int64_t slab_elements"
            => "const uint32_t slab_elements";
        "the start of a slab": "finalize.cu"
            "slab[i * slab_elements]"
            => "slab[static_cast<uint32_t>(i * slab_elements)]";
        "the target": "finalize.cu"
            "const int64_t target ="
            => "const int32_t target =";
        "the distance of columns": "finalize.cu"
            "column * segment.column_stride"
            => "static_cast<int32_t>(column * segment.column_stride)";
        "the index of store_element": "element.cuh"
            "store_element(uint64_t address, int64_t index"
            => "store_element(uint64_t address, int32_t index";
    }
    "pack.cu" ["pack"] pack {
        "the feature": "pack.cu"
            "const int64_t feature = int64_t(blockIdx.x) * PACK_TILE, rank = int64_t(blockIdx.y) * PACK_TILE;"
            => "const int32_t feature = blockIdx.x * PACK_TILE, rank = blockIdx.y * PACK_TILE;";
        "the position that is read": "pack.cu"
            "const int64_t index = (rank + r)"
            => "const int32_t index = (rank + r)";
        "the position that is written": "pack.cu"
            "const int64_t index = (segment.first_row"
            => "const int32_t index = (segment.first_row";
        "the index of load_element": "element.cuh"
            "load_element(uint64_t address, int64_t index"
            => "load_element(uint64_t address, int32_t index";
    }
    "delta.cu" ["delta_bf16"] delta {
        "the row and column": "delta.cu"
            "const int64_t row = place.tile_row + place.row, column"
            => "const int32_t row = place.tile_row + place.row, column";
        "the position": "delta.cu"
            "(row + r) * arguments.target.row_stride + column;"
            => "static_cast<int32_t>((row + r) * arguments.target.row_stride + column);";
        "the row of a tile": "delta_tile.cuh"
            "int64_t(blockIdx.x / tiles) * Tiling::TILE_ROWS"
            => "int32_t(blockIdx.x / tiles) * Tiling::TILE_ROWS";
        "the column of a tile": "delta_tile.cuh"
            "int64_t(blockIdx.x % tiles) * Tiling::TILE_COLUMNS"
            => "int32_t(blockIdx.x % tiles) * Tiling::TILE_COLUMNS";
        "the place": "delta_tile.cuh"
            "    int64_t tile_row;\n    int64_t tile_column;"
            => "    int32_t tile_row;\n    int32_t tile_column;";
        "the position in a factor": "delta_tile.cuh"
            "const int64_t position = first + offset;"
            => "const int32_t position = first + offset;";
        "the index in a factor": "delta_tile.cuh"
            "const int64_t index = position * stride"
            => "const int32_t index = position * stride";
        "the place of k": "delta_tile.cuh"
            "(first_k + k) * k_stride;"
            => "static_cast<int32_t>((first_k + k) * k_stride);";
        "the end of a factor": "delta_tile.cuh"
            "int64_t first, int64_t end,"
            => "int64_t first, int32_t end,";
    }
    "weight_update.cu" ["weight_update_bf16"] update {
        "the row and column": "weight_update.cu"
            "    int64_t row;\n    int64_t column;\n"
            => "    int32_t row;\n    int32_t column;\n";
        "the rows that are left": "weight_update.cu"
            "int64_t rows() const"
            => "int32_t rows() const";
        "the columns that are left": "weight_update.cu"
            "int64_t columns() const"
            => "int32_t columns() const";
        "the position": "weight_update.cu"
            "(row + r) * arguments.w.row_stride + column;"
            => "static_cast<int32_t>((row + r) * arguments.w.row_stride + column);";
        "the length of a run that is loaded": "element_run.cuh"
            "load_run(const Element* source, int64_t count"
            => "load_run(const Element* source, int32_t count";
        "the length of a run that is stored": "element_run.cuh"
            "store_run(Element* target, int64_t count"
            => "store_run(Element* target, int32_t count";
    }
    "weight_update.cu" ["weight_update_recorded_bf16"] recorded {
        "the index in a record": "weight_update.cu"
            "uint64_t index(int r, int c) const"
            => "uint32_t index(int r, int c) const";
        "the index by columns": "weight_update.cu"
            "(column + c) * arguments.w.rows + row + r"
            => "static_cast<uint32_t>((column + c) * arguments.w.rows + row + r)";
        "the index by rows": "weight_update.cu"
            "(row + r) * arguments.w.columns + column + c"
            => "static_cast<uint32_t>((row + r) * arguments.w.columns + column + c)";
        "the index of an escape that is looked up": "weight_record.cuh"
            "find_escape(const WeightUpdateArguments& arguments, uint64_t index)"
            => "find_escape(const WeightUpdateArguments& arguments, uint32_t index)";
        "the index of an escape that is kept": "weight_record.cuh"
            "append_escape(const WeightUpdateArguments& arguments, uint64_t index"
            => "append_escape(const WeightUpdateArguments& arguments, uint32_t index";
    }
    "fingerprint.cu" ["fingerprint", "fingerprint_codes"] fingerprint {
        "the row or the column of words": "fingerprint.cu"
            "for (int64_t m = blockIdx.x; m < outer;"
            => "for (int32_t m = blockIdx.x; m < outer;";
        "the row and the first column": "fingerprint.cu"
            "const int64_t row = down ? n : m, first"
            => "const int32_t row = down ? n : m, first";
        "the position": "fingerprint.cu"
            "const int64_t position = row * matrix.row_stride"
            => "const int32_t position = row * matrix.row_stride";
        "the position of an element": "fingerprint.cu"
            "identifying_bits(const FingerprintArguments& arguments, int64_t position)"
            => "identifying_bits(const FingerprintArguments& arguments, int32_t position)";
        "the number of a word": "fingerprint.cuh"
            "word_term(uint64_t n, uint64_t word)"
            => "word_term(uint32_t n, uint64_t word)";
    }
    "fingerprint.cu" ["fingerprint", "fingerprint_codes"] fingerprint_of_codes {
        "the word": "fingerprint.cu"
            "for (uint64_t n = uint64_t(blockIdx.x) * FINGERPRINT_THREADS + threadIdx.x; n < words;"
            => "for (uint32_t n = uint32_t(blockIdx.x) * FINGERPRINT_THREADS + threadIdx.x; n < words;";
    }
};

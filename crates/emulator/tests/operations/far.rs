//! Single blocks that work where matrices pass 2³¹ and 2³² elements. Memory is reserved, only what the block touches is
//! there, and of a grid that nobody could run only the block in question runs. All values are small integers, so that every
//! sum is exact.

use super::Device;
use lora_emulator::Emulator;
use lora_kernels::constants::product::THREADS;
use lora_kernels::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, DropoutMask, ExpandArguments, FinalizeArguments,
    FinalizeSegment, PackArguments, PackSegment, ShrinkArguments, Split, View, dtype_code,
};
use lora_kernels::cuda::arguments::weights::{
    CodesArguments, DeltaArguments, DeltaTerm, EscapeEntry, FingerprintArguments, KEEP_BACKUP, KEEP_CODES,
    WeightUpdateArguments,
};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel;
use lora_kernels::cuda::step::Launch;
use lora_kernels::{DType, Dropout};
use std::ops::Range;

/// What lies far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The first rows of many.
    ShrinkFirst,
    ShrinkRows,
    ShrinkColumns {
        transposed: bool,
    },
    BackwardARows,
    BackwardAColumns,
    BackwardDyRows,
    BackwardDyColumns,
    ExpandRows,
    ExpandColumns,
    ExpandTransposed,
    FinalizeRows,
    FinalizeSegment,
    PackFeatures {
        transposed: bool,
    },
    DeltaRows,
    DeltaColumns,
    /// The first rows of many, and the first columns.
    UpdateFirst,
    UpdateRows,
    UpdateColumns,
    BackupRows {
        transposed: bool,
    },
    BackupColumns {
        transposed: bool,
    },
    EscapesMade {
        transposed: bool,
    },
    EscapesFound,
    FingerprintRows,
    FingerprintColumns,
    FingerprintCodes,
}

impl What {
    pub const ALL: &[What] = &[
        What::ShrinkFirst,
        What::ShrinkRows,
        What::ShrinkColumns { transposed: false },
        What::ShrinkColumns { transposed: true },
        What::BackwardARows,
        What::BackwardAColumns,
        What::BackwardDyRows,
        What::BackwardDyColumns,
        What::ExpandRows,
        What::ExpandColumns,
        What::ExpandTransposed,
        What::FinalizeRows,
        What::FinalizeSegment,
        What::PackFeatures { transposed: false },
        What::PackFeatures { transposed: true },
        What::DeltaRows,
        What::DeltaColumns,
        What::UpdateFirst,
        What::UpdateRows,
        What::UpdateColumns,
        What::BackupRows { transposed: false },
        What::BackupRows { transposed: true },
        What::BackupColumns { transposed: false },
        What::BackupColumns { transposed: true },
        What::EscapesMade { transposed: false },
        What::EscapesMade { transposed: true },
        What::EscapesFound,
        What::FingerprintRows,
        What::FingerprintColumns,
        What::FingerprintCodes,
    ];
}

/// A block whose indices lie beyond `1 << bits`: 31 shows indices that turn negative, 32 those that wrap.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub what: What,
    pub bits: u32,
}

/// Bytes of dynamic shared memory that are enough for every kernel.
const SHARED: u32 = 99 << 10;
const RANK: i64 = 16;

fn rounded_up(columns: i64) -> i64 {
    (columns + 7) / 8 * 8
}

/// A matrix that claims to be large, of which a patch exists.
#[derive(Clone, Debug)]
struct Matrix {
    view: View,
    dtype: DType,
    rows: Range<i64>,
    columns: Range<i64>,
    /// Of the patch, row by row.
    values: Vec<f32>,
}

impl Matrix {
    fn at(&self, row: i64, column: i64) -> f32 {
        let width = self.columns.end - self.columns.start;
        self.values[((row - self.rows.start) * width + column - self.columns.start) as usize]
    }

    fn places(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let columns = self.columns.clone();
        self.rows.clone().flat_map(move |row| columns.clone().map(move |column| (row, column)))
    }

    fn address(&self, row: i64, column: i64) -> u64 {
        let position = row * self.view.row_stride + column * self.view.column_stride;
        self.view.address + position as u64 * self.dtype.size() as u64
    }
}

fn encode(value: f32, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => value.to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        DType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

fn decode(bytes: &[u8], dtype: DType) -> f32 {
    match dtype {
        DType::F32 => f32::from_le_bytes(bytes.try_into().expect("four")),
        DType::F16 => half::f16::from_le_bytes(bytes.try_into().expect("two")).to_f32(),
        DType::Bf16 => half::bf16::from_le_bytes(bytes.try_into().expect("two")).to_f32(),
    }
}

fn bf16_bits(value: f32) -> u32 {
    half::bf16::from_f32(value).to_bits().into()
}

/// The device in the course of a case.
struct Stage<'a> {
    emulator: &'a mut Emulator,
    buffers: Vec<u64>,
    state: u64,
    /// The bits of all results.
    results: Vec<u8>,
}

impl Stage<'_> {
    /// From -2 to 2.
    fn integer(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) as f32 % 5.0 - 2.0
    }

    fn reserve(&mut self, bytes: i64) -> u64 {
        let address = self.emulator.reserve("far", bytes as usize);
        self.buffers.push(address);
        address
    }

    /// A matrix that nobody has written.
    fn output(
        &mut self,
        dtype: DType,
        [rows, columns]: [i64; 2],
        [row_stride, column_stride]: [i64; 2],
        patch: (Range<i64>, Range<i64>),
    ) -> Matrix {
        let elements = (rows - 1) * row_stride + (columns - 1) * column_stride + 1;
        let address = self.reserve(elements * dtype.size() as i64);
        let view = View { address, row_stride, column_stride, rows, columns };
        Matrix { view, dtype, rows: patch.0, columns: patch.1, values: Vec::new() }
    }

    /// Gives the patch random values.
    fn fill(&mut self, matrix: &mut Matrix) {
        matrix.values = matrix.places().map(|_| self.integer()).collect();
        for (row, column) in matrix.places() {
            self.write(matrix.address(row, column), &encode(matrix.at(row, column), matrix.dtype));
        }
    }

    fn input(
        &mut self,
        dtype: DType,
        shape: [i64; 2],
        strides: [i64; 2],
        patch: (Range<i64>, Range<i64>),
    ) -> Matrix {
        let mut matrix = self.output(dtype, shape, strides, patch);
        self.fill(&mut matrix);
        matrix
    }

    /// All of a small matrix.
    fn small(&mut self, dtype: DType, [rows, columns]: [i64; 2]) -> Matrix {
        self.input(dtype, [rows, columns], [columns, 1], (0..rows, 0..columns))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.emulator.write(address, bytes).expect("in a buffer");
    }

    /// Runs one block of a grid.
    fn run(&mut self, kernel: &str, grid: i64, block: i64, arguments: &impl bytemuck::NoUninit) {
        let kernel = kernel::all().find(|each| each.symbol() == kernel).expect("a kernel");
        let shared_bytes = if kernel.threads() == THREADS as u32 { SHARED } else { 0 };
        let bytes = bytemuck::bytes_of(arguments).to_vec();
        let launch = Launch::new(kernel, [grid as u32, 1, 1], shared_bytes, bytes);
        let blocks = block as u64..block as u64 + 1;
        self.emulator.run_blocks(&launch, blocks).unwrap_or_else(|error| panic!("{error}"));
    }

    fn expect(&mut self, name: &str, matrix: &Matrix, expected: impl Fn(i64, i64) -> f32) {
        for (row, column) in matrix.places() {
            let mut bytes = vec![0; matrix.dtype.size()];
            self.emulator.read(matrix.address(row, column), &mut bytes).expect("in a buffer");
            assert_eq!(decode(&bytes, matrix.dtype), expected(row, column), "{name} at ({row}, {column})");
            self.results.extend(bytes);
        }
    }
}

fn sum(range: Range<i64>, term: impl Fn(i64) -> f32) -> f32 {
    range.map(term).sum()
}

impl Case {
    /// Runs the block, compares, and returns the bits of its results.
    pub fn run(&self, device: &mut Device) -> Vec<u8> {
        let emulator = device.emulator();
        let mut stage = Stage { emulator, buffers: Vec::new(), state: 5, results: Vec::new() };
        let far = 1i64 << self.bits;
        match self.what {
            What::ShrinkFirst => shrink_rows(&mut stage, 0, far + 1),
            What::ShrinkRows => shrink_rows(&mut stage, far / 64 + 1, far + 67),
            What::ShrinkColumns { transposed } => shrink_columns(&mut stage, far, transposed),
            What::BackwardARows => backward_a_rows(&mut stage, far),
            What::BackwardAColumns => backward_a_columns(&mut stage, far),
            What::BackwardDyRows => backward_dy_rows(&mut stage, far),
            What::BackwardDyColumns => backward_dy_columns(&mut stage, far),
            What::ExpandRows => expand_rows(&mut stage, far),
            What::ExpandColumns => expand_columns(&mut stage, far),
            What::ExpandTransposed => expand_transposed(&mut stage, far),
            What::FinalizeRows => finalize_rows(&mut stage, far),
            What::FinalizeSegment => finalize_segment(&mut stage, far),
            What::PackFeatures { transposed } => pack(&mut stage, far, transposed),
            What::DeltaRows => weights(&mut stage, far, true, Change::Delta),
            What::DeltaColumns => weights(&mut stage, far, false, Change::Delta),
            What::UpdateFirst => {
                weight_tile(&mut stage, 0, [far + 1, 5], Change::Update);
                weight_tile(&mut stage, 0, [3, far + 1], Change::Update);
            }
            What::UpdateRows => weights(&mut stage, far, true, Change::Update),
            What::UpdateColumns => weights(&mut stage, far, false, Change::Update),
            What::BackupRows { transposed } => weights(&mut stage, far, true, Change::Backup { transposed }),
            What::BackupColumns { transposed } => {
                weights(&mut stage, far, false, Change::Backup { transposed });
            }
            What::EscapesMade { transposed } => {
                weights(&mut stage, far, true, Change::MakeEscapes { transposed });
            }
            What::EscapesFound => weights(&mut stage, far, true, Change::FindEscapes),
            What::FingerprintRows => fingerprint_rows(&mut stage, far),
            What::FingerprintColumns => fingerprint_columns(&mut stage, far),
            What::FingerprintCodes => fingerprint_codes(&mut stage, far),
        }
        let Stage { emulator, buffers, results, .. } = stage;
        for address in buffers {
            assert!(emulator.free(address), "it was reserved");
        }
        results
    }
}

const NO_SPLIT: Split = Split { blocks: 1, tiles: 1 };

fn dropout() -> Dropout {
    Dropout::new(0.5, 3, 4).expect("a probability")
}

fn kept(row: i64, column: i64, value: f32) -> f32 {
    if dropout().keeps(row as usize, column as usize) { value } else { 0.0 }
}

/// The rows from a multiple of 64 to the end, or to the end of a tile.
fn tile_of(tile: i64, rows: i64) -> Range<i64> {
    64 * tile..rows.min(64 * (tile + 1))
}

fn shrink_rows(stage: &mut Stage<'_>, tile: i64, rows: i64) {
    let patch = tile_of(tile, rows);
    let x = stage.input(DType::Bf16, [rows, 8], [8, 1], (patch.clone(), 0..8));
    let a = stage.small(DType::Bf16, [RANK, 8]);
    let slab = stage.output(DType::F32, [rows, RANK], [RANK, 1], (patch.clone(), 0..RANK));
    let copy = stage.output(DType::Bf16, [rows, 8], [8, 1], (patch, 0..8));
    let arguments = ShrinkArguments {
        x: x.view,
        a: a.view,
        mask: DropoutMask::default(),
        slabs: slab.view.address,
        copy: copy.view.address,
        copy_stride: copy.view.row_stride,
        split: NO_SPLIT,
        rank_chunks: 1,
        slab_columns: RANK as u32,
    };
    stage.run("shrink_bf16_rank16", tile + 1, tile, &arguments);
    stage.expect("S", &slab, |row, rank| sum(0..8, |k| x.at(row, k) * a.at(rank, k)));
    stage.expect("the copy", &copy, |row, column| x.at(row, column));
}

fn shrink_columns(stage: &mut Stage<'_>, far: i64, transposed: bool) {
    let split = far / 64 + 1;
    let (first, columns, rows) = (split * 64, split * 64 + 5, 5);
    let pitch = rounded_up(columns);
    let (x_strides, a_strides) = if transposed { ([1, rows], [1, RANK]) } else { ([pitch, 1], [pitch, 1]) };
    let x = stage.input(DType::Bf16, [rows, columns], x_strides, (0..rows, first..columns));
    let a = stage.input(DType::Bf16, [RANK, columns], a_strides, (0..RANK, first..columns));
    let (slab_row, all) = (split * rows, (split + 1) * rows);
    let slab = stage.output(DType::F32, [all, RANK], [RANK, 1], (slab_row..all, 0..RANK));
    let copy = stage.output(DType::Bf16, [rows, columns], [pitch, 1], (0..rows, first..columns));
    let arguments = ShrinkArguments {
        x: x.view,
        a: a.view,
        mask: Some(dropout()).into(),
        slabs: slab.view.address,
        copy: copy.view.address,
        copy_stride: copy.view.row_stride,
        split: Split { blocks: split as u32 + 1, tiles: 1 },
        rank_chunks: 1,
        slab_columns: RANK as u32,
    };
    stage.run("shrink_bf16_rank16", split + 1, split, &arguments);
    stage.expect("S", &slab, |row, rank| {
        sum(first..columns, |k| kept(row - slab_row, k, x.at(row - slab_row, k)) * a.at(rank, k))
    });
    stage.expect("the copy", &copy, |row, column| x.at(row, column));
}

fn backward_a_columns(stage: &mut Stage<'_>, far: i64) {
    let tile = far / 64 + 1;
    let (first, columns) = (tile * 64, tile * 64 + 5);
    let x = stage.input(DType::Bf16, [3, columns], [rounded_up(columns), 1], (0..3, first..columns));
    let ds = stage.small(DType::Bf16, [3, RANK]);
    let slab = stage.output(DType::F32, [columns, RANK], [RANK, 1], (first..columns, 0..RANK));
    let arguments = BackwardAArguments {
        x: x.view,
        ds: ds.view,
        mask: Some(dropout()).into(),
        slabs: slab.view.address,
        split: NO_SPLIT,
        rank_chunks: 1,
        slab_columns: RANK as u32,
    };
    stage.run("backward_a_bf16_rank16", tile + 1, tile, &arguments);
    stage.expect("dA", &slab, |column, rank| {
        sum(0..3, |row| kept(row, column, x.at(row, column)) * ds.at(row, rank))
    });
}

fn backward_a_rows(stage: &mut Stage<'_>, far: i64) {
    let split = far / 64 + 1;
    let (first, rows, columns) = (split * 64, split * 64 + 3, 5);
    let x = stage.input(DType::Bf16, [rows, columns], [8, 1], (first..rows, 0..columns));
    let ds = stage.input(DType::Bf16, [rows, RANK], [RANK, 1], (first..rows, 0..RANK));
    let (slab_row, all) = (split * columns, (split + 1) * columns);
    let slab = stage.output(DType::F32, [all, RANK], [RANK, 1], (slab_row..all, 0..RANK));
    let arguments = BackwardAArguments {
        x: x.view,
        ds: ds.view,
        mask: Some(dropout()).into(),
        slabs: slab.view.address,
        split: Split { blocks: split as u32 + 1, tiles: 1 },
        rank_chunks: 1,
        slab_columns: RANK as u32,
    };
    stage.run("backward_a_bf16_rank16", split + 1, split, &arguments);
    stage.expect("dA", &slab, |column, rank| {
        let column = column - slab_row;
        sum(first..rows, |row| kept(row, column, x.at(row, column)) * ds.at(row, rank))
    });
}

/// Compares the three results of `backward_dy` of a tile that starts at these rows, with slabs for a group and a split.
struct DyResults {
    ds: Matrix,
    db: Matrix,
    dbias: Matrix,
}

impl DyResults {
    fn expect(&self, stage: &mut Stage<'_>, dy: &Matrix, b: &Matrix, s: &Matrix) {
        let (rows, columns) = (dy.rows.clone(), dy.columns.clone());
        let (ds_row, db_row, half) = (self.ds.rows.start, self.db.rows.start, self.dbias.rows.start);
        stage.expect("dS", &self.ds, |row, rank| {
            let row = row - ds_row + rows.start;
            sum(columns.clone(), |column| dy.at(row, column) * b.at(rank, column))
        });
        stage.expect("dB", &self.db, |column, rank| {
            let column = column - db_row + columns.start;
            sum(rows.clone(), |row| dy.at(row, column) * s.at(row, rank))
        });
        stage.expect("dbias", &self.dbias, |slab, column| {
            let upper = rows.start..rows.end.min(rows.start + 32);
            let lower = upper.end..rows.end;
            sum(if slab == half { upper } else { lower }, |row| dy.at(row, column))
        });
    }
}

fn backward_dy_rows(stage: &mut Stage<'_>, far: i64) {
    let split = far / 64 + 1;
    let (first, rows, columns) = (split * 64, split * 64 + 3, 40);
    let dy = stage.input(DType::Bf16, [rows, columns], [columns, 1], (first..rows, 0..columns));
    let b = stage.small(DType::Bf16, [RANK, columns]);
    let s = stage.input(DType::Bf16, [rows, RANK], [RANK, 1], (first..rows, 0..RANK));
    let all = (split + 1) * columns;
    let slabs = 2 * (split + 1);
    let results = DyResults {
        ds: stage.output(DType::F32, [rows, RANK], [RANK, 1], (first..rows, 0..RANK)),
        db: stage.output(DType::F32, [all, RANK], [RANK, 1], (split * columns..all, 0..RANK)),
        dbias: stage.output(DType::F32, [slabs, columns], [columns, 1], (2 * split..slabs, 0..columns)),
    };
    let copy = stage.output(DType::Bf16, [rows, columns], [columns, 1], (first..rows, 0..columns));
    let arguments = BackwardDyArguments {
        dy: dy.view,
        b: b.view,
        s: s.view,
        ds_slabs: results.ds.view.address,
        db_slabs: results.db.view.address,
        dbias_slabs: results.dbias.view.address,
        copy: copy.view.address,
        copy_stride: copy.view.row_stride,
        split: Split { blocks: split as u32 + 1, tiles: 1 },
        column_groups: 1,
        chunks_per_group: 1,
        rank_chunks: 1,
        slab_columns: RANK as u32,
    };
    stage.run("backward_dy_bf16_rank16", split + 1, split, &arguments);
    results.expect(stage, &dy, &b, &s);
    stage.expect("the copy", &copy, |row, column| dy.at(row, column));
}

fn backward_dy_columns(stage: &mut Stage<'_>, far: i64) {
    // Eight tiles are a chunk.
    let group = far / 512 + 1;
    let (first, columns, rows) = (group * 512, group * 512 + 5, 40);
    let pitch = rounded_up(columns);
    let dy = stage.input(DType::Bf16, [rows, columns], [pitch, 1], (0..rows, first..columns));
    let b = stage.input(DType::Bf16, [RANK, columns], [pitch, 1], (0..RANK, first..columns));
    let s = stage.small(DType::Bf16, [rows, RANK]);
    let all = (group + 1) * rows;
    let results = DyResults {
        ds: stage.output(DType::F32, [all, RANK], [RANK, 1], (group * rows..all, 0..RANK)),
        db: stage.output(DType::F32, [columns, RANK], [RANK, 1], (first..columns, 0..RANK)),
        dbias: stage.output(DType::F32, [2, columns], [columns, 1], (0..2, first..columns)),
    };
    let copy = stage.output(DType::Bf16, [rows, columns], [pitch, 1], (0..rows, first..columns));
    let arguments = BackwardDyArguments {
        dy: dy.view,
        b: b.view,
        s: s.view,
        ds_slabs: results.ds.view.address,
        db_slabs: results.db.view.address,
        dbias_slabs: results.dbias.view.address,
        copy: copy.view.address,
        copy_stride: copy.view.row_stride,
        split: NO_SPLIT,
        column_groups: group as u32 + 1,
        chunks_per_group: 1,
        rank_chunks: 1,
        slab_columns: RANK as u32,
    };
    stage.run("backward_dy_bf16_rank16", group + 1, group, &arguments);
    results.expect(stage, &dy, &b, &s);
    stage.expect("the copy", &copy, |row, column| dy.at(row, column));
}

/// Runs a block of `expand` over what is there of `out`, with dropout and, where there are old values, added to them.
fn expand(stage: &mut Stage<'_>, (s, b, out): (&Matrix, &Matrix, &Matrix), bias: Option<&Matrix>, tile: i64) {
    let arguments = ExpandArguments {
        s: s.view,
        b: b.view,
        out: out.view,
        mask: Some(dropout()).into(),
        bias: bias.map_or(0, |bias| bias.view.address),
        bias_stride: bias.map_or(0, |bias| bias.view.column_stride),
        bias_dtype: dtype_code(DType::F32),
        accumulate: u32::from(!out.values.is_empty()),
        scale: 2.0,
        padding: 0,
    };
    stage.run("expand_bf16_rank16", tile + 1, tile, &arguments);
    stage.expect("out", out, |row, column| {
        let product = sum(0..RANK, |rank| s.at(row, rank) * b.at(rank, column));
        let old = if out.values.is_empty() { 0.0 } else { out.at(row, column) };
        kept(row, column, 2.0 * product) + bias.map_or(0.0, |bias| bias.at(0, column)) + old
    });
}

fn expand_rows(stage: &mut Stage<'_>, far: i64) {
    let tile = far / 64 + 1;
    let (first, rows, columns) = (tile * 64, tile * 64 + 3, 13);
    let s = stage.input(DType::Bf16, [rows, RANK], [RANK, 1], (first..rows, 0..RANK));
    let b = stage.small(DType::Bf16, [RANK, columns]);
    let out = stage.input(DType::Bf16, [rows, columns], [16, 1], (first..rows, 0..columns));
    expand(stage, (&s, &b, &out), None, tile);
}

fn expand_columns(stage: &mut Stage<'_>, far: i64) {
    let tile = far / 64 + 1;
    let (first, columns) = (tile * 64, tile * 64 + 13);
    let pitch = rounded_up(columns);
    let s = stage.small(DType::Bf16, [3, RANK]);
    let b = stage.input(DType::Bf16, [RANK, columns], [pitch, 1], (0..RANK, first..columns));
    let bias = stage.input(DType::F32, [1, columns], [0, 1], (0..1, first..columns));
    let out = stage.output(DType::Bf16, [3, columns], [pitch, 1], (0..3, first..columns));
    expand(stage, (&s, &b, &out), Some(&bias), tile);
}

/// Columns that are far from each other.
fn expand_transposed(stage: &mut Stage<'_>, far: i64) {
    let s = stage.small(DType::Bf16, [3, RANK]);
    let b = stage.input(DType::Bf16, [RANK, 5], [1, far + 8], (0..RANK, 0..5));
    let bias = stage.input(DType::F32, [1, 5], [0, far + 8], (0..1, 0..5));
    let out = stage.input(DType::Bf16, [3, 5], [1, far + 8], (0..3, 0..5));
    expand(stage, (&s, &b, &out), Some(&bias), 0);
}

fn finalize_arguments(slabs: &Matrix, rows: i64, count: u32, out: &Matrix) -> FinalizeArguments {
    let mut segments = [FinalizeSegment::default(); 8];
    segments[0] = FinalizeSegment {
        address: out.view.address,
        row_stride: out.view.row_stride,
        column_stride: out.view.column_stride,
        first_column: 0,
        columns: out.view.columns as u32,
        dtype: dtype_code(out.dtype),
        accumulate: 1,
        scale: 2.0,
        padding: 0,
    };
    FinalizeArguments {
        slabs: slabs.view.address,
        rows,
        slab_columns: slabs.view.row_stride as u32,
        slab_count: count,
        segment_count: 1,
        columns: out.view.columns as u32,
        segments,
    }
}

fn finalize_rows(stage: &mut Stage<'_>, far: i64) {
    // A block has 16 rows.
    let (first, rows) = (far, far + 5);
    let upper = stage.input(DType::F32, [2 * rows, RANK], [RANK, 1], (first..rows, 0..RANK));
    let mut lower = Matrix { rows: rows + first..2 * rows, ..upper.clone() };
    stage.fill(&mut lower);
    let out = stage.input(DType::Bf16, [rows, RANK], [24, 1], (first..rows, 0..RANK));
    let block = far * RANK / 256;
    stage.run("finalize", block + 1, block, &finalize_arguments(&upper, rows, 2, &out));
    stage.expect("sum", &out, |row, column| {
        2.0 * (upper.at(row, column) + lower.at(rows + row, column)) + out.at(row, column)
    });
}

/// A result whose columns are far from each other, as dB of a view has them.
fn finalize_segment(stage: &mut Stage<'_>, far: i64) {
    let slabs = stage.small(DType::F32, [3, 8]);
    let out = stage.input(DType::F16, [3, 5], [1, far + 8], (0..3, 0..5));
    stage.run("finalize", 1, 0, &finalize_arguments(&slabs, 3, 1, &out));
    stage.expect("sum", &out, |row, column| 2.0 * slabs.at(row, column) + out.at(row, column));
}

fn pack(stage: &mut Stage<'_>, far: i64, transposed: bool) {
    let block = far / 32 + 1;
    let (first, features) = (block * 32, block * 32 + 5);
    let pitch = rounded_up(features);
    let strides = if transposed { [1, 3] } else { [pitch, 1] };
    let source = stage.input(DType::F32, [3, features], strides, (0..3, first..features));
    let out = stage.output(DType::Bf16, [4, features], [pitch, 1], (1..4, first..features));
    let mut segments = [PackSegment::default(); 8];
    segments[0] = PackSegment { source: source.view, first_row: 1, dtype: dtype_code(DType::F32) };
    let arguments = PackArguments {
        out: out.view.address,
        out_stride: pitch,
        out_dtype: dtype_code(DType::Bf16),
        segment_count: 1,
        segments,
    };
    stage.run("pack", block + 1, block, &arguments);
    stage.expect("packed", &out, |row, feature| source.at(row - 1, feature));
}

/// What is done to a weight, or with a product of factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Delta,
    Update,
    Backup { transposed: bool },
    MakeEscapes { transposed: bool },
    FindEscapes,
}

/// A tile of a weight with far rows, or with far columns. Five columns are a vector and one element.
fn weights(stage: &mut Stage<'_>, far: i64, far_rows: bool, change: Change) {
    let shape = if far_rows { [far + 67, 5] } else { [3, far + 69] };
    weight_tile(stage, far / 64 + 1, shape, change);
}

/// The tile with this number along the longer side of a weight.
fn weight_tile(stage: &mut Stage<'_>, tile: i64, shape: [i64; 2], change: Change) {
    let [rows, columns] = shape;
    let patch =
        if rows > columns { (tile_of(tile, rows), 0..columns) } else { (0..rows, tile_of(tile, columns)) };
    let strides = [rounded_up(shape[1]), 1];
    let left = stage.input(DType::Bf16, [shape[0], 2], [2, 1], (patch.0.clone(), 0..2));
    let right = stage.input(DType::Bf16, [2, shape[1]], [shape[1], 1], (0..2, patch.1.clone()));
    let term = DeltaTerm { left: left.view, right: right.view, scale: 2.0, dtype: dtype_code(DType::Bf16) };
    let delta = |row, column| 2.0 * sum(0..2, |k| left.at(row, k) * right.at(k, column));
    if change == Change::Delta {
        let target = stage.output(DType::Bf16, shape, strides, patch);
        let arguments = DeltaArguments { target: target.view, term, vector_rows: 1, padding: 0 };
        stage.run("delta_bf16", tile + 1, tile, &arguments);
        stage.expect("delta", &target, delta);
        return;
    }
    let w = stage.input(DType::Bf16, shape, strides, patch.clone());
    let new_escape_count = stage.reserve(8);
    stage.write(new_escape_count, &[0; 8]);
    let arguments = WeightUpdateArguments {
        w: w.view,
        add: term,
        vector_rows: 1,
        new_escape_count,
        ..Default::default()
    };
    let updated = |row, column| w.at(row, column) + delta(row, column);
    match change {
        Change::Delta => unreachable!("above"),
        Change::Update => {
            stage.run("weight_update_bf16", tile + 1, tile, &arguments);
            stage.expect("weight", &w, updated);
        }
        Change::Backup { transposed } => {
            let dense = if transposed { [1, shape[0]] } else { [shape[1], 1] };
            let kept = stage.output(DType::Bf16, shape, dense, patch);
            let arguments = WeightUpdateArguments {
                kept: kept.view.address,
                keep: KEEP_BACKUP,
                transposed: u32::from(transposed),
                ..arguments
            };
            stage.run("weight_update_recorded_bf16", tile + 1, tile, &arguments);
            stage.expect("backup", &kept, |row, column| w.at(row, column));
            stage.expect("weight", &w, updated);
        }
        Change::MakeEscapes { transposed } => make_escapes(stage, &arguments, (&w, tile), transposed),
        Change::FindEscapes => find_escapes(stage, &arguments, (&w, tile)),
    }
}

/// Position of a weight in its record.
fn record_index(w: &Matrix, (row, column): (i64, i64), transposed: bool) -> u64 {
    (if transposed { column * w.view.rows + row } else { row * w.view.columns + column }) as u64
}

/// An addition that swallows every weight: none can be told from a code, where there is an addition at all.
fn make_escapes(
    stage: &mut Stage<'_>,
    arguments: &WeightUpdateArguments,
    (w, tile): (&Matrix, i64),
    transposed: bool,
) {
    let capacity = w.values.len();
    let entries = stage.reserve((capacity * size_of::<EscapeEntry>()) as i64);
    let bits: Vec<u32> = (0..capacity as u32).map(|i| bf16_bits(1.0) + i).collect();
    let one = encode(1.0, DType::Bf16);
    for (factor, far) in [(arguments.add.left, true), (arguments.add.right, false)] {
        let (rows, columns) = if far { (w.rows.clone(), 0..2) } else { (0..2, w.columns.clone()) };
        for row in rows {
            for column in columns.clone() {
                let position = (row * factor.row_stride + column) as u64;
                stage.write(factor.address + 2 * position, &one);
            }
        }
    }
    for ((row, column), bits) in w.places().zip(&bits) {
        stage.write(w.address(row, column), &(*bits as u16).to_le_bytes());
    }
    let mut add = arguments.add;
    add.scale = (1u64 << 40) as f32;
    let arguments = WeightUpdateArguments {
        add,
        keep: KEEP_CODES,
        dry_run: 1,
        transposed: u32::from(transposed),
        new_escapes: entries,
        new_escape_capacity: capacity as u64,
        ..*arguments
    };
    stage.run("weight_update_recorded_bf16", tile + 1, tile, &arguments);
    let mut found = vec![EscapeEntry::default(); capacity];
    stage.emulator.read(entries, bytemuck::cast_slice_mut(&mut found)).expect("a buffer");
    found.sort_by_key(|entry| entry.index);
    let mut expected: Vec<EscapeEntry> = w
        .places()
        .zip(&bits)
        .map(|(place, &bits)| EscapeEntry { index: record_index(w, place, transposed), bits, padding: 0 })
        .collect();
    expected.sort_by_key(|entry| entry.index);
    assert_eq!(found, expected, "escapes");
    stage.results.extend(bytemuck::cast_slice(&found));
}

fn find_escapes(stage: &mut Stage<'_>, arguments: &WeightUpdateArguments, (w, tile): (&Matrix, i64)) {
    let codes = stage.reserve(w.view.rows * w.view.columns);
    let escapes: Vec<EscapeEntry> = w
        .places()
        .enumerate()
        .map(|(i, place)| EscapeEntry {
            index: record_index(w, place, false),
            bits: bf16_bits(i as f32),
            padding: 0,
        })
        .collect();
    for escape in &escapes {
        stage.write(codes + escape.index, &[0x80]);
    }
    let entries = stage.reserve((escapes.len() * size_of::<EscapeEntry>()) as i64);
    stage.write(entries, bytemuck::cast_slice(&escapes));
    let arguments = WeightUpdateArguments {
        remove: arguments.add,
        add: DeltaTerm::default(),
        keep: KEEP_CODES,
        kept: codes,
        old_escapes: entries,
        old_escape_count: escapes.len() as u64,
        ..*arguments
    };
    stage.run("weight_update_recorded_bf16", tile + 1, tile, &arguments);
    let places: Vec<(i64, i64)> = w.places().collect();
    stage.expect("weight", w, |row, column| {
        places.iter().position(|place| *place == (row, column)).expect("in the patch") as f32
    });
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What word number `n` of a matrix adds to its fingerprint.
fn word_term(n: u64, word: u64) -> u64 {
    mix(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ word)
}

/// A block, and a grid of the most blocks there can be, such that the last step of the block's loop is at `last`.
fn block_that_ends_at(last: i64) -> (i64, i64) {
    let grid = i64::from(i32::MAX);
    (last % grid, grid)
}

fn expect_sum(stage: &mut Stage<'_>, address: u64, expected: u64, name: &str) {
    let mut found = [0; 8];
    stage.emulator.read(address, &mut found).expect("a buffer");
    assert_eq!(u64::from_le_bytes(found), expected, "{name}");
    stage.results.extend(found);
}

/// Runs the block that meets the last row, or the last column of words where rows are contiguous, of a bf16 matrix whose
/// other elements nobody has written.
fn fingerprint(stage: &mut Stage<'_>, [rows, columns]: [i64; 2], [row_stride, column_stride]: [i64; 2]) {
    let words = (columns + 3) / 4;
    let down = column_stride != 1;
    let (outer, inner) = if down { (words, rows) } else { (rows, words) };
    let elements = (rows - 1) * row_stride + (columns - 1) * column_stride + 1;
    let address = stage.reserve(2 * elements);
    let (block, grid) = block_that_ends_at(outer - 1);
    let mut expected = 0u64;
    for m in (block..outer).step_by(grid as usize) {
        for n in 0..inner {
            let (row, first) = if down { (n, 4 * m) } else { (m, 4 * n) };
            let mut word = 0;
            for column in first..columns.min(first + 4) {
                let bits = bf16_bits(stage.integer());
                let position = (row * row_stride + column * column_stride) as u64;
                stage.write(address + 2 * position, &(bits as u16).to_le_bytes());
                word |= u64::from(bits) << (16 * (column - first));
            }
            expected = expected.wrapping_add(word_term((row * words + first / 4) as u64, word));
        }
    }
    let sum = stage.reserve(8);
    stage.write(sum, &[0; 8]);
    let arguments = FingerprintArguments {
        matrix: View { address, row_stride, column_stride, rows, columns },
        sum,
        dtype: dtype_code(DType::Bf16),
        stored_bits: 1,
    };
    stage.run("fingerprint", grid, block, &arguments);
    expect_sum(stage, sum, expected, "fingerprint");
}

fn fingerprint_rows(stage: &mut Stage<'_>, far: i64) {
    fingerprint(stage, [far + 3, 8], [9, 1]);
}

fn fingerprint_columns(stage: &mut Stage<'_>, far: i64) {
    fingerprint(stage, [2, 4 * far + 9], [1, 2]);
}

/// The last block of the codes of a record; the last word is not whole.
fn fingerprint_codes(stage: &mut Stage<'_>, far: i64) {
    let (block, bytes) = (far / 8 / 256 + 1, far + 8 * 256 + 13);
    let codes = stage.reserve(bytes);
    let mut expected = 0u64;
    for n in block * 256..(bytes + 7) / 8 {
        let mut word = [0; 8];
        for (part, byte) in word.iter_mut().enumerate().take((bytes - 8 * n) as usize) {
            *byte = stage.integer() as i8 as u8;
            stage.write(codes + (8 * n + part as i64) as u64, &[*byte]);
        }
        expected = expected.wrapping_add(word_term(n as u64, u64::from_le_bytes(word)));
    }
    let sums = stage.reserve(16);
    stage.write(sums, &[0; 16]);
    let arguments = CodesArguments { codes, bytes: bytes as u64, sum: sums, escapes: sums + 8 };
    stage.run("fingerprint_codes", block + 1, block, &arguments);
    expect_sum(stage, sums, expected, "fingerprint of codes");
}

//! Forward and backward of the CUDA backend, planned by the library and run by the emulator, against plain loops in
//! f64. All values are small integers and all factors powers of two, so that every rounding is exact and the results
//! must agree bit for bit.

use lora_emulator::{Emulator, Schedule};
use lora_kernels::cuda::engine::Engine;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::step::F32Math;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection};
use lora_kernels::{Adapter, DType, Dropout, Layout, MatrixMut, MatrixRef};

type Device = Engine<Emulator>;

/// How a matrix lies in its buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Placement {
    transposed: bool,
    /// Elements beside each stored row.
    gap: usize,
    /// Elements before the first.
    offset: usize,
}

const PACKED: Placement = Placement { transposed: false, gap: 0, offset: 0 };
const TRANSPOSED: Placement = Placement { transposed: true, gap: 0, offset: 0 };
const RAGGED: Placement = Placement { transposed: false, gap: 3, offset: 1 };

/// A matrix on the device, and its values here.
#[derive(Clone, Debug)]
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
    layout: Layout,
    buffer: RawBuffer,
    start: u64,
    len: usize,
}

fn encode(value: f64, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32(value as f32).to_le_bytes().to_vec(),
        DType::Bf16 => half::bf16::from_f32(value as f32).to_le_bytes().to_vec(),
    }
}

fn decode(bytes: &[u8], dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        DType::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f32().into(),
        DType::Bf16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32().into(),
    }
}

impl Matrix {
    /// Gaps and offset hold NaN, to be left alone.
    fn new(device: &mut Device, name: &str, values: Values, dtype: DType, placement: Placement) -> Self {
        let Values { rows, cols, values } = values;
        let (stored_rows, stored_cols) = if placement.transposed { (cols, rows) } else { (rows, cols) };
        let layout = Layout::strided(stored_rows, stored_cols, stored_cols + placement.gap).unwrap();
        let layout = if placement.transposed { layout.t() } else { layout };
        let len = placement.offset + layout.span();
        let mut elements = vec![f64::NAN; len];
        for row in 0..rows {
            for col in 0..cols {
                let index = row * layout.row_stride() + col * layout.col_stride();
                elements[placement.offset + index] = values[row * cols + col];
            }
        }
        let bytes: Vec<u8> = elements.iter().flat_map(|&value| encode(value, dtype)).collect();
        let emulator = device.executor_mut();
        let start = emulator.allocate(name, bytes.len());
        emulator.write(start, &bytes).unwrap();
        let address = start + (placement.offset * dtype.size()) as u64;
        let buffer = RawBuffer { address, len: layout.span(), dtype };
        Matrix { rows, cols, values, layout, buffer, start, len }
    }

    fn read(&self) -> MatrixRef<'static, Raw> {
        MatrixRef::from_buffer(self.buffer, self.layout).unwrap()
    }

    fn write(&self) -> MatrixMut<'static, Raw> {
        MatrixMut::from_buffer(self.buffer, self.layout).unwrap()
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        self.values[row * self.cols + col]
    }

    fn assert_holds(&self, device: &mut Device, what: &str, expected: impl Fn(usize, usize) -> f64) {
        let size = self.buffer.dtype.size();
        let mut bytes = vec![0; self.len * size];
        device.executor_mut().read(self.start, &mut bytes).unwrap();
        let elements: Vec<f64> = bytes.chunks(size).map(|bytes| decode(bytes, self.buffer.dtype)).collect();
        let offset = (self.buffer.address - self.start) as usize / size;
        let mut written = 0;
        for row in 0..self.rows {
            for col in 0..self.cols {
                let index = offset + row * self.layout.row_stride() + col * self.layout.col_stride();
                let expected = expected(row, col);
                assert_eq!(
                    decode(&encode(expected, self.buffer.dtype), self.buffer.dtype),
                    expected,
                    "the test's own values are too large to be exact"
                );
                assert_eq!(elements[index], expected, "{what} at ({row}, {col})");
                written += 1;
            }
        }
        let untouched = elements.iter().filter(|value| value.is_nan()).count();
        assert_eq!(written + untouched, self.len, "{what}: memory beside the matrix was written");
    }
}

struct Values {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
}

/// Integers from -2 to 2, mostly zero.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn values(&mut self, rows: usize, cols: usize, one_in: u64) -> Values {
        let value = |random: &mut Self| match random.next() % one_in {
            0 => [-2.0, -1.0, 1.0, 2.0][(random.next() % 4) as usize],
            _ => 0.0,
        };
        Values { rows, cols, values: (0..rows * cols).map(|_| value(self)).collect() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    k: usize,
    ranks: &'static [usize],
    n: usize,
    dtype: DType,
    adapters: DType,
    math: F32Math,
    dropout: bool,
    accumulate: bool,
    saves_s: bool,
    activations: Placement,
    a: Placement,
    b: Placement,
    schedule: Schedule,
}

impl Default for Case {
    fn default() -> Self {
        Case {
            m: 70,
            k: 80,
            ranks: &[8],
            n: 72,
            dtype: DType::Bf16,
            adapters: DType::Bf16,
            math: F32Math::Exact,
            dropout: true,
            accumulate: false,
            saves_s: true,
            activations: PACKED,
            a: TRANSPOSED,
            b: PACKED,
            schedule: Schedule::default(),
        }
    }
}

fn sum(range: std::ops::Range<usize>, term: impl Fn(usize) -> f64) -> f64 {
    range.map(term).sum()
}

fn check(case: Case) {
    run(case);
}

/// The device after the forward and the backward, or `None` where there is no emulator.
fn run(case: Case) -> Option<Device> {
    let emulator = Emulator::for_test("products")?;
    let mut finished = Engine::new(emulator);
    let device = &mut finished;
    device.executor_mut().set_schedule(case.schedule);
    device.set_f32_math(case.math);
    let Case { m, k, n, dtype, adapters, .. } = case;
    let mut random = Random(m as u64 * 31 + k as u64 * 7 + n as u64);
    let dropout =
        case.dropout.then(|| Dropout::new(0.5, 0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321).unwrap());
    let kept = |row, col| dropout.is_none_or(|dropout| dropout.keeps(row, col));
    let keep_scale = if case.dropout { 2.0 } else { 1.0 };
    let scale = 0.5f64;

    struct Layer {
        w: Matrix,
        a: Matrix,
        b: Matrix,
        bias: Matrix,
        y: Matrix,
        s: Matrix,
        dy: Matrix,
        da: Matrix,
        db: Matrix,
        dbias: Matrix,
    }
    let x = Matrix::new(device, "x", random.values(m, k, 6), dtype, case.activations);
    let dx = Matrix::new(device, "dx", random.values(m, k, 2), dtype, case.activations);
    let layers: Vec<Layer> = case
        .ranks
        .iter()
        .enumerate()
        .map(|(i, &r)| {
            // Siblings differ in width.
            let n = n + 8 * i;
            Layer {
                w: Matrix::new(device, "w", random.values(k, n, 12), dtype, PACKED),
                a: Matrix::new(device, "a", random.values(k, r, 6), adapters, case.a),
                b: Matrix::new(device, "b", random.values(r, n, 6), adapters, case.b),
                bias: Matrix::new(device, "bias", random.values(1, n, 2), DType::F32, PACKED),
                y: Matrix::new(device, "y", random.values(m, n, 2), dtype, case.activations),
                s: Matrix::new(device, "s", random.values(m, r, 2), dtype, case.activations),
                dy: Matrix::new(device, "dy", random.values(m, n, 12), dtype, case.activations),
                da: Matrix::new(device, "da", random.values(k, r, 2), adapters, case.a),
                db: Matrix::new(device, "db", random.values(r, n, 2), adapters, case.b),
                dbias: Matrix::new(device, "dbias", random.values(1, n, 2), dtype, PACKED),
            }
        })
        .collect();
    let adapter = |layer: &Layer| Adapter { a: layer.a.read(), b: layer.b.read(), scale: scale as f32 };

    let op = ForwardSiblings {
        x: x.read(),
        dropout,
        projections: layers
            .iter()
            .map(|layer| Projection {
                w: layer.w.read(),
                adapter: adapter(layer),
                bias: Some(layer.bias.read()),
                y: layer.y.write(),
                s: case.saves_s.then(|| layer.s.write()),
            })
            .collect(),
    };
    // SAFETY: the emulator checks every access against its buffers.
    unsafe { device.forward_siblings(op) }.unwrap();
    let masked = |row, col| if kept(row, col) { x.at(row, col) * keep_scale } else { 0.0 };
    let s_values: Vec<Vec<f64>> = layers
        .iter()
        .map(|layer| {
            let element = |row, r| scale * sum(0..k, |i| masked(row, i) * layer.a.at(i, r));
            (0..m * layer.a.cols).map(|i| element(i / layer.a.cols, i % layer.a.cols)).collect()
        })
        .collect();
    for (layer, s) in layers.iter().zip(&s_values) {
        let rank = layer.a.cols;
        if case.saves_s {
            layer.s.assert_holds(device, "S", |row, r| s[row * rank + r]);
        }
        layer.y.assert_holds(device, "Y", |row, col| {
            sum(0..k, |i| x.at(row, i) * layer.w.at(i, col))
                + sum(0..rank, |r| s[row * rank + r] * layer.b.at(r, col))
                + layer.bias.at(0, col)
        });
    }

    let output = |matrix: &Matrix| match case.accumulate {
        true => Output::accumulate(matrix.write()),
        false => Output::overwrite(matrix.write()),
    };
    let op = BackwardSiblings {
        x: Some(x.read()),
        dropout,
        dx: Some(output(&dx)),
        projections: layers
            .iter()
            .map(|layer| BackwardProjection {
                w: layer.w.read(),
                adapter: adapter(layer),
                dy: layer.dy.read(),
                s: case.saves_s.then(|| layer.s.read()),
                da: Some(output(&layer.da)),
                db: Some(output(&layer.db)),
                dbias: Some(output(&layer.dbias)),
            })
            .collect(),
    };
    // SAFETY: the emulator checks every access against its buffers.
    unsafe { device.backward_siblings(op) }.unwrap();
    let old = |matrix: &Matrix, row, col| if case.accumulate { matrix.at(row, col) } else { 0.0 };
    let ds_values: Vec<Vec<f64>> = layers
        .iter()
        .map(|layer| {
            let element = |row, r| scale * sum(0..layer.dy.cols, |j| layer.dy.at(row, j) * layer.b.at(r, j));
            (0..m * layer.a.cols).map(|i| element(i / layer.a.cols, i % layer.a.cols)).collect()
        })
        .collect();
    for ((layer, s), ds) in layers.iter().zip(&s_values).zip(&ds_values) {
        let rank = layer.a.cols;
        layer.da.assert_holds(device, "dA", |i, r| {
            sum(0..m, |row| masked(row, i) * ds[row * rank + r]) + old(&layer.da, i, r)
        });
        layer.db.assert_holds(device, "dB", |r, j| {
            sum(0..m, |row| s[row * rank + r] * layer.dy.at(row, j)) + old(&layer.db, r, j)
        });
        layer.dbias.assert_holds(device, "dbias", |_, j| {
            sum(0..m, |row| layer.dy.at(row, j)) + old(&layer.dbias, 0, j)
        });
    }
    dx.assert_holds(device, "dX", |row, i| {
        let frozen = |layer: &Layer| sum(0..layer.dy.cols, |j| layer.dy.at(row, j) * layer.w.at(i, j));
        let trained = |(layer, ds): (&Layer, &Vec<f64>)| {
            let rank = layer.a.cols;
            sum(0..rank, |r| ds[row * rank + r] * layer.a.at(i, r))
        };
        let trained = if kept(row, i) { layers.iter().zip(&ds_values).map(trained).sum() } else { 0.0 };
        layers.iter().map(frozen).sum::<f64>() + keep_scale * trained + old(&dx, row, i)
    });
    Some(finished)
}

#[test]
fn every_element_type_and_arithmetic() {
    for dtype in [DType::F16, DType::Bf16, DType::F32] {
        check(Case { dtype, adapters: dtype, ..Case::default() });
        check(Case { dtype, adapters: DType::F32, ..Case::default() });
    }
    check(Case { dtype: DType::F32, adapters: DType::F32, math: F32Math::Tf32, ..Case::default() });
}

#[test]
fn ragged_shapes() {
    for (m, k, n) in [(1, 1, 1), (1, 130, 67), (63, 65, 129), (129, 33, 7), (64, 64, 64), (200, 9, 600)] {
        check(Case { m, k, n, ..Case::default() });
        check(Case { m, k, n, dtype: DType::F32, adapters: DType::F32, ..Case::default() });
    }
}

#[test]
fn ranks_of_one_and_of_several_passes() {
    for ranks in [&[1][..], &[4], &[17], &[24], &[33], &[64], &[65], &[130]] {
        check(Case { ranks, ..Case::default() });
        check(Case { ranks, n: 200, dtype: DType::F32, adapters: DType::F32, ..Case::default() });
        check(Case {
            ranks,
            dtype: DType::F32,
            adapters: DType::F32,
            math: F32Math::Tf32,
            ..Case::default()
        });
    }
}

/// More columns than there are slabs of dS: a block of `backward_dy` goes through several chunks of them.
#[test]
fn very_wide_layers() {
    let wide = Case { m: 3, k: 2, n: 4200, ranks: &[64], math: F32Math::Tf32, ..Case::default() };
    check(Case { dtype: DType::F32, adapters: DType::F32, ..wide });
}

#[test]
fn any_placement() {
    for placement in [PACKED, TRANSPOSED, RAGGED, Placement { transposed: true, ..RAGGED }] {
        check(Case { activations: placement, ..Case::default() });
        check(Case { a: placement, b: placement, adapters: DType::F32, ..Case::default() });
        check(Case { activations: placement, dtype: DType::F32, adapters: DType::F32, ..Case::default() });
    }
}

#[test]
fn b_stored_by_columns() {
    for ranks in [&[8][..], &[24], &[64], &[72], &[3]] {
        check(Case { ranks, b: TRANSPOSED, ..Case::default() });
        check(Case { ranks, b: TRANSPOSED, dtype: DType::F32, adapters: DType::F32, ..Case::default() });
    }
}

/// Beside the frozen products: forward X once and Y once; backward dY once, X once and dX once.
#[test]
fn large_matrices_are_moved_once() {
    let case = Case { ranks: &[16, 24], m: 130, k: 200, ..Case::default() };
    let Some(device) = run(case) else { return };
    let moved = |prefix: &str, buffer: &str| {
        let records = device.executor().records().iter().filter(|record| record.name.starts_with(prefix));
        records.filter_map(|record| record.buffers.get(buffer)).fold((0, 0), |(read, written), traffic| {
            (read + traffic.bytes_read, written + traffic.bytes_written)
        })
    };
    let bytes = |elements: usize| (elements * 2) as u64;
    let (x, y) = (bytes(case.m * case.k), bytes(case.m * (case.n + case.n + 8)));
    assert_eq!(moved("shrink", "x"), (x, 0));
    assert_eq!(moved("expand", "y"), (0, y));
    assert_eq!(moved("backward_dy", "dy"), (y, 0));
    assert_eq!(moved("backward_a", "x"), (x, 0));
    assert_eq!(moved("expand", "dx"), (0, x));
    for kernel in ["finalize", "pack"] {
        for buffer in ["x", "y", "dy", "dx"] {
            assert_eq!(moved(kernel, buffer), (0, 0), "{kernel} moves {buffer}");
        }
    }
}

#[test]
fn siblings() {
    check(Case { ranks: &[8, 3, 16], ..Case::default() });
    check(Case { ranks: &[40, 40], saves_s: false, ..Case::default() });
    check(Case { ranks: &[1, 2, 3, 4, 5, 6, 7, 8, 9], m: 20, accumulate: true, ..Case::default() });
}

#[test]
fn accumulation_recomputed_s_and_no_dropout() {
    check(Case { accumulate: true, ..Case::default() });
    check(Case { saves_s: false, ..Case::default() });
    check(Case { dropout: false, ..Case::default() });
}

#[test]
fn every_schedule() {
    for schedule in Schedule::matrix(4) {
        check(Case { m: 130, k: 300, n: 150, schedule, ..Case::default() });
        check(Case { m: 130, k: 200, dtype: DType::F32, adapters: DType::F32, schedule, ..Case::default() });
    }
}

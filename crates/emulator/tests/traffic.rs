//! What the kernels of forward and backward move: each large matrix once. Sizes are multiples of the tiles and of the
//! vectors, so that a byte too many is a read too many.
//!
//! Weight updates: see `traffic_of_an_update` in weight_updates.rs.

use lora_emulator::{EmulatedCuda, StepRecord, Traffic};
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{
    Backward, BackwardProjection, BackwardSiblings, Forward, ForwardSiblings, Output, Projection,
};
use lora_kernels::{Adapter, Backend, DType, Dropout, Layout, MatrixMut, MatrixRef};

const ROWS: usize = 256;
const INPUTS: usize = 320;
const OUTPUTS: usize = 192;
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// A packed matrix of ones, under its name.
struct Matrix {
    buffer: RawBuffer,
    layout: Layout,
}

impl Matrix {
    fn new(cuda: &mut EmulatedCuda, name: &str, dtype: DType, rows: usize, cols: usize) -> Self {
        let buffer = match dtype {
            DType::F32 => cuda.upload_named(name, &vec![1.0f32; rows * cols]),
            DType::F16 => cuda.upload_named(name, &vec![half::f16::ONE; rows * cols]),
            DType::Bf16 => cuda.upload_named(name, &vec![half::bf16::ONE; rows * cols]),
        };
        Matrix { buffer: buffer.unwrap(), layout: Layout::packed(rows, cols).expect("small") }
    }

    fn read(&self) -> MatrixRef<'static, Raw> {
        MatrixRef::from_buffer(self.buffer, self.layout).unwrap()
    }

    fn write(&self) -> MatrixMut<'static, Raw> {
        MatrixMut::from_buffer(self.buffer, self.layout).unwrap()
    }

    fn bytes(&self) -> u64 {
        (self.buffer.len * self.buffer.dtype.size()) as u64
    }
}

struct Layer {
    w: Matrix,
    a: Matrix,
    b: Matrix,
    y: Matrix,
    dy: Matrix,
    s: Matrix,
    da: Matrix,
    db: Matrix,
    dbias: Matrix,
}

impl Layer {
    fn new(cuda: &mut EmulatedCuda, dtype: DType, rank: usize) -> Self {
        Layer {
            w: Matrix::new(cuda, "w", dtype, INPUTS, OUTPUTS),
            a: Matrix::new(cuda, "a", dtype, INPUTS, rank),
            b: Matrix::new(cuda, "b", dtype, rank, OUTPUTS),
            y: Matrix::new(cuda, "y", dtype, ROWS, OUTPUTS),
            dy: Matrix::new(cuda, "dy", dtype, ROWS, OUTPUTS),
            s: Matrix::new(cuda, "s", dtype, ROWS, rank),
            da: Matrix::new(cuda, "da", dtype, INPUTS, rank),
            db: Matrix::new(cuda, "db", dtype, rank, OUTPUTS),
            dbias: Matrix::new(cuda, "dbias", dtype, 1, OUTPUTS),
        }
    }

    fn adapter(&self) -> Adapter<'static, Raw> {
        Adapter { a: self.a.read(), b: self.b.read(), scale: 1.0 }
    }
}

fn dropout() -> Option<Dropout> {
    Some(Dropout::new(0.5, 1, 2).unwrap())
}

/// Traffic of a buffer, over the launches of kernels whose name starts so. The library's own products are not counted.
fn moved(cuda: &EmulatedCuda, kernel: &str, buffer: &str) -> Traffic {
    let mut total = Traffic::default();
    let is_meant = |step: &&StepRecord| step.name.starts_with(kernel) && step.name != "product";
    for step in cuda.emulator().records().iter().filter(is_meant) {
        total += step.buffers.get(buffer).copied().unwrap_or_default();
    }
    total
}

/// The kernel reads each byte of the buffer `times` times and writes none; no other kernel touches it.
#[track_caller]
fn assert_read(cuda: &EmulatedCuda, kernel: &str, buffer: &str, matrix_bytes: u64, times: u64) {
    for traffic in [moved(cuda, kernel, buffer), moved(cuda, "", buffer)] {
        let found = (traffic.bytes_read, traffic.unique_bytes_read, traffic.bytes_written);
        assert_eq!(found, (matrix_bytes * times, matrix_bytes, 0), "{kernel} and `{buffer}`");
    }
    // 16 bytes at a time, in whole sectors.
    let traffic = moved(cuda, kernel, buffer);
    let found = (traffic.reads * 16, traffic.sectors_read * 32);
    assert_eq!(found, (matrix_bytes * times, matrix_bytes * times), "{kernel} and `{buffer}`");
}

/// The kernel writes each byte of the buffer once; no kernel reads it, and no other writes it.
#[track_caller]
fn assert_written_once(cuda: &EmulatedCuda, kernel: &str, buffer: &str, matrix_bytes: u64) {
    for traffic in [moved(cuda, kernel, buffer), moved(cuda, "", buffer)] {
        let found = (traffic.bytes_written, traffic.unique_bytes_written, traffic.bytes_read);
        assert_eq!(found, (matrix_bytes, matrix_bytes, 0), "{kernel} and `{buffer}`");
    }
}

/// Whole sectors, each by one block.
#[track_caller]
fn assert_sectors_written_once(cuda: &EmulatedCuda, kernel: &str, buffer: &str, matrix_bytes: u64) {
    let traffic = moved(cuda, kernel, buffer);
    assert_eq!(traffic.sectors_written * 32, matrix_bytes, "{kernel} and `{buffer}`");
}

/// Padded rows let every `ldmatrix` read all banks at once.
#[track_caller]
fn assert_no_bank_conflicts(cuda: &EmulatedCuda) {
    for step in cuda.emulator().records() {
        assert_eq!(step.matrix_bank_conflicts, 0, "{}", step.name);
    }
}

fn assert_small_kernels_move_none_of(cuda: &EmulatedCuda, buffers: &[&str]) {
    for kernel in ["finalize", "pack"] {
        for buffer in buffers {
            let traffic = moved(cuda, kernel, buffer);
            assert_eq!((traffic.bytes_read, traffic.bytes_written), (0, 0), "{kernel} moves {buffer}");
        }
    }
}

#[test]
fn a_forward_reads_x_once_and_writes_y_once() {
    let Some(mut cuda) = EmulatedCuda::for_test("a_forward_reads_x_once_and_writes_y_once") else { return };
    for dtype in DTYPES {
        for (rank, passes) in [(16, 1), (32, 1), (64, 1), (128, 2)] {
            let x = Matrix::new(&mut cuda, "x", dtype, ROWS, INPUTS);
            let layer = Layer::new(&mut cuda, dtype, rank);
            cuda.emulator_mut().clear_records();
            cuda.forward(Forward {
                x: x.read(),
                w: layer.w.read(),
                adapter: layer.adapter(),
                bias: None,
                dropout: dropout(),
                y: layer.y.write(),
                s: Some(layer.s.write()),
            })
            .unwrap();
            // Further passes find X in the L2 cache.
            assert_read(&cuda, "shrink", "x", x.bytes(), passes);
            assert_written_once(&cuda, "expand", "y", layer.y.bytes());
            assert_sectors_written_once(&cuda, "expand", "y", layer.y.bytes());
            assert_no_bank_conflicts(&cuda);
            assert_small_kernels_move_none_of(&cuda, &["x", "y"]);
            let s = moved(&cuda, "finalize", "s");
            assert_eq!((s.bytes_written, s.bytes_read), (layer.s.bytes(), 0));
        }
    }
}

#[test]
fn a_backward_reads_dy_once_and_x_once_and_writes_dx_once() {
    let test = "a_backward_reads_dy_once_and_x_once_and_writes_dx_once";
    let Some(mut cuda) = EmulatedCuda::for_test(test) else { return };
    for dtype in DTYPES {
        for (rank, passes) in [(16, 1), (32, 1), (64, 1), (128, 2)] {
            let x = Matrix::new(&mut cuda, "x", dtype, ROWS, INPUTS);
            let dx = Matrix::new(&mut cuda, "dx", dtype, ROWS, INPUTS);
            let layer = Layer::new(&mut cuda, dtype, rank);
            cuda.emulator_mut().clear_records();
            cuda.backward(Backward {
                x: Some(x.read()),
                w: layer.w.read(),
                adapter: layer.adapter(),
                dropout: dropout(),
                dy: layer.dy.read(),
                s: Some(layer.s.read()),
                dx: Some(Output::overwrite(dx.write())),
                da: Some(Output::overwrite(layer.da.write())),
                db: Some(Output::overwrite(layer.db.write())),
                dbias: Some(Output::overwrite(layer.dbias.write())),
            })
            .unwrap();
            assert_no_bank_conflicts(&cuda);
            // dS, dB and dbias come from one read.
            assert_read(&cuda, "backward_dy", "dy", layer.dy.bytes(), passes);
            assert_read(&cuda, "backward_a", "x", x.bytes(), passes);
            assert_written_once(&cuda, "expand", "dx", dx.bytes());
            assert_sectors_written_once(&cuda, "expand", "dx", dx.bytes());
            assert_written_once(&cuda, "finalize", "da", layer.da.bytes());
            assert_sectors_written_once(&cuda, "finalize", "da", layer.da.bytes());
            assert_small_kernels_move_none_of(&cuda, &["x", "dy", "dx"]);
            // A block has some columns of many rows of dB, so blocks share sectors.
            assert_written_once(&cuda, "finalize", "db", layer.db.bytes());
            assert_written_once(&cuda, "finalize", "dbias", layer.dbias.bytes());
        }
    }
}

#[test]
fn siblings_share_one_read_of_x() {
    let Some(mut cuda) = EmulatedCuda::for_test("siblings_share_one_read_of_x") else { return };
    for dtype in DTYPES {
        let x = Matrix::new(&mut cuda, "x", dtype, ROWS, INPUTS);
        let dx = Matrix::new(&mut cuda, "dx", dtype, ROWS, INPUTS);
        let layers = [16, 8, 32].map(|rank| Layer::new(&mut cuda, dtype, rank));
        cuda.emulator_mut().clear_records();
        cuda.forward_siblings(ForwardSiblings {
            x: x.read(),
            dropout: dropout(),
            projections: layers
                .iter()
                .map(|layer| Projection {
                    w: layer.w.read(),
                    adapter: layer.adapter(),
                    bias: None,
                    y: layer.y.write(),
                    s: Some(layer.s.write()),
                })
                .collect(),
        })
        .unwrap();
        assert_read(&cuda, "shrink", "x", x.bytes(), 1);

        cuda.emulator_mut().clear_records();
        cuda.backward_siblings(BackwardSiblings {
            x: Some(x.read()),
            dropout: dropout(),
            dx: Some(Output::overwrite(dx.write())),
            projections: layers
                .iter()
                .map(|layer| BackwardProjection {
                    w: layer.w.read(),
                    adapter: layer.adapter(),
                    dy: layer.dy.read(),
                    s: Some(layer.s.read()),
                    da: Some(Output::overwrite(layer.da.write())),
                    db: Some(Output::overwrite(layer.db.write())),
                    dbias: None,
                })
                .collect(),
        })
        .unwrap();
        assert_read(&cuda, "backward_a", "x", x.bytes(), 1);
        assert_written_once(&cuda, "expand", "dx", dx.bytes());
        assert_sectors_written_once(&cuda, "expand", "dx", dx.bytes());
        for dy in cuda.emulator().records().iter().filter(|step| step.name.starts_with("backward_dy")) {
            assert_eq!(dy.buffers["dy"].bytes_read, layers[0].dy.bytes());
        }
    }
}

/// Traffic of a buffer over all steps, the library's products included.
fn moved_in_all(cuda: &EmulatedCuda, buffer: &str) -> Traffic {
    let mut total = Traffic::default();
    for step in cuda.emulator().records().iter() {
        total += step.buffers.get(buffer).copied().unwrap_or_default();
    }
    total
}

/// Names of the steps, without arithmetic and ranks.
fn steps(cuda: &EmulatedCuda) -> Vec<String> {
    let arithmetic = ["_bf16", "_tf32", "_f16", "_f32"];
    let name = |step: &StepRecord| {
        let end = arithmetic.iter().filter_map(|suffix| step.name.find(suffix)).min();
        step.name[..end.unwrap_or(step.name.len())].to_owned()
    };
    cuda.emulator().records().iter().map(name).collect()
}

/// A layer whose W, A and B are parts of one buffer, and whose X may have room for S.
struct Joined {
    w: MatrixRef<'static, Raw>,
    adapter: Adapter<'static, Raw>,
}

impl Joined {
    fn new(cuda: &mut EmulatedCuda, dtype: DType, rank: usize, transposed: bool) -> Self {
        let (stored_rows, stored_cols) = if transposed { (OUTPUTS, INPUTS) } else { (INPUTS, OUTPUTS) };
        let whole = Matrix::new(cuda, "weight", dtype, stored_rows + rank, stored_cols + rank).read();
        let whole = if transposed { whole.t() } else { whole };
        let [top, bottom] = whole.t().split_cols(INPUTS).unwrap().map(MatrixRef::t);
        let [w, a] = top.split_cols(OUTPUTS).unwrap();
        let [b, _] = bottom.split_cols(OUTPUTS).unwrap();
        Joined { w, adapter: Adapter { a, b, scale: 1.0 } }
    }
}

/// What a forward moves, with the library's product: X twice (once for S), the weight, and Y once. Today's route also writes Y before
/// the product, which reads it.
#[test]
fn a_forward_over_k_plus_r_writes_y_once_and_reads_it_never() {
    let test = "a_forward_over_k_plus_r_writes_y_once_and_reads_it_never";
    let Some(mut cuda) = EmulatedCuda::for_test(test) else { return };
    for dtype in DTYPES {
        for (transposed, rank) in [(false, 16), (true, 16), (true, 32)] {
            let x = Matrix::new(&mut cuda, "x", dtype, ROWS, INPUTS + rank);
            let y = Matrix::new(&mut cuda, "y", dtype, ROWS, OUTPUTS);
            let layer = Joined::new(&mut cuda, dtype, rank, transposed);
            let forward = |cuda: &mut EmulatedCuda, x: MatrixRef<'static, Raw>, s| {
                cuda.emulator_mut().clear_records();
                let Joined { w, adapter } = layer;
                let op = Forward { x, w, adapter, bias: None, dropout: dropout(), y: y.write(), s };
                cuda.forward(op).unwrap();
                let (y, found) = (y.bytes(), moved_in_all(cuda, "y"));
                assert_eq!((found.bytes_written, found.bytes_read), (y, 0));
                assert_no_bank_conflicts(cuda);
            };
            let size = dtype.size() as u64;
            let (x_bytes, s_bytes) = ((ROWS * INPUTS) as u64 * size, (ROWS * rank) as u64 * size);

            // S beside X.
            let [_, s] = x.write().split_cols(INPUTS).unwrap();
            let [only_x, _] = x.read().split_cols(INPUTS).unwrap();
            forward(&mut cuda, only_x, Some(s));
            let found = moved_in_all(&cuda, "x");
            assert_eq!((found.bytes_read, found.bytes_written), (2 * x_bytes + s_bytes, s_bytes));
            let packs = usize::from(!transposed);
            assert_eq!(
                steps(&cuda)[packs..],
                ["shrink", "finalize", "product"],
                "A is packed where it is strided"
            );

            // S beside a copy of X.
            let alone = Matrix::new(&mut cuda, "alone", dtype, ROWS, INPUTS);
            forward(&mut cuda, alone.read(), None);
            let found = moved_in_all(&cuda, "alone");
            assert_eq!((found.bytes_read, found.bytes_written), (x_bytes, 0), "X is read once");
            let copied = moved(&cuda, "shrink", "workspace");
            let slabs = copied.bytes_written - x_bytes;
            assert_eq!(slabs % (ROWS * rank * 4) as u64, 0, "beside the copy, {slabs} bytes of partial sums");
            assert_eq!(steps(&cuda)[packs..], ["shrink", "finalize", "product"]);
        }
    }
}

/// Three layers share one read of X, one copy of it and one room for S.
#[test]
fn siblings_over_k_plus_r_copy_x_once() {
    let Some(mut cuda) = EmulatedCuda::for_test("siblings_over_k_plus_r_copy_x_once") else { return };
    let x = Matrix::new(&mut cuda, "x", DType::Bf16, ROWS, INPUTS);
    let layers = [16, 8, 32].map(|rank| Joined::new(&mut cuda, DType::Bf16, rank, true));
    let y = [(); 3].map(|()| Matrix::new(&mut cuda, "y", DType::Bf16, ROWS, OUTPUTS));
    cuda.emulator_mut().clear_records();
    let projections = layers.iter().zip(&y).map(|(&Joined { w, adapter }, y)| Projection {
        w,
        adapter,
        bias: None,
        y: y.write(),
        s: None,
    });
    let op = ForwardSiblings { x: x.read(), dropout: None, projections: projections.collect() };
    cuda.forward_siblings(op).unwrap();
    let (x_bytes, y_bytes) = (x.bytes(), 3 * y[0].bytes());
    assert_eq!(moved_in_all(&cuda, "x").bytes_read, x_bytes);
    let found = moved_in_all(&cuda, "y");
    assert_eq!((found.bytes_written, found.bytes_read), (y_bytes, 0));
    let each = ["finalize", "product"];
    assert_eq!(steps(&cuda), [&["pack", "shrink"][..], &each, &each, &each].concat());
}

/// dX is written once and never read; where gradients are added to it, it is read once.
#[test]
fn dx_over_n_plus_r_is_written_once() {
    let Some(mut cuda) = EmulatedCuda::for_test("dx_over_n_plus_r_is_written_once") else { return };
    for dtype in DTYPES {
        for (rank, transposed, accumulates) in [(16, false, false), (16, true, true), (128, true, false)] {
            let x = Matrix::new(&mut cuda, "x", dtype, ROWS, INPUTS);
            let dx = Matrix::new(&mut cuda, "dx", dtype, ROWS, INPUTS);
            let plain = Layer::new(&mut cuda, dtype, rank);
            let Joined { w, adapter } = Joined::new(&mut cuda, dtype, rank, transposed);
            cuda.emulator_mut().clear_records();
            let output = if accumulates { Output::accumulate } else { Output::overwrite };
            cuda.backward(Backward {
                x: Some(x.read()),
                w,
                adapter,
                dropout: None,
                dy: plain.dy.read(),
                s: Some(plain.s.read()),
                dx: Some(output(dx.write())),
                da: Some(Output::overwrite(plain.da.write())),
                db: Some(Output::overwrite(plain.db.write())),
                dbias: None,
            })
            .unwrap();
            let (found, bytes) = (moved_in_all(&cuda, "dx"), dx.bytes());
            let read = if accumulates { bytes } else { 0 };
            assert_eq!((found.bytes_written, found.bytes_read), (bytes, read));
            let passes = rank.div_ceil(64) as u64;
            assert_eq!(moved_in_all(&cuda, "dy").bytes_read, passes * plain.dy.bytes(), "dY is read once");
            assert_no_bank_conflicts(&cuda);
            assert!(!steps(&cuda).iter().any(|step| step == "expand"));
        }
    }
}

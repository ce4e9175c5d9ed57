//! A plan that is used again gives the bits of one that is made anew: other addresses, another mask, scratch memory poisoned.

use half::bf16;
use lora_emulator::Emulator;
use lora_kernels::cuda::engine::Engine;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection};
use lora_kernels::{Adapter, DType, Dropout, Element, Layout, MatrixMut, MatrixRef};

const M: usize = 70;
const K: usize = 136;
const N: usize = 72;
const RANKS: [usize; 2] = [8, 20];

fn integers<T: Element>(count: usize, seed: u32, value: impl Fn(f32) -> T) -> Vec<T> {
    let draw = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 20) % 5;
    (0..count as u32).map(|i| value(draw(i) as f32 - 2.0)).collect()
}

/// Matrices of one step, in fresh memory.
struct Memory<'a> {
    engine: &'a mut Engine<Emulator>,
    seed: u32,
}

impl Memory<'_> {
    fn buffer(&mut self, rows: usize, cols: usize, dtype: DType) -> (RawBuffer, Layout) {
        self.seed += 1;
        let emulator = self.engine.executor_mut();
        let address = emulator.allocate("matrix", rows * cols * dtype.size());
        let bytes = match dtype {
            DType::F32 => bytemuck::cast_slice(&integers(rows * cols, self.seed, |value| value)).to_vec(),
            _ => bytemuck::cast_slice(&integers(rows * cols, self.seed, bf16::from_f32)).to_vec(),
        };
        emulator.write(address, &bytes).unwrap();
        let layout = Layout::packed(rows, cols).expect("small");
        (RawBuffer { address, len: rows * cols, dtype }, layout)
    }

    fn read(&mut self, rows: usize, cols: usize, dtype: DType) -> MatrixRef<'static, Raw> {
        let (buffer, layout) = self.buffer(rows, cols, dtype);
        MatrixRef::from_buffer(buffer, layout).unwrap()
    }

    /// A matrix that is written, and its buffer.
    fn write(&mut self, rows: usize, cols: usize, dtype: DType) -> (RawBuffer, MatrixMut<'static, Raw>) {
        let (buffer, layout) = self.buffer(rows, cols, dtype);
        (buffer, MatrixMut::from_buffer(buffer, layout).unwrap())
    }

    fn bytes(&mut self, buffer: RawBuffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.len * buffer.dtype.size()];
        self.engine.executor_mut().read(buffer.address, &mut bytes).unwrap();
        bytes
    }
}

/// Forward and backward of two layers that share X, in step `step`: the bytes of every result.
fn train(engine: &mut Engine<Emulator>, step: u32) -> Vec<Vec<u8>> {
    let mut memory = Memory { engine, seed: 100 * step };
    let dropout = Some(Dropout::new(0.25, 9 + u64::from(step), u64::from(step) << 33).unwrap());
    let x = memory.read(M, K, DType::Bf16);
    let (dx_buffer, dx) = memory.write(M, K, DType::Bf16);
    let mut results = vec![dx_buffer];
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for rank in RANKS {
        let w = memory.read(K, N, DType::Bf16);
        let (a, b) = (memory.read(K, rank, DType::F32), memory.read(rank, N, DType::F32));
        let adapter = Adapter { a, b, scale: 0.5 };
        let (y_buffer, y) = memory.write(M, N, DType::Bf16);
        let (s_buffer, s) = memory.write(M, rank, DType::Bf16);
        let dy = memory.read(M, N, DType::Bf16);
        let (da_buffer, da) = memory.write(K, rank, DType::F32);
        let (db_buffer, db) = memory.write(rank, N, DType::F32);
        let (dbias_buffer, dbias) = memory.write(1, N, DType::F32);
        results.extend([y_buffer, s_buffer, da_buffer, db_buffer, dbias_buffer]);
        forward.push(Projection { w, adapter, bias: None, y, s: Some(s) });
        backward.push(BackwardProjection {
            w,
            adapter,
            dy,
            s: Some(MatrixRef::from_buffer(s_buffer, Layout::packed(M, rank).expect("small")).unwrap()),
            da: Some(Output::overwrite(da)),
            db: Some(Output::accumulate(db)),
            dbias: Some(Output::overwrite(dbias)),
        });
    }
    // SAFETY: the emulator's buffers are live, and none overlaps another.
    unsafe {
        memory.engine.forward_siblings(ForwardSiblings { x, dropout, projections: forward }).unwrap();
        let dx = Some(Output::overwrite(dx));
        let op = BackwardSiblings { x: Some(x), dropout, dx, projections: backward };
        memory.engine.backward_siblings(op).unwrap();
    }
    results.into_iter().map(|buffer| memory.bytes(buffer)).collect()
}

#[test]
fn a_plan_used_again_gives_the_bits_of_one_made_anew() {
    let test = "a_plan_used_again_gives_the_bits_of_one_made_anew";
    let Some(emulator) = Emulator::for_test(test) else { return };
    let mut engine = Engine::new(emulator);
    let again: Vec<_> = (0..3).map(|step| train(&mut engine, step)).collect();
    for (step, found) in again.iter().enumerate() {
        let mut fresh = Engine::new(Emulator::for_test(test).expect("it was there before"));
        assert_eq!(*found, train(&mut fresh, step as u32), "step {step}");
    }
    assert_ne!(again[0], again[1], "the steps differ in data and mask");
}

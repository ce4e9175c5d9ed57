//! An engine that has seen a shape before allocates nothing on the host.

use lora_kernels::cuda::engine::Engine;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::step::Step;
use lora_kernels::cuda::target::Target;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{
    BackwardProjection, BackwardSiblings, Conversion, ForwardSiblings, Frozen, Output, Projection,
};
use lora_kernels::{Adapter, Backward, DType, Dropout, Forward, Layout, MatrixMut, MatrixRef, Result};
use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, memory: Memory) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes steps and does nothing.
#[derive(Default)]
struct Idle {
    steps: usize,
}

impl Executor for Idle {
    fn target(&self) -> Target {
        Target { compute_capability: (9, 0), shared_bytes_per_block: 227 << 10 }
    }

    fn workspace(&mut self, _: usize) -> Result<u64> {
        Ok(1 << 40)
    }

    fn run(&mut self, _: &Step) -> Result<()> {
        self.steps += 1;
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
}

const M: usize = 300;
const K: usize = 512;
const N: usize = 384;
const RANK: usize = 24;

/// Matrices one after the other.
struct Places {
    next: u64,
}

impl Places {
    fn buffer(&mut self, len: usize, dtype: DType) -> RawBuffer {
        self.next += 1 << 32;
        RawBuffer { address: self.next, len, dtype }
    }

    fn read(&mut self, rows: usize, cols: usize, dtype: DType) -> MatrixRef<'static, Raw> {
        let layout = Layout::packed(rows, cols).expect("small");
        MatrixRef::from_buffer(self.buffer(layout.span(), dtype), layout).expect("it fits")
    }

    fn write(&mut self, rows: usize, cols: usize, dtype: DType) -> MatrixMut<'static, Raw> {
        let layout = Layout::packed(rows, cols).expect("small");
        MatrixMut::from_buffer(self.buffer(layout.span(), dtype), layout).expect("it fits")
    }

    /// In `f32`, so that it is packed.
    fn adapter(&mut self) -> Adapter<'static, Raw> {
        Adapter { a: self.read(K, RANK, DType::F32), b: self.read(RANK, N, DType::F32), scale: 2.0 }
    }
}

fn dropout(step: u64) -> Option<Dropout> {
    Some(Dropout::new(0.1, 7, step).expect("a probability"))
}

/// Everywhere else in every step, as with an allocator that gives fresh memory.
fn forward(layers: usize, step: u64) -> ForwardSiblings<'static, Raw> {
    let mut places = Places { next: step << 20 };
    let x = places.read(M, K, DType::Bf16);
    let mut projection = || Projection {
        w: places.read(K, N, DType::Bf16),
        adapter: places.adapter(),
        bias: Some(places.read(1, N, DType::F32)),
        y: places.write(M, N, DType::Bf16),
        s: Some(places.write(M, RANK, DType::Bf16)),
    };
    ForwardSiblings { x, dropout: dropout(step), projections: (0..layers).map(|_| projection()).collect() }
}

fn backward(layers: usize, step: u64) -> BackwardSiblings<'static, Raw> {
    let mut places = Places { next: step << 20 };
    let x = Some(places.read(M, K, DType::Bf16));
    let dx = Some(Output::overwrite(places.write(M, K, DType::Bf16)));
    let mut projection = || BackwardProjection {
        w: places.read(K, N, DType::Bf16),
        adapter: places.adapter(),
        dy: places.read(M, N, DType::Bf16),
        s: None,
        da: Some(Output::accumulate(places.write(K, RANK, DType::F32))),
        db: Some(Output::accumulate(places.write(RANK, N, DType::F32))),
        dbias: Some(Output::overwrite(places.write(1, N, DType::F32))),
    };
    BackwardSiblings {
        x,
        dropout: dropout(step),
        dx,
        projections: (0..layers).map(|_| projection()).collect(),
    }
}

/// Allocations of one call, and the steps that it took.
fn count<O>(
    engine: &mut Engine<Idle>,
    op: O,
    call: impl FnOnce(&mut Engine<Idle>, O) -> Result<()>,
) -> [usize; 2] {
    let before = [ALLOCATIONS.get(), engine.executor().steps];
    call(engine, op).expect("the operation is valid");
    [ALLOCATIONS.get() - before[0], engine.executor().steps - before[1]]
}

// SAFETY (both): nothing is behind the addresses, and the executor follows none.
fn run_forward(engine: &mut Engine<Idle>, op: ForwardSiblings<'static, Raw>) -> Result<()> {
    // SAFETY: as above.
    unsafe { engine.forward_siblings(op) }
}

fn run_backward(engine: &mut Engine<Idle>, op: BackwardSiblings<'static, Raw>) -> Result<()> {
    // SAFETY: as above.
    unsafe { engine.backward_siblings(op) }
}

#[test]
fn forward_and_backward_allocate_the_first_time_only() {
    let mut engine = Engine::new(Idle::default());
    let mut first_steps = Vec::new();
    for step in 0..4 {
        for (place, layers) in [1, 3].into_iter().enumerate() {
            let counts = [
                count(&mut engine, forward(layers, step), run_forward),
                count(&mut engine, backward(layers, step), run_backward),
            ];
            for (pass, [allocations, steps]) in counts.into_iter().enumerate() {
                assert!(steps >= 4, "the work is done every time");
                if step == 0 {
                    assert!(allocations > 0, "the allocator counts");
                    first_steps.push(steps);
                } else {
                    assert_eq!(allocations, 0, "pass {pass} of {layers} layers in step {step}");
                    assert_eq!(steps, first_steps[2 * place + pass]);
                }
            }
        }
    }
}

/// The vectors of siblings' layers are the caller's; an operation on one layer needs none.
#[test]
fn one_layer_allocates_the_first_time_only() {
    let mut engine = Engine::new(Idle::default());
    for step in 0..3 {
        let ForwardSiblings { x, dropout, projections } = forward(1, step);
        let Ok([Projection { w, adapter, bias, y, s }]) = <[_; 1]>::try_from(projections) else {
            panic!("one layer")
        };
        let op = Forward { x, w, adapter, bias, dropout, y, s };
        let [allocations, steps] = count(&mut engine, op, |engine, op| {
            // SAFETY: nothing is behind the addresses, and the executor follows none.
            unsafe { engine.forward(op) }
        });
        assert_eq!((allocations == 0, steps >= 4), (step > 0, true), "forward of step {step}: {allocations}");

        let BackwardSiblings { x, dropout, dx, projections } = backward(1, step);
        let Ok([projection]) = <[_; 1]>::try_from(projections) else { panic!("one layer") };
        let BackwardProjection { w, adapter, dy, s, da, db, dbias } = projection;
        let op = Backward { x, w, adapter, dropout, dy, s, dx, da, db, dbias };
        let [allocations, steps] = count(&mut engine, op, |engine, op| {
            // SAFETY: as above.
            unsafe { engine.backward(op) }
        });
        assert_eq!(
            (allocations == 0, steps >= 4),
            (step > 0, true),
            "backward of step {step}: {allocations}"
        );
    }
}

#[test]
fn a_layer_without_adapter_allocates_the_first_time_only() {
    let mut engine = Engine::new(Idle::default());
    for step in 0..3u64 {
        for (has_bias, steps_needed) in [(false, 1), (true, 4)] {
            let mut places = Places { next: step << 40 };
            let (x, w) = (places.read(M, K, DType::F16), places.read(K, N, DType::F16));
            let bias = has_bias.then(|| places.read(1, N, DType::F32));
            let op = Frozen { x, w, bias, y: Output::overwrite(places.write(M, N, DType::F16)) };
            // SAFETY: nothing is behind the addresses, and the executor follows none.
            let call = |engine: &mut Engine<Idle>, op| unsafe { engine.frozen(op) };
            let [allocations, steps] = count(&mut engine, op, call);
            assert_eq!((allocations == 0, steps), (step > 0, steps_needed), "step {step}");
        }
    }
}

/// W, A and B of one buffer, and S beside X of another.
fn joined(step: u64) -> ForwardSiblings<'static, Raw> {
    let mut places = Places { next: step << 20 };
    let [top, bottom] = places.read(K + RANK, N + RANK, DType::Bf16).t().split_cols(K).expect("K rows");
    let ([w, a], [b, _]) = (top.t().split_cols(N).expect("N"), bottom.t().split_cols(N).expect("N"));
    let input = places.buffer(M * (K + RANK), DType::Bf16);
    let whole = |layout| MatrixMut::<Raw>::from_buffer(input, layout).expect("it fits");
    let layout = Layout::packed(M, K + RANK).expect("small");
    let [_, s] = whole(layout).split_cols(K).expect("K");
    let x = MatrixRef::from_buffer(input, Layout::strided(M, K, K + RANK).expect("small")).expect("it fits");
    let adapter = Adapter { a, b, scale: 2.0 };
    let y = places.write(M, N, DType::Bf16);
    ForwardSiblings {
        x,
        dropout: dropout(step),
        projections: vec![Projection { w, adapter, bias: None, y, s: Some(s) }],
    }
}

#[test]
fn one_product_over_k_plus_r_allocates_the_first_time_only() {
    let mut engine = Engine::new(Idle::default());
    for step in 0..4 {
        let [allocations, steps] = count(&mut engine, joined(step), run_forward);
        // A is packed, because it is strided.
        assert_eq!((allocations == 0, steps), (step > 0, 4), "step {step}");
    }
}

#[test]
fn a_copy_allocates_the_first_time_only() {
    let mut engine = Engine::new(Idle::default());
    for step in 0..3u64 {
        let mut places = Places { next: step << 40 };
        let source = places.read(K, RANK, DType::F32);
        let op = Conversion { source, target: places.write(RANK, K, DType::Bf16).t() };
        // SAFETY: nothing is behind the addresses, and the executor follows none.
        let call = |engine: &mut Engine<Idle>, op| unsafe { engine.convert(op) };
        let [allocations, steps] = count(&mut engine, op, call);
        assert_eq!((allocations == 0, steps), (step > 0, 1), "step {step}");
    }
}

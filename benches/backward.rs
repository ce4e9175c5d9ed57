//! The backward: dX, dA and dB from the saved S; dX alone for the frozen layer.
//!
//! Runs on the CPU, and on GPU 0 if there is one; `LORA_BENCH_DEVICE=cpu|cuda` chooses. `LORA_BENCH_GRID=full` times the
//! whole grid, `LORA_BENCH_SMOKE=1` or `--test` tiny shapes; `LORA_BENCH_DTYPE=f32,f16,bf16` chooses element types.

#[allow(dead_code, reason = "each bench uses a part")]
mod common;

use common::criterion_cpu;
use criterion::{Criterion, criterion_group, criterion_main};
use lora_measure::Pass;

fn backward(criterion: &mut Criterion) {
    criterion_cpu::bench(criterion, Pass::Backward);
    #[cfg(feature = "cuda")]
    common::cuda::criterion::bench(criterion, Pass::Backward);
}

criterion_group! {
    name = benches;
    config = criterion_cpu::configuration();
    targets = backward
}
criterion_main!(benches);

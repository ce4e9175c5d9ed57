//! Bandwidth of each of this crate's kernels that streams a matrix, against a copy on the same GPU.
//!
//! Prints a table; `LORA_BENCH_JSON=FILE` also writes it as JSON. `LORA_BENCH_DTYPE=f32,f16,bf16` (default bf16),
//! `LORA_BENCH_ROUNDS`, `LORA_BENCH_GRID=full`, `LORA_BENCH_SMOKE=1`.

#[allow(dead_code, reason = "each bench uses a part")]
mod common;

#[cfg(feature = "cuda")]
fn main() -> anyhow::Result<()> {
    common::cuda::kernels::run()
}

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("SKIPPED all CUDA benchmarks: built without the feature `cuda`");
}

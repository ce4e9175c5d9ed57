//! Bandwidth of each step of forward, backward and merge, against a copy on the same GPU; the library's product with β = 0,
//! with β = 1, and over K + r (for dX over N + r), round by round.
//!
//! Prints a table; `LORA_BENCH_JSON=FILE` also writes it as JSON, after every problem. `LORA_BENCH_SECONDS=N` begins no
//! problem after N seconds and lists the others. `LORA_BENCH_DTYPE=f32,f16,bf16` (default bf16), `LORA_BENCH_ROUNDS`,
//! `LORA_BENCH_GRID=full`, `LORA_BENCH_SMOKE=1`.

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

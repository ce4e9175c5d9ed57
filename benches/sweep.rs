//! Which tile, how many stages, which split: variants of the skinny kernels and of the merge, compared with the planner's
//! launch and ranked, on a GPU.
//!
//! Variants are compiled with `LORA_KERNELS_SWEEP=1` only; a line in `kernels/sweep_variants.cuh` is all that a new one
//! takes. Without it, the cuts of the planner's kernels are swept. Always bf16. A variant that gives other results than the
//! planner's kernel is reported as wrong and not timed.
//!
//! Prints the best of each use; `LORA_BENCH_JSON=FILE` also writes all rankings and overall winners, after every problem.
//! `LORA_BENCH_SECONDS=N` begins no problem after N seconds. `LORA_BENCH_ROUNDS`, `LORA_BENCH_SMOKE=1`.

#[allow(dead_code, reason = "each bench uses a part")]
mod common;

#[cfg(feature = "cuda")]
fn main() -> anyhow::Result<()> {
    common::cuda::sweep::run()
}

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("SKIPPED all CUDA benchmarks: built without the feature `cuda`");
}

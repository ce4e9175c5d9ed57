//! Links lora-kernels as a backend and checks forward, backward and merge against numbers worked out by hand.

mod cpu;
mod gpu;
mod layer;

fn main() -> anyhow::Result<()> {
    cpu::run()?;
    println!("CPU: forward, backward, merge and unmerge as worked out by hand");
    match lora_kernels::cuda::availability() {
        Ok(()) => {
            gpu::run()?;
            println!("GPU: forward, backward, merge and unmerge as worked out by hand");
        }
        Err(reason) => {
            let required = std::env::var("LORA_KERNELS_REQUIRE_GPU").is_ok_and(|value| value == "1");
            anyhow::ensure!(!required, "LORA_KERNELS_REQUIRE_GPU is set, but {reason}");
            println!("SKIPPED: nothing ran on a GPU: {reason}");
        }
    }
    Ok(())
}

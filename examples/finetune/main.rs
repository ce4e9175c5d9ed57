//! Fine-tunes a small network on real handwritten digits with LoRA, and checks what LoRA promises.
//!
//! `cargo run --release --example finetune -- --help` lists the options. Start reading at [`experiment::run`]; the
//! calls to this crate are in `training.rs` (forward, backward) and `network.rs` (inference, merge, switch).

mod adapter;
mod checks;
mod dataset;
mod dense;
mod device;
mod exact;
mod experiment;
mod loss;
mod matrix;
mod memory;
mod network;
mod optimizer;
mod options;
mod plot;
mod progress;
mod report;
mod training;

use anyhow::Result;
use clap::Parser;
use lora_kernels::cpu::Cpu;
use options::{DeviceChoice, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Chooses the device and runs the experiment on it. Whether every claim held.
fn run(options: &Options) -> Result<bool> {
    match (options.device, lora_kernels::cuda::availability()) {
        (DeviceChoice::Cpu, _) => experiment::run(&Cpu::new(), options),
        (_, Ok(())) => on_gpu(options),
        (DeviceChoice::Cuda, Err(reason)) => Err(reason.into()),
        (DeviceChoice::Auto, Err(reason)) => {
            eprintln!("computing on the CPU: {reason}");
            experiment::run(&Cpu::new(), options)
        }
    }
}

#[cfg(feature = "cuda")]
fn on_gpu(options: &Options) -> Result<bool> {
    experiment::run(&lora_kernels::cuda::Cuda::on_device(0)?, options)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Options) -> Result<bool> {
    anyhow::bail!("lora-kernels was built without its `cuda` feature")
}

//! `lora bench`.

#[cfg(feature = "cuda")]
mod cuda;
mod shape;
mod times;

use crate::console::Console;
use crate::device::DeviceChoice;
use crate::element_type::ElementType;
use crate::failure::Result;
use clap::{ArgAction, Args};
use half::{bf16, f16};
use lora_kernels::{DType, Element};
use lora_measure::record::document;
use lora_measure::{Case, Pass, Problem, Record, System, cpu, origin};
use serde_json::json;
pub use shape::LayerShape;
use std::time::Instant;
use times::table;

const PASSES: [Pass; 3] = [Pass::Forward, Pass::Backward, Pass::Merge];

/// A layer on a device, ready to be run any number of times.
trait Layer {
    /// The systems that this device has for a pass, the first being what the others are compared with.
    fn systems(&self, pass: Pass) -> &'static [System];

    /// Runs a system once, and returns when it has finished.
    fn run(&mut self, pass: Pass, system: System) -> Result<()>;
}

impl<T: Element> Layer for cpu::Layer<T> {
    fn systems(&self, pass: Pass) -> &'static [System] {
        match pass {
            Pass::Merge => &[System::Unfused, System::Fused],
            Pass::Forward | Pass::Backward | Pass::Step => &[System::Frozen, System::Unfused, System::Fused],
        }
    }

    fn run(&mut self, pass: Pass, system: System) -> Result<()> {
        Ok(cpu::Layer::run(self, system, pass, 0.0)?)
    }
}

/// Time forward, backward and merge of a layer on this machine
///
/// Compares the layer with a fused adapter to the frozen layer alone (what LoRA's overhead is measured against) and to
/// the usual separate passes. Every round times all of them one after the other; ratios are to the frozen layer of the
/// same round, and those of merge to the separate passes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora bench                                    a few layers of a 7B model
  lora bench --shape 2048x4096x14336 --rank 64  one layer: tokens × inputs × outputs
  lora bench --dtype f32 --rounds 30 --json > bench.json")]
pub struct Bench {
    /// A layer: tokens × inputs × outputs; repeat for several. Standard layers if not given
    #[arg(long, value_name = "MxKxN", action = ArgAction::Append)]
    shape: Vec<LayerShape>,
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// Element type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    dtype: ElementType,
    /// How often everything is timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where to compute: auto, cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Runs the command.
    pub fn run(&self, console: &Console) -> Result<()> {
        let shapes = if self.shape.is_empty() { LayerShape::standard() } else { self.shape.clone() };
        let gpu = self.device.gpu();
        let mut records = Vec::new();
        for shape in shapes {
            let problem = shape.problem(self.rank as usize);
            let mut layer = layer(problem, self.dtype.into(), gpu)?;
            self.measure(layer.as_mut(), problem, &mut records)?;
            if !self.json {
                console.result(&table(problem, self.dtype.into(), &records))?;
            }
        }
        if self.json {
            let origin = json!({
                "backend": if gpu.is_some() { "cuda" } else { "cpu" },
                "device": device_name(gpu),
                "threads": rayon::current_num_threads(),
                "version": env!("CARGO_PKG_VERSION"),
            });
            console.result(&format!("{:#}\n", document(origin, &records)))?;
        }
        Ok(())
    }

    /// Every round runs everything once, so that whatever slows the machine for a while slows all alike.
    fn measure(&self, layer: &mut dyn Layer, problem: Problem, records: &mut Vec<Record>) -> Result<()> {
        let cases: Vec<(Pass, System)> = PASSES
            .into_iter()
            .flat_map(|pass| layer.systems(pass).iter().map(move |&system| (pass, system)))
            .collect();
        let mut times = vec![Vec::new(); cases.len()];
        // The first round warms caches, pages and scratch memory.
        for round in 0..=self.rounds {
            for (&(pass, system), times) in cases.iter().zip(&mut times) {
                let start = Instant::now();
                layer.run(pass, system)?;
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        for (&(pass, system), own) in cases.iter().zip(&times) {
            let first = cases.iter().position(|(other, _)| *other == pass).unwrap_or(0);
            let case = Case { problem, dtype: self.dtype.into(), probability: 0.0, pass, system };
            records.push(Record::new(case, own, &times[first]));
        }
        Ok(())
    }
}

fn layer(problem: Problem, dtype: DType, gpu: Option<usize>) -> Result<Box<dyn Layer>> {
    match dtype {
        DType::F32 => typed_layer::<f32>(problem, gpu),
        DType::F16 => typed_layer::<f16>(problem, gpu),
        DType::Bf16 => typed_layer::<bf16>(problem, gpu),
    }
}

#[cfg(feature = "cuda")]
fn typed_layer<T: lora_measure::cuda::Scalar>(
    problem: Problem,
    gpu: Option<usize>,
) -> Result<Box<dyn Layer>> {
    match gpu {
        Some(ordinal) => Ok(Box::new(cuda::CudaLayer::<T>::new(problem, ordinal)?)),
        None => Ok(Box::new(cpu::Layer::<T>::new(problem))),
    }
}

#[cfg(not(feature = "cuda"))]
fn typed_layer<T: Element>(problem: Problem, gpu: Option<usize>) -> Result<Box<dyn Layer>> {
    if gpu.is_some() {
        lora_kernels::cuda::availability()?;
    }
    Ok(Box::new(cpu::Layer::<T>::new(problem)))
}

/// The processor's or the GPU's name.
fn device_name(gpu: Option<usize>) -> String {
    match gpu {
        #[cfg(feature = "cuda")]
        Some(ordinal) => cuda::device_name(ordinal).unwrap_or_else(|_| format!("GPU {ordinal}")),
        _ => origin::processor(),
    }
}

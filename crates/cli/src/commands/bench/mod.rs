//! `lora bench`.

#[cfg(feature = "cuda")]
mod cuda;
mod shape;
mod times;

use crate::arguments::Bench;
use crate::console::Console;
use crate::failure::Result;
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

pub fn run(arguments: &Bench, console: &Console) -> Result<()> {
    let shapes = if arguments.shape.is_empty() { LayerShape::standard() } else { arguments.shape.clone() };
    let gpu = arguments.device.gpu();
    let mut records = Vec::new();
    for shape in shapes {
        let problem = shape.problem(arguments.rank as usize);
        let mut layer = layer(problem, arguments.dtype.into(), gpu)?;
        measure(layer.as_mut(), problem, arguments, &mut records)?;
        if !arguments.json {
            console.result(&table(problem, arguments.dtype.into(), &records))?;
        }
    }
    if arguments.json {
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

fn layer(problem: Problem, dtype: DType, gpu: Option<usize>) -> Result<Box<dyn Layer>> {
    match dtype {
        DType::F32 => typed_layer::<f32>(problem, gpu),
        DType::F16 => typed_layer::<f16>(problem, gpu),
        DType::Bf16 => typed_layer::<bf16>(problem, gpu),
    }
}

#[cfg(feature = "cuda")]
fn typed_layer<T: Element + cuda::Product>(problem: Problem, gpu: Option<usize>) -> Result<Box<dyn Layer>> {
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

/// Every round runs everything once, so that whatever slows the machine for a while slows all alike.
fn measure(
    layer: &mut dyn Layer,
    problem: Problem,
    arguments: &Bench,
    records: &mut Vec<Record>,
) -> Result<()> {
    let cases: Vec<(Pass, System)> = PASSES
        .into_iter()
        .flat_map(|pass| layer.systems(pass).iter().map(move |&system| (pass, system)))
        .collect();
    let mut times = vec![Vec::new(); cases.len()];
    // The first round warms caches, pages and scratch memory.
    for round in 0..=arguments.rounds {
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
        let case = Case { problem, dtype: arguments.dtype.into(), probability: 0.0, pass, system };
        records.push(Record::new(case, own, &times[first]));
    }
    Ok(())
}

/// The processor's or the GPU's name.
fn device_name(gpu: Option<usize>) -> String {
    match gpu {
        #[cfg(feature = "cuda")]
        Some(ordinal) => cuda::device_name(ordinal).unwrap_or_else(|_| format!("GPU {ordinal}")),
        _ => origin::processor(),
    }
}

//! Rounds of all systems on a GPU.

use super::device::{Device, Scalar};
use super::layer::Layer;
use super::timer::Timer;
use anyhow::Result;
use lora_kernels::cuda::cudarc::driver::CudaGraph;
use lora_measure::{Pass, Problem, System};

/// Whether this system exists with this probability.
pub fn has(system: System, probability: f32) -> bool {
    Layer::<f32>::has(system, probability)
}

/// Times of forward and backward for each case in milliseconds, one of each a round.
///
/// A time is the mean over all sets of matrices, enqueued one after the other behind other work. With `graphs`, what is
/// enqueued is a captured graph.
pub fn times<T: Scalar>(
    device: &mut Device,
    timer: &mut Timer,
    problem: Problem,
    cases: &[(System, f32)],
    rounds: usize,
    graphs: bool,
) -> Result<Vec<[Vec<f64>; 2]>> {
    let mut layer = Layer::<T>::new(device, problem)?;
    let mut captured = Vec::new();
    for &(system, probability) in cases {
        // Before a capture everything must have run once: kernels are loaded, algorithms chosen, scratch memory is there.
        layer.round(device, system, Pass::Forward, probability)?;
        layer.round(device, system, Pass::Backward, probability)?;
    }
    if graphs {
        for &(system, probability) in cases {
            captured.push([
                capture(&mut layer, device, system, Pass::Forward, probability)?,
                capture(&mut layer, device, system, Pass::Backward, probability)?,
            ]);
        }
    }
    let mut times = vec![[Vec::new(), Vec::new()]; cases.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (case, &(system, probability)) in cases.iter().enumerate() {
            let passes = [Pass::Forward, Pass::Backward];
            let milliseconds = timer.parts(passes.len(), |index| match captured.get(case) {
                Some(graphs) => Ok(graphs[index].launch()?),
                None => layer.round(device, system, passes[index], probability),
            })?;
            if round > 0 {
                for (times, milliseconds) in times[case].iter_mut().zip(milliseconds) {
                    times.push(milliseconds / layer.sets().len() as f64);
                }
            }
        }
    }
    Ok(times)
}

fn capture<T: Scalar>(
    layer: &mut Layer<T>,
    device: &mut Device,
    system: System,
    pass: Pass,
    probability: f32,
) -> Result<CudaGraph> {
    let stream = device.stream.clone();
    Device::capture(&stream, || layer.round(device, system, pass, probability))
}

//! Rounds of all systems on a GPU.

use super::device::{Device, Scalar};
use super::layer::Layer;
use anyhow::Result;
use lora_kernels::cuda::cudarc::driver::CudaGraph;
use lora_measure::{Pass, Problem, System};

/// Whether this system exists with this probability.
pub fn has(system: System, probability: f32) -> bool {
    Layer::<f32>::has(system, probability)
}

/// Times of forward and backward for each case in milliseconds, one of each a round.
///
/// A time is the mean over all sets of matrices, enqueued one after the other, so that the GPU does not wait for the
/// host to start. With `graphs`, what is enqueued is a captured graph.
pub fn times<T: Scalar>(
    device: &mut Device,
    problem: Problem,
    cases: &[(System, f32)],
    rounds: usize,
    graphs: bool,
) -> Result<Vec<[Vec<f64>; 2]>> {
    let mut layer = Layer::<T>::new(device, problem)?;
    let mut captured = Vec::new();
    for &(system, probability) in cases {
        // Before a capture everything must have run once: kernels are loaded, algorithms chosen, scratch memory is there.
        layer.round(system, Pass::Forward, probability);
        layer.round(system, Pass::Backward, probability);
    }
    if graphs {
        for &(system, probability) in cases {
            captured.push([
                capture(&mut layer, system, Pass::Forward, probability)?,
                capture(&mut layer, system, Pass::Backward, probability)?,
            ]);
        }
    }
    let mut times = vec![[Vec::new(), Vec::new()]; cases.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (case, &(system, probability)) in cases.iter().enumerate() {
            let mut marks = vec![layer.device().mark()?];
            for (index, pass) in [Pass::Forward, Pass::Backward].into_iter().enumerate() {
                match captured.get(case) {
                    Some(graphs) => graphs[index].launch()?,
                    None => layer.round(system, pass, probability),
                }
                marks.push(layer.device().mark()?);
            }
            for (index, marks) in marks.windows(2).enumerate() {
                let milliseconds = f64::from(marks[0].elapsed_ms(&marks[1])?) / layer.sets() as f64;
                if round > 0 {
                    times[case][index].push(milliseconds);
                }
            }
        }
    }
    Ok(times)
}

fn capture<T: Scalar>(
    layer: &mut Layer<'_, T>,
    system: System,
    pass: Pass,
    probability: f32,
) -> Result<CudaGraph> {
    let stream = layer.stream();
    Device::capture(&stream, || layer.round(system, pass, probability))
}

//! A layer on a GPU.

use super::Layer;
use crate::failure::{Failure, Result};
use lora_measure::cuda::{self, Device, Scalar};
use lora_measure::{Pass, Problem, System};

/// A layer, and the GPU that it is on.
pub struct CudaLayer<T> {
    device: Device,
    layer: cuda::Layer<T>,
}

impl<T: Scalar> CudaLayer<T> {
    pub fn new(problem: Problem, ordinal: usize) -> Result<Self> {
        let device = Device::on(ordinal).map_err(failed)?;
        Ok(CudaLayer { layer: cuda::Layer::new(&device, problem).map_err(failed)?, device })
    }
}

impl<T: Scalar> Layer for CudaLayer<T> {
    fn systems(&self, pass: Pass) -> &'static [System] {
        match pass {
            Pass::Merge => &[System::Unfused, System::Accumulated, System::Fused],
            Pass::Forward | Pass::Backward | Pass::Step => {
                &[System::Frozen, System::Unfused, System::Accumulated, System::Fused]
            }
        }
    }

    fn run(&mut self, pass: Pass, system: System) -> Result<()> {
        self.layer.run(&mut self.device, system, pass, 0.0).map_err(failed)?;
        self.device.stream.synchronize().map_err(|error| failed(error.into()))
    }
}

/// The name that the driver gives a GPU.
pub fn device_name(ordinal: usize) -> Result<String> {
    Ok(Device::on(ordinal).map_err(failed)?.name)
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::Failed(format!("{error:#}"))
}

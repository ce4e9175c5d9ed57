//! Where weights are computed.

use crate::failure::Result;
use lora_kernels::cpu::Cpu;
use lora_peft::HostBackend;
#[cfg(feature = "cuda")]
use lora_peft::staged::Staged;
use std::str::FromStr;

/// What `--device` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if operations can run on one, otherwise the CPU.
    Auto,
    Cpu,
    /// A GPU, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Cpu),
            (_, Some(Ok(ordinal))) => Ok(DeviceChoice::Cuda(ordinal)),
            _ => Err("expected auto, cpu or cuda:N".into()),
        }
    }
}

impl DeviceChoice {
    /// The choice made: the CPU if `None`, otherwise a GPU.
    pub fn gpu(self) -> Option<usize> {
        match self {
            DeviceChoice::Cpu => None,
            DeviceChoice::Cuda(ordinal) => Some(ordinal),
            DeviceChoice::Auto => lora_kernels::cuda::availability().is_ok().then_some(0),
        }
    }
}

/// A backend for weights in host memory, and its name.
pub fn open(choice: DeviceChoice) -> Result<(Box<HostBackend<'static>>, String)> {
    match choice.gpu() {
        None => Ok((Box::new(Cpu::new()), "the CPU".into())),
        Some(ordinal) => gpu(ordinal),
    }
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<(Box<HostBackend<'static>>, String)> {
    Ok((Box::new(Staged::on_gpu(ordinal)?), format!("GPU {ordinal}")))
}

#[cfg(not(feature = "cuda"))]
fn gpu(_ordinal: usize) -> Result<(Box<HostBackend<'static>>, String)> {
    Err(lora_kernels::cuda::availability().map_or_else(Into::into, |()| {
        crate::failure::Failure::Failed("this program was built without GPU support".into())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_documented() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }
}

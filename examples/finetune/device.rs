//! Devices and their names.

use lora_kernels::Device;
use lora_kernels::cpu::Cpu;
#[cfg(feature = "cuda")]
use lora_kernels::cuda::Cuda;

/// A device that tells people what it is.
pub trait NamedDevice: Device {
    /// Its name.
    fn name(&self) -> String;
}

impl NamedDevice for Cpu {
    fn name(&self) -> String {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        format!("CPU ({threads} threads)")
    }
}

#[cfg(feature = "cuda")]
impl NamedDevice for Cuda {
    fn name(&self) -> String {
        self.stream().context().name().unwrap_or_else(|_| "GPU without a name".into())
    }
}

//! The emulated device as the library's own tests see devices.

use lora_emulator::{EmulatedCuda, Emulator, KernelLibrary, Schedule};
use lora_kernels::cuda::F32Math;
use lora_oracle::device::{Roundings, Size, TestDevice, Tested};
use std::sync::Arc;

/// The CUDA backend on the emulator.
pub struct Emulated;

impl TestDevice for Emulated {
    const NAME: &'static str = "emulated CUDA backend";
    const SIZE: Size = Size::Small;
    const ROUNDINGS: Roundings = Roundings { adapters: true, partial_sums: true };
    type Device = EmulatedCuda;

    fn open() -> Result<EmulatedCuda, String> {
        EmulatedCuda::new().map_err(|error| error.to_string())
    }
}

/// The CUDA backend on the emulator, with any kernels.
pub struct Device(Tested<Emulated>);

impl Device {
    pub fn new(library: Arc<KernelLibrary>) -> Self {
        Device(Tested::new(EmulatedCuda::on(Emulator::with_library(library))))
    }

    pub fn tested(&self) -> &Tested<Emulated> {
        &self.0
    }

    pub fn cuda(&self) -> &EmulatedCuda {
        &self.0
    }

    pub fn emulator(&mut self) -> &mut Emulator {
        self.0.emulator_mut()
    }

    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.emulator().set_schedule(schedule);
    }

    pub fn set_f32_math(&mut self, math: F32Math) {
        self.0.engine_mut().set_f32_math(math);
    }

    /// The names of all kernels that ran since the last call.
    pub fn take_launched(&mut self) -> Vec<String> {
        let emulator = self.emulator();
        let names = emulator.records().iter().map(|record| record.name.clone()).collect();
        emulator.clear_records();
        names
    }
}

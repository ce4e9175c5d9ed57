//! The CUDA backend on the emulator.

use crate::error::Result;
use crate::machine::emulator::{Emulator, available};
use lora_kernels::Backend;
use lora_kernels::cuda::engine::{Engine, RawCodes};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{BackwardSiblings, Delta, ForwardSiblings, MergeReport, WeightUpdate};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{DType, Element};

/// The CUDA backend's own planner, launch parameters and kernels, on a device that exists in this process only.
///
/// Addresses need not be trusted here: the emulator checks each access against its live buffers.
#[derive(Debug)]
pub struct EmulatedCuda {
    engine: Engine<Emulator>,
}

impl EmulatedCuda {
    /// A backend on a new device.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) if there was no C++ compiler when this crate was built.
    pub fn new() -> Result<Self> {
        Ok(Self::on(Emulator::new()?))
    }

    /// A backend on a device.
    pub fn on(emulator: Emulator) -> Self {
        EmulatedCuda { engine: Engine::new(emulator) }
    }

    /// A backend for a test, or `None` after a loud message that the test is skipped.
    ///
    /// # Panics
    /// The emulator is unavailable and the environment says `LORA_KERNELS_REQUIRE_EMULATOR=1`.
    pub fn for_test(test: &str) -> Option<Self> {
        available(test, Self::new())
    }

    /// The planner and its executor.
    pub fn engine_mut(&mut self) -> &mut Engine<Emulator> {
        &mut self.engine
    }

    /// The device.
    pub fn emulator(&self) -> &Emulator {
        self.engine.executor()
    }

    /// The device, to change its schedule or look at its records.
    pub fn emulator_mut(&mut self) -> &mut Emulator {
        self.engine.executor_mut()
    }

    /// A buffer with these elements.
    ///
    /// # Errors
    /// Never, unless the emulator has a fault of its own.
    pub fn upload<T: Element>(&mut self, name: &str, elements: &[T]) -> lora_kernels::Result<RawBuffer> {
        let buffer = self.allocate(name, T::DTYPE, elements.len());
        self.emulator_mut().write(buffer.address, bytemuck::cast_slice(elements))?;
        Ok(buffer)
    }

    /// A buffer that nobody has written: reading it is a fault.
    pub fn allocate(&mut self, name: &str, dtype: DType, len: usize) -> RawBuffer {
        let address = self.emulator_mut().allocate(name, len * dtype.size());
        RawBuffer { address, len, dtype }
    }

    /// The elements of a buffer.
    ///
    /// # Errors
    /// The buffer is not one of this device.
    pub fn download<T: Element>(&mut self, buffer: RawBuffer) -> lora_kernels::Result<Vec<T>> {
        let mut elements = vec![T::zeroed(); buffer.len];
        self.emulator_mut().read(buffer.address, bytemuck::cast_slice_mut(&mut elements))?;
        Ok(elements)
    }

    /// A restore record of this device, from one of the host.
    ///
    /// # Errors
    /// Never, unless the emulator has a fault of its own.
    pub fn upload_record(
        &mut self,
        record: &RestoreRecord<Vec<u8>>,
    ) -> lora_kernels::Result<RestoreRecord<RawCodes>> {
        let Some(recorded) = record.recorded() else {
            return Ok(RestoreRecord::new(record.method()));
        };
        let codes = self.allocate_codes(record.codes().len());
        self.emulator_mut().write(codes.address, record.codes())?;
        Ok(RestoreRecord::from_parts(record.method(), *recorded, codes, record.escapes().to_vec()))
    }

    /// A restore record of the host, from one of this device.
    ///
    /// # Errors
    /// The codes are not in this device's memory.
    pub fn download_record(
        &mut self,
        record: &RestoreRecord<RawCodes>,
    ) -> lora_kernels::Result<RestoreRecord<Vec<u8>>> {
        let Some(recorded) = record.recorded() else {
            return Ok(RestoreRecord::new(record.method()));
        };
        let mut codes = vec![0; record.codes().bytes as usize];
        self.emulator_mut().read(record.codes().address, &mut codes)?;
        Ok(RestoreRecord::from_parts(record.method(), *recorded, codes, record.escapes().to_vec()))
    }

    fn allocate_codes(&mut self, bytes: usize) -> RawCodes {
        let address = self.emulator_mut().allocate("restore codes", bytes);
        RawCodes { address, bytes: bytes as u64 }
    }
}

impl Backend for EmulatedCuda {
    type Memory = Raw;
    type Codes = RawCodes;

    fn forward_siblings(&mut self, op: ForwardSiblings<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: the emulator checks every address against its live buffers when it is used; a wrong one is an error.
        unsafe { self.engine.forward_siblings(op) }
    }

    fn backward_siblings(&mut self, op: BackwardSiblings<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine.backward_siblings(op) }
    }

    /// An empty record gets memory for its codes here.
    fn update_weights(
        &mut self,
        mut op: WeightUpdate<'_, Raw, RawCodes>,
    ) -> lora_kernels::Result<Option<MergeReport>> {
        let (shape, dtype) = (op.w.layout().shape(), op.w.dtype());
        if let Some(record) = op.record.as_deref_mut()
            && *record.codes() == RawCodes::default()
        {
            let bytes = RestoreRecord::<RawCodes>::code_bytes(record.method(), shape, dtype);
            record.replace_codes(self.allocate_codes(bytes));
        }
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine.update_weights(op) }
    }

    fn delta(&mut self, op: Delta<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine.delta(op) }
    }
}

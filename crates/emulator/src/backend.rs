//! The CUDA backend on the emulator.

use crate::error::Result;
use crate::machine::emulator::{Emulator, available};
use lora_kernels::cuda::engine::{Engine, RawCodes};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{HostMut, HostRef, Raw, RawBuffer};
use lora_kernels::ops::{
    BackwardSiblings, Conversion, Delta, ForwardSiblings, Frozen, MergeReport, WeightUpdate,
};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Backend, Backward, DType, Device, Element, Forward};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The CUDA backend's own planner, launch parameters and kernels, on a device that exists in this process only.
///
/// Addresses need not be trusted here: the emulator checks each access against its live buffers.
#[derive(Debug)]
pub struct EmulatedCuda {
    engine: Mutex<Engine<Emulator>>,
    dropped: Dropped,
}

/// The addresses of buffers that were dropped and are yet to be freed.
type Dropped = Arc<Mutex<Vec<u64>>>;

/// A buffer of an emulated device.
#[derive(Debug)]
pub struct EmulatedBuffer {
    raw: RawBuffer,
    dropped: Dropped,
}

impl EmulatedBuffer {
    /// Where it lies.
    pub fn raw(&self) -> RawBuffer {
        self.raw
    }
}

impl Drop for EmulatedBuffer {
    fn drop(&mut self) {
        locked(&self.dropped).push(self.raw.address);
    }
}

/// The device of a backend, while no operation runs.
#[derive(Debug)]
pub struct LockedEmulator<'a>(MutexGuard<'a, Engine<Emulator>>);

impl Deref for LockedEmulator<'_> {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        self.0.executor()
    }
}

/// An operation that panicked left nothing behind that a later one relies on.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free(dropped: &Dropped, emulator: &mut Emulator) {
    for address in locked(dropped).drain(..) {
        emulator.free(address);
    }
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
        EmulatedCuda { engine: Mutex::new(Engine::new(emulator)), dropped: Dropped::default() }
    }

    /// A backend for a test, or `None` after a loud message that the test is skipped.
    ///
    /// # Panics
    /// The emulator is unavailable and the environment says `LORA_KERNELS_REQUIRE_EMULATOR=1`.
    pub fn for_test(test: &str) -> Option<Self> {
        available(test, Self::new())
    }

    fn engine(&self) -> MutexGuard<'_, Engine<Emulator>> {
        let mut engine = locked(&self.engine);
        free(&self.dropped, engine.executor_mut());
        engine
    }

    /// The planner and its executor.
    pub fn engine_mut(&mut self) -> &mut Engine<Emulator> {
        let engine = self.engine.get_mut().unwrap_or_else(PoisonError::into_inner);
        free(&self.dropped, engine.executor_mut());
        engine
    }

    /// The device, to look at its records. No operation runs meanwhile.
    pub fn emulator(&self) -> LockedEmulator<'_> {
        LockedEmulator(self.engine())
    }

    /// The device, to change its schedule.
    pub fn emulator_mut(&mut self) -> &mut Emulator {
        self.engine_mut().executor_mut()
    }

    /// A buffer of a name with these elements.
    ///
    /// # Errors
    /// Never, unless the emulator has a fault of its own.
    pub fn upload_named<T: Element>(&self, name: &str, elements: &[T]) -> lora_kernels::Result<RawBuffer> {
        let buffer = self.allocate_named(name, T::DTYPE, elements.len());
        self.engine().executor_mut().write(buffer.address, bytemuck::cast_slice(elements))?;
        Ok(buffer)
    }

    /// A buffer of a name that nobody has written: reading it is a fault.
    pub fn allocate_named(&self, name: &str, dtype: DType, len: usize) -> RawBuffer {
        let address = self.engine().executor_mut().allocate(name, len * dtype.size());
        RawBuffer { address, len, dtype }
    }

    /// The elements of a buffer.
    ///
    /// # Errors
    /// The buffer is not one of this device.
    pub fn read<T: Element>(&self, buffer: RawBuffer) -> lora_kernels::Result<Vec<T>> {
        let mut elements = vec![T::zeroed(); buffer.len];
        self.engine().executor_mut().read(buffer.address, bytemuck::cast_slice_mut(&mut elements))?;
        Ok(elements)
    }

    fn allocate_codes(&self, bytes: usize) -> RawCodes {
        let address = self.engine().executor_mut().allocate("restore codes", bytes);
        RawCodes { address, bytes: bytes as u64 }
    }
}

impl Backend for EmulatedCuda {
    type Memory = Raw;
    type Codes = RawCodes;

    fn forward(&self, op: Forward<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine().forward(op) }
    }

    fn backward(&self, op: Backward<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine().backward(op) }
    }

    fn forward_siblings(&self, op: ForwardSiblings<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: the emulator checks every address against its live buffers when it is used; a wrong one is an error.
        unsafe { self.engine().forward_siblings(op) }
    }

    fn backward_siblings(&self, op: BackwardSiblings<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine().backward_siblings(op) }
    }

    fn frozen(&self, op: Frozen<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine().frozen(op) }
    }

    /// An empty record gets memory for its codes here.
    fn update_weights(
        &self,
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
        unsafe { self.engine().update_weights(op) }
    }

    fn delta(&self, op: Delta<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine().delta(op) }
    }

    fn convert(&self, op: Conversion<'_, Raw>) -> lora_kernels::Result<()> {
        // SAFETY: as in `forward_siblings`.
        unsafe { self.engine().convert(op) }
    }
}

impl Device for EmulatedCuda {
    type Buffer = EmulatedBuffer;

    fn allocate(&self, dtype: DType, elements: usize) -> lora_kernels::Result<EmulatedBuffer> {
        let raw = self.allocate_named("buffer", dtype, elements);
        self.engine().executor_mut().write(raw.address, &vec![0; elements * dtype.size()])?;
        Ok(EmulatedBuffer { raw, dropped: self.dropped.clone() })
    }

    fn upload(&self, elements: HostRef<'_>) -> lora_kernels::Result<EmulatedBuffer> {
        let mut buffer = self.allocate(elements.dtype(), elements.len())?;
        self.write(&mut buffer, 0, elements)?;
        Ok(buffer)
    }

    fn write(
        &self,
        buffer: &mut EmulatedBuffer,
        first: usize,
        elements: HostRef<'_>,
    ) -> lora_kernels::Result<()> {
        Self::check_copy(buffer, first, elements.dtype(), elements.len())?;
        let address = address(buffer, first);
        self.engine().executor_mut().write(address, elements.bytes()?)
    }

    fn download(
        &self,
        buffer: &EmulatedBuffer,
        first: usize,
        elements: HostMut<'_>,
    ) -> lora_kernels::Result<()> {
        Self::check_copy(buffer, first, elements.dtype(), elements.len())?;
        self.engine().executor_mut().read(address(buffer, first), elements.bytes()?)
    }

    fn whole(buffer: &EmulatedBuffer) -> RawBuffer {
        buffer.raw
    }

    fn whole_mut(buffer: &mut EmulatedBuffer) -> RawBuffer {
        buffer.raw
    }

    fn upload_record(&self, record: &RestoreRecord) -> lora_kernels::Result<RestoreRecord<RawCodes>> {
        let Some(recorded) = record.recorded() else {
            return Ok(RestoreRecord::new(record.method()));
        };
        let codes = self.allocate_codes(record.codes().len());
        self.engine().executor_mut().write(codes.address, record.codes())?;
        Ok(RestoreRecord::from_parts(record.method(), *recorded, codes, record.escapes().to_vec()))
    }

    fn download_record(&self, record: &RestoreRecord<RawCodes>) -> lora_kernels::Result<RestoreRecord> {
        let Some(recorded) = record.recorded() else {
            return Ok(RestoreRecord::new(record.method()));
        };
        let mut codes = vec![0; record.codes().bytes as usize];
        self.engine().executor_mut().read(record.codes().address, &mut codes)?;
        Ok(RestoreRecord::from_parts(record.method(), *recorded, codes, record.escapes().to_vec()))
    }
}

fn address(buffer: &EmulatedBuffer, first: usize) -> u64 {
    buffer.raw.address + (first * buffer.raw.dtype.size()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_can_share_a_backend() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<EmulatedCuda>();
    }

    #[test]
    fn dropped_buffers_are_freed_and_others_are_not() {
        let Some(mut cuda) = EmulatedCuda::for_test("dropped_buffers_are_freed_and_others_are_not") else {
            return;
        };
        let kept = cuda.upload(HostRef::new(&[1.0f32, 2.0])).expect("little");
        let dropped = cuda.allocate(DType::F32, 2).expect("little");
        let address = dropped.raw().address;
        drop(dropped);
        assert!(!cuda.emulator_mut().free(address), "not freed");
        let mut values = [0.0f32; 2];
        cuda.download(&kept, 0, HostMut::new(&mut values)).expect("it is alive");
        assert_eq!(values, [1.0, 2.0]);
    }
}

//! The CUDA backend on the emulator: the real planner, launch parameters and kernels, without a GPU.

use super::device::{Roundings, Size, TestDevice};
use super::matrix::Data;
use lora_emulator::Emulator;
use lora_kernels::cuda::engine::{Engine, RawCodes};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{BackwardSiblings, ForwardSiblings};
use lora_kernels::{Backend, Delta, Layout, MatrixMut, MatrixRef, MergeReport, Result, WeightUpdate};

/// The engine of the CUDA backend over the emulator. Its buffers live as long as it does.
pub struct Emulated(Engine<Emulator>);

impl Backend for Emulated {
    type Memory = Raw;
    type Codes = RawCodes;

    fn forward_siblings(&mut self, op: ForwardSiblings<'_, Raw>) -> Result<()> {
        // SAFETY: views are of buffers that `upload` allocated, each argument in its own.
        unsafe { self.0.forward_siblings(op) }
    }

    fn backward_siblings(&mut self, op: BackwardSiblings<'_, Raw>) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.0.backward_siblings(op) }
    }

    fn update_weights(&mut self, op: WeightUpdate<'_, Raw, RawCodes>) -> Result<Option<MergeReport>> {
        // SAFETY: as above.
        unsafe { self.0.update_weights(op) }
    }

    fn delta(&mut self, op: Delta<'_, Raw>) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.0.delta(op) }
    }
}

impl TestDevice for Emulated {
    const NAME: &'static str = "emulated CUDA backend";
    const SIZE: Size = Size::Small;
    const ROUNDINGS: Roundings = Roundings { adapters: true, partial_sums: true };
    type Memory = Raw;
    type Codes = RawCodes;
    type Backend = Emulated;
    /// All of a buffer, and where views of it start.
    type Buffer = (RawBuffer, usize);

    fn open() -> Result<Self, String> {
        Emulator::new().map(|emulator| Emulated(Engine::new(emulator))).map_err(|error| error.to_string())
    }

    fn backend(&mut self) -> &mut Self {
        self
    }

    fn upload(&mut self, data: &Data, offset: usize) -> (RawBuffer, usize) {
        let emulator = self.0.executor_mut();
        let address = emulator.allocate("argument", data.bytes().len());
        emulator.write(address, data.bytes()).expect("the buffer was just allocated");
        (RawBuffer { address, len: data.len(), dtype: data.dtype() }, offset)
    }

    fn download(&mut self, &(buffer, _): &(RawBuffer, usize)) -> Data {
        let mut data = Data::poisoned(buffer.dtype, buffer.len);
        self.0.executor_mut().read(buffer.address, data.bytes_mut()).expect("the buffer is allocated");
        data
    }

    fn free(&mut self, (buffer, _): (RawBuffer, usize)) {
        assert!(self.0.executor_mut().free(buffer.address), "the buffer was allocated");
    }

    fn view(buffer: &(RawBuffer, usize), layout: Layout) -> Result<MatrixRef<'_, Raw>> {
        MatrixRef::from_buffer(placed(buffer), layout)
    }

    fn view_mut(buffer: &mut (RawBuffer, usize), layout: Layout) -> Result<MatrixMut<'_, Raw>> {
        MatrixMut::from_buffer(placed(buffer), layout)
    }
}

/// The part of the buffer that views start with.
fn placed(&(buffer, offset): &(RawBuffer, usize)) -> RawBuffer {
    let address = buffer.address + (offset * buffer.dtype.size()) as u64;
    RawBuffer { address, len: buffer.len - offset, dtype: buffer.dtype }
}

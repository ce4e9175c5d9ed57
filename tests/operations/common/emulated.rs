//! The CUDA backend on the emulator: the real planner, launch parameters and kernels, without a GPU.

use super::device::{Roundings, Size, TestDevice};
use super::matrix::Data;
use lora_emulator::EmulatedCuda;
use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Layout, MatrixMut, MatrixRef, Result};

/// The CUDA backend over the emulator.
pub struct Emulated(EmulatedCuda);

impl TestDevice for Emulated {
    const NAME: &'static str = "emulated CUDA backend";
    const SIZE: Size = Size::Small;
    const ROUNDINGS: Roundings = Roundings { adapters: true, partial_sums: true };
    type Memory = Raw;
    type Codes = RawCodes;
    type Backend = EmulatedCuda;
    /// All of a buffer, and where views of it start.
    type Buffer = (RawBuffer, usize);

    fn open() -> Result<Self, String> {
        EmulatedCuda::new().map(Emulated).map_err(|error| error.to_string())
    }

    fn backend(&mut self) -> &mut EmulatedCuda {
        &mut self.0
    }

    fn upload(&mut self, data: &Data, offset: usize) -> (RawBuffer, usize) {
        let buffer = self.0.allocate("argument", data.dtype(), data.len());
        let written = self.0.emulator_mut().write(buffer.address, data.bytes());
        written.expect("the buffer was just allocated");
        (buffer, offset)
    }

    fn download(&mut self, &(buffer, _): &(RawBuffer, usize)) -> Data {
        let mut data = Data::poisoned(buffer.dtype, buffer.len);
        self.0.emulator_mut().read(buffer.address, data.bytes_mut()).expect("the buffer is allocated");
        data
    }

    fn free(&mut self, (buffer, _): (RawBuffer, usize)) {
        assert!(self.0.emulator_mut().free(buffer.address), "the buffer was allocated");
    }

    fn upload_record(&mut self, record: &RestoreRecord) -> RestoreRecord<RawCodes> {
        self.0.upload_record(record).expect("the codes are allocated")
    }

    fn download_record(&mut self, record: &RestoreRecord<RawCodes>) -> RestoreRecord {
        self.0.download_record(record).expect("the codes are allocated")
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

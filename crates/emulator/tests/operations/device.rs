//! The emulated device as the library's own tests see devices.

use super::common::device::{Roundings, Size, TestDevice};
use super::common::matrix::Data;
use lora_emulator::{EmulatedCuda, Emulator, KernelLibrary, Schedule};
use lora_kernels::cuda::F32Math;
use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Layout, MatrixMut, MatrixRef, Result};
use std::sync::Arc;

/// The CUDA backend on the emulator, with any kernels.
pub struct Device(EmulatedCuda);

impl Device {
    pub fn new(library: Arc<KernelLibrary>) -> Self {
        Device(EmulatedCuda::on(Emulator::with_library(library)))
    }

    pub fn emulator(&mut self) -> &mut Emulator {
        self.0.emulator_mut()
    }

    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.0.emulator_mut().set_schedule(schedule);
    }

    pub fn set_f32_math(&mut self, math: F32Math) {
        self.0.engine_mut().set_f32_math(math);
    }

    /// The names of all kernels that ran since the last call.
    pub fn take_launched(&mut self) -> Vec<String> {
        let names = self.0.emulator().records().iter().map(|record| record.name.clone()).collect();
        self.0.emulator_mut().clear_records();
        names
    }
}

/// All of a buffer, and where views of it start.
type Buffer = (RawBuffer, usize);

impl TestDevice for Device {
    const NAME: &'static str = "emulated CUDA backend";
    const SIZE: Size = Size::Small;
    const ROUNDINGS: Roundings = Roundings { adapters: true, partial_sums: true };
    type Memory = Raw;
    type Codes = RawCodes;
    type Backend = EmulatedCuda;
    type Buffer = Buffer;

    fn open() -> std::result::Result<Self, String> {
        EmulatedCuda::new().map(Device).map_err(|error| error.to_string())
    }

    fn backend(&mut self) -> &mut EmulatedCuda {
        &mut self.0
    }

    fn upload(&mut self, data: &Data, offset: usize) -> Buffer {
        let buffer = self.0.allocate("argument", data.dtype(), data.len());
        self.0.emulator_mut().write(buffer.address, data.bytes()).expect("the buffer was just allocated");
        (buffer, offset)
    }

    fn download(&mut self, &(buffer, _): &Buffer) -> Data {
        let mut data = Data::poisoned(buffer.dtype, buffer.len);
        self.0.emulator_mut().read(buffer.address, data.bytes_mut()).expect("the buffer is allocated");
        data
    }

    fn free(&mut self, (buffer, _): Buffer) {
        assert!(self.0.emulator_mut().free(buffer.address), "the buffer was allocated");
    }

    fn upload_record(&mut self, record: &RestoreRecord) -> RestoreRecord<RawCodes> {
        self.0.upload_record(record).expect("the codes are allocated")
    }

    fn download_record(&mut self, record: &RestoreRecord<RawCodes>) -> RestoreRecord {
        self.0.download_record(record).expect("the codes are allocated")
    }

    fn view(buffer: &Buffer, layout: Layout) -> Result<MatrixRef<'_, Raw>> {
        MatrixRef::from_buffer(placed(buffer), layout)
    }

    fn view_mut(buffer: &mut Buffer, layout: Layout) -> Result<MatrixMut<'_, Raw>> {
        MatrixMut::from_buffer(placed(buffer), layout)
    }
}

/// The part of the buffer that views start with.
fn placed(&(buffer, offset): &Buffer) -> RawBuffer {
    let address = buffer.address + (offset * buffer.dtype.size()) as u64;
    RawBuffer { address, len: buffer.len - offset, dtype: buffer.dtype }
}

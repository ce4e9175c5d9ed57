//! The devices that every test body runs on.

use super::matrix::Data;
use lora_kernels::memory::{Host, HostMut, HostRef, Memory};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Backend, Layout, MatrixMut, MatrixRef, Result, cpu};

/// How large the problems of a test may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// For an emulated device.
    Small,
    /// For a real one.
    Full,
}

/// Roundings beyond those of S, dS and the result that a backend documents.
#[derive(Clone, Copy, Debug)]
pub struct Roundings {
    /// `f32` adapters are rounded to a 16-bit layer's type where they enter its products.
    pub adapters: bool,
    /// S·B, or the adapters' part of dX, is written in the layer's type before the frozen product is added to it.
    pub partial_sums: bool,
}

/// A backend with its memory.
pub trait TestDevice: Sized {
    /// Its name in failures.
    const NAME: &'static str;
    const SIZE: Size;
    const ROUNDINGS: Roundings;
    type Memory: Memory;
    type Codes: Default;
    type Backend: Backend<Memory = Self::Memory, Codes = Self::Codes>;
    /// A buffer in the device's memory.
    type Buffer;

    /// The device, or why there is none here.
    fn open() -> Result<Self, String>;
    fn backend(&mut self) -> &mut Self::Backend;
    /// Copies data to the device. Views of the buffer will start at element `offset`.
    fn upload(&mut self, data: &Data, offset: usize) -> Self::Buffer;
    /// Copies the whole buffer back.
    fn download(&mut self, buffer: &Self::Buffer) -> Data;
    fn free(&mut self, buffer: Self::Buffer);
    /// Copies a record's codes to the device.
    fn upload_record(&mut self, record: &RestoreRecord) -> RestoreRecord<Self::Codes>;
    /// Copies a record's codes back.
    fn download_record(&mut self, record: &RestoreRecord<Self::Codes>) -> RestoreRecord;
    fn view(buffer: &Self::Buffer, layout: Layout) -> Result<MatrixRef<'_, Self::Memory>>;
    fn view_mut(buffer: &mut Self::Buffer, layout: Layout) -> Result<MatrixMut<'_, Self::Memory>>;
}

/// The CPU backend.
pub struct Cpu(cpu::Cpu);

impl TestDevice for Cpu {
    const NAME: &'static str = "cpu";
    const SIZE: Size = Size::Full;
    const ROUNDINGS: Roundings = Roundings { adapters: false, partial_sums: false };
    type Memory = Host;
    type Codes = Vec<u8>;
    type Backend = cpu::Cpu;
    /// The data, and where views of it start.
    type Buffer = (Data, usize);

    fn open() -> Result<Self, String> {
        Ok(Cpu(cpu::Cpu::new()))
    }

    fn backend(&mut self) -> &mut cpu::Cpu {
        &mut self.0
    }

    fn upload(&mut self, data: &Data, offset: usize) -> (Data, usize) {
        (data.clone(), offset)
    }

    fn download(&mut self, (data, _): &(Data, usize)) -> Data {
        data.clone()
    }

    /// Dropping is enough.
    fn free(&mut self, _buffer: (Data, usize)) {}

    fn upload_record(&mut self, record: &RestoreRecord) -> RestoreRecord {
        record.clone()
    }

    fn download_record(&mut self, record: &RestoreRecord) -> RestoreRecord {
        record.clone()
    }

    fn view((data, offset): &(Data, usize), layout: Layout) -> Result<MatrixRef<'_>> {
        let buffer = match data {
            Data::F32(values) => HostRef::new(&values[*offset..]),
            Data::F16(values) => HostRef::new(&values[*offset..]),
            Data::Bf16(values) => HostRef::new(&values[*offset..]),
        };
        MatrixRef::from_buffer(buffer, layout)
    }

    fn view_mut((data, offset): &mut (Data, usize), layout: Layout) -> Result<MatrixMut<'_>> {
        let buffer = match data {
            Data::F32(values) => HostMut::new(&mut values[*offset..]),
            Data::F16(values) => HostMut::new(&mut values[*offset..]),
            Data::Bf16(values) => HostMut::new(&mut values[*offset..]),
        };
        MatrixMut::from_buffer(buffer, layout)
    }
}

/// Runs `body` on the device; where there is none, says so once and loudly, or fails if `require` is set to 1.
pub fn on<D: TestDevice>(require: &str, body: impl FnOnce(&mut D)) {
    match D::open() {
        Ok(mut device) => body(&mut device),
        Err(reason) => {
            let required = std::env::var(require).is_ok_and(|value| value == "1");
            assert!(!required, "{require}=1, but there is no {}: {reason}", D::NAME);
            announce_skip(D::NAME, require, &reason);
        }
    }
}

/// The test harness swallows what passing tests print, but not what goes straight to standard error.
fn announce_skip(device: &'static str, require: &str, reason: &str) {
    use std::io::Write;
    use std::sync::Mutex;
    static ANNOUNCED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut announced = ANNOUNCED.lock().unwrap();
    if !announced.contains(&device) {
        announced.push(device);
        let rule = "=".repeat(78);
        let _ = writeln!(
            std::io::stderr(),
            "\n{rule}\nSKIPPED: all tests of the {device}. {reason}\nSet {require}=1 to fail instead.\n{rule}"
        );
    }
}

/// Makes one `#[test]` for each body and device.
macro_rules! device_tests {
    ($($body:ident),+ $(,)?) => {
        mod cpu {
            $(#[test]
            fn $body() {
                $crate::common::device::on::<$crate::common::device::Cpu>("", super::$body);
            })+
        }
        $crate::common::device::cuda_device_tests!($($body),+);
    };
}
pub(crate) use device_tests;

/// Makes one `#[test]` for each body and device of the CUDA backend.
macro_rules! cuda_device_tests {
    ($($body:ident),+ $(,)?) => {
        mod emulated {
            $(#[test]
            fn $body() {
                $crate::common::device::on::<$crate::common::emulated::Emulated>(
                    "LORA_KERNELS_REQUIRE_EMULATOR",
                    super::$body,
                );
            })+
        }
        #[cfg(feature = "cuda")]
        mod gpu {
            $(#[test]
            fn $body() {
                $crate::common::device::on::<$crate::common::gpu::Gpu>("LORA_KERNELS_REQUIRE_GPU", super::$body);
            })+
        }
    };
}
pub(crate) use cuda_device_tests;

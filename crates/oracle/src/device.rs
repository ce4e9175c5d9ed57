//! The devices that every test body runs on.

use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Backend, Device, cpu};
use std::ops::{Deref, DerefMut};

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

/// What tests know of a device.
pub trait TestDevice {
    /// Its name in failures.
    const NAME: &'static str;
    const SIZE: Size;
    const ROUNDINGS: Roundings;
    type Device: Device + Sync;

    /// The device, or why there is none here.
    fn open() -> Result<Self::Device, String>;
}

/// Where records of a device keep their codes.
pub type Codes<D> = <<D as TestDevice>::Device as Backend>::Codes;

/// A device under test.
pub struct Tested<D: TestDevice>(D::Device);

impl<D: TestDevice> Tested<D> {
    /// The device, or why there is none here.
    pub fn open() -> Result<Self, String> {
        D::open().map(Tested)
    }

    /// A device that was made otherwise.
    pub fn new(device: D::Device) -> Self {
        Tested(device)
    }

    /// Copies a record to the device.
    pub fn upload_record(&self, record: &RestoreRecord) -> RestoreRecord<Codes<D>> {
        self.0.upload_record(record).expect("the upload succeeds")
    }

    /// Copies a record back.
    pub fn download_record(&self, record: &RestoreRecord<Codes<D>>) -> RestoreRecord {
        self.0.download_record(record).expect("the download succeeds")
    }
}

impl<D: TestDevice> Deref for Tested<D> {
    type Target = D::Device;

    fn deref(&self) -> &D::Device {
        &self.0
    }
}

impl<D: TestDevice> DerefMut for Tested<D> {
    fn deref_mut(&mut self) -> &mut D::Device {
        &mut self.0
    }
}

/// The CPU backend.
pub struct Cpu;

impl TestDevice for Cpu {
    const NAME: &'static str = "cpu";
    const SIZE: Size = Size::Full;
    const ROUNDINGS: Roundings = Roundings { adapters: false, partial_sums: false };
    type Device = cpu::Cpu;

    fn open() -> Result<cpu::Cpu, String> {
        Ok(cpu::Cpu::new())
    }
}

/// Runs `body` on the device; where there is none, says so once and loudly, or fails if `require` is set to 1.
pub fn on<D: TestDevice>(require: &str, body: impl FnOnce(&Tested<D>)) {
    match Tested::open() {
        Ok(device) => body(&device),
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

//! Runs the test kernels.
#![allow(dead_code, reason = "each test file uses a part")]

use lora_emulator::{Emulator, Fault, KernelLibrary, Schedule, available};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel::Kernel;
use lora_kernels::cuda::step::{Launch, Step};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The kernels of tests/kernels; `None` after a loud message if they cannot be compiled here.
pub fn test_kernels(test: &str) -> Option<Arc<KernelLibrary>> {
    static LIBRARY: OnceLock<lora_emulator::Result<Arc<KernelLibrary>>> = OnceLock::new();
    let build = || {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
        KernelLibrary::builder().directory(directory).build()
    };
    available(test, LIBRARY.get_or_init(build).clone())
}

/// A device with the test kernels.
pub fn device(test: &str) -> Option<Emulator> {
    test_kernels(test).map(Emulator::with_library)
}

/// The bytes of an argument struct: addresses, then 32-bit numbers.
pub fn arguments(addresses: &[u64], numbers: &[u32]) -> Vec<u8> {
    let addresses = addresses.iter().flat_map(|address| address.to_le_bytes());
    addresses.chain(numbers.iter().flat_map(|number| number.to_le_bytes())).collect()
}

pub fn launch(
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    arguments: Vec<u8>,
) -> Step {
    let kernel = Kernel::new("a test's", kernel, threads);
    Step::Launch(Launch::new(kernel, [blocks, 1, 1], shared_bytes, arguments))
}

pub fn upload<T: bytemuck::Pod>(emulator: &mut Emulator, name: &str, values: &[T]) -> u64 {
    let bytes = bytemuck::cast_slice(values);
    let address = emulator.allocate(name, bytes.len());
    emulator.write(address, bytes).unwrap();
    address
}

pub fn download<T: bytemuck::Pod>(emulator: &mut Emulator, address: u64, len: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); len];
    emulator.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

/// Runs a step that must fail, and returns what it did wrong.
pub fn fault(emulator: &mut Emulator, step: &Step) -> Fault {
    emulator.run(step).expect_err("the planted fault was not seen");
    emulator.last_fault().expect("a failed step leaves a fault").clone()
}

/// Every schedule that right kernels must pass.
pub fn schedules() -> Vec<Schedule> {
    Schedule::matrix(12)
}

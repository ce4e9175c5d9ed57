//! The elementwise passes of the baseline that `lora-measure` times on GPUs, on the emulator.

use half::{bf16, f16};
use lora_emulator::{Emulator, KernelLibrary, available};
use lora_kernels::Element;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel::Kernel;
use lora_kernels::cuda::step::{Launch, Step};
use std::path::Path;

const COUNT: usize = 8 * 300;
const PROBABILITY: f32 = 0.25;

fn device(test: &str) -> Option<Emulator> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../measure/kernels");
    Some(Emulator::with_library(available(test, KernelLibrary::builder().directory(directory).build())?))
}

fn run(emulator: &mut Emulator, symbol: &'static str, [to, from, mask]: [u64; 3], factor: f32) {
    let mut arguments = Vec::new();
    for number in [to, from, mask, COUNT as u64, 7] {
        arguments.extend(number.to_le_bytes());
    }
    arguments.extend(factor.to_le_bytes());
    arguments.extend(((PROBABILITY * 65536.0) as u32).to_le_bytes());
    let kernel = Kernel::new("elementwise.cu", symbol, 256);
    let blocks = COUNT.div_ceil(8 * 256) as u32;
    emulator.run(&Step::Launch(Launch::new(kernel, [blocks, 1, 1], 0, arguments))).unwrap();
}

fn read<T: bytemuck::Pod>(emulator: &mut Emulator, address: u64) -> Vec<T> {
    let mut values = vec![T::zeroed(); COUNT];
    emulator.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

fn passes<T: Element>(test: &str, [scaled, dropped, masked]: [&'static str; 3]) {
    let Some(mut emulator) = device(test) else { return };
    let values: Vec<T> = (0..COUNT).map(|i| T::from_f32(1.0 + (i % 31) as f32)).collect();
    let buffers = ["from", "to"].map(|name| emulator.allocate(name, COUNT * size_of::<T>()));
    let [from, to] = buffers;
    let mask = emulator.allocate("mask", COUNT);
    emulator.write(from, bytemuck::cast_slice(&values)).unwrap();

    run(&mut emulator, scaled, [to, from, 0], 2.0);
    let twice: Vec<T> = values.iter().map(|value| T::from_f32(2.0 * value.to_f32())).collect();
    assert_eq!(read::<T>(&mut emulator, to), twice);

    run(&mut emulator, dropped, [to, from, mask], 4.0);
    let keep = read::<u8>(&mut emulator, mask);
    let expected: Vec<T> = values
        .iter()
        .zip(&keep)
        .map(|(value, &keep)| T::from_f32(4.0 * value.to_f32() * f32::from(keep)))
        .collect();
    assert_eq!(read::<T>(&mut emulator, to), expected);
    // Five standard deviations of the number that is dropped.
    let deviation = (COUNT as f32 * PROBABILITY * (1.0 - PROBABILITY)).sqrt();
    let zeros = keep.iter().filter(|&&keep| keep == 0).count() as f32;
    assert!((zeros - COUNT as f32 * PROBABILITY).abs() < 5.0 * deviation, "{zeros} are dropped");
    assert!(keep.iter().all(|&keep| keep <= 1));

    run(&mut emulator, masked, [from, from, mask], 4.0);
    assert_eq!(read::<T>(&mut emulator, from), expected, "in place, with the mask that was kept");
}

#[test]
fn passes_on_f32() {
    passes::<f32>("passes_on_f32", ["scaled_f32", "dropped_f32", "masked_f32"]);
}

#[test]
fn passes_on_f16() {
    passes::<f16>("passes_on_f16", ["scaled_f16", "dropped_f16", "masked_f16"]);
}

#[test]
fn passes_on_bf16() {
    passes::<bf16>("passes_on_bf16", ["scaled_bf16", "dropped_bf16", "masked_bf16"]);
}

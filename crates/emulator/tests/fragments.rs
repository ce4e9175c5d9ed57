//! Fragments of mma.sync and ldmatrix against plain loops.

mod support;

use half::{bf16, f16};
use lora_kernels::Element;
use lora_kernels::cuda::executor::Executor;
use support::{arguments, device, download, launch, schedules, upload};

/// Small integers, so that every order of summation gives the same bits.
fn integers<T: Element>(count: usize, seed: u32) -> Vec<T> {
    let draw = |i: u32| (i + seed * 1_000_003).wrapping_mul(2_654_435_761) >> 20;
    (0..count as u32).map(|i| T::from_f32((draw(i) % 9) as f32 - 4.0)).collect()
}

fn multiplies<T: Element>(kernel: &'static str, k: usize) {
    let Some(mut emulator) = device(kernel) else { return };
    let (a, b, c) = (integers::<T>(16 * k, 1), integers::<T>(k * 8, 2), integers::<f32>(16 * 8, 3));
    let mut expected = c.clone();
    for row in 0..16 {
        for column in 0..8 {
            for i in 0..k {
                expected[row * 8 + column] += a[row * k + i].to_f32() * b[i * 8 + column].to_f32();
            }
        }
    }
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        emulator.clear_records();
        let addresses =
            [upload(&mut emulator, "a", &a), upload(&mut emulator, "b", &b), upload(&mut emulator, "c", &c)];
        emulator
            .run(&launch(kernel, 1, 32, 0, arguments(&addresses, &[])))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(download::<f32>(&mut emulator, addresses[2], 128), expected, "{schedule}");
        let record = &emulator.records()[0];
        assert_eq!(record.tensor_core_operations, 2 * 16 * 8 * k as u64);
        assert_eq!(record.matrix_bank_conflicts, 0);
        let traffic = emulator.traffic("a");
        let bytes = std::mem::size_of_val(a.as_slice()) as u64;
        assert_eq!((traffic.bytes_read, traffic.unique_bytes_read, traffic.bytes_written), (bytes, bytes, 0));
        assert_eq!(traffic.sectors_read, bytes / 32);
    }
}

#[test]
fn bf16_fragments() {
    multiplies::<bf16>("multiply_bf16", 16);
}

#[test]
fn f16_fragments() {
    multiplies::<f16>("multiply_f16", 16);
}

#[test]
fn tf32_fragments() {
    multiplies::<f32>("multiply_tf32", 8);
}

#[test]
fn fragments_loaded_by_ldmatrix() {
    multiplies::<bf16>("multiply_ldmatrix", 16);
}

//! Before a kernel launched programmatically has waited, kernels before it may still run.

use super::{Case, WORDS, breaks, case, device, keeps};
use lora_emulator::FaultKind;
use lora_kernels::DType;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::step::{F32Math, Operand, Product, Step};

const FIRST: Case = case("first", 2, 64);
const SECOND: Case = Case { programmatic: true, ..case("second", 2, 64) };
const BYSTANDER: Case = Case { kernel: "bystander", ..SECOND };

fn expected() -> Vec<u32> {
    (0..128).map(|i| 2 * i + 1).collect()
}

#[test]
fn what_nobody_writes_may_be_read_before_the_wait() {
    keeps(&[FIRST, SECOND], &expected());
    keeps(&[FIRST, BYSTANDER, SECOND], &expected());
    keeps(&[FIRST, Case { kernel: "one_thread_waits_for_all", ..SECOND }], &expected());
}

#[test]
fn nothing_waits_for_an_ordinary_launch() {
    let case = Case { kernel: "second_reads_before_it_waits", programmatic: false, ..SECOND };
    keeps(&[FIRST, case], &expected());
}

#[test]
fn conflicts_before_the_wait_are_races() {
    for kernel in
        ["second_reads_before_it_waits", "second_writes_before_it_waits", "one_thread_waits_for_itself"]
    {
        let second = Case { kernel, ..SECOND };
        for fault in breaks(&[FIRST, second], &[FaultKind::Race]) {
            assert!(fault.message.contains("of a kernel before this one"), "{fault}");
        }
    }
    // The first one may still run when the third one starts.
    breaks(
        &[FIRST, BYSTANDER, Case { kernel: "second_reads_before_it_waits", ..SECOND }],
        &[FaultKind::Race],
    );
}

#[test]
fn a_kernel_that_never_waits_lets_later_ones_outrun_earlier_ones() {
    breaks(&[FIRST, Case { kernel: "second_never_waits", ..SECOND }], &[FaultKind::MissingGridWait]);
    keeps(&[FIRST, Case { kernel: "second_never_waits", programmatic: false, ..SECOND }], &[1, 2, 3]);
}

#[test]
fn library_products_may_overlap_and_copies_do_not() {
    let Some(mut emulator) = device() else { return };
    let x = super::support::upload(&mut emulator, "x", &[0u32; WORDS]);
    let y = super::support::upload(&mut emulator, "y", &[0u32; WORDS]);
    let matrix = |address| Operand { address, rows: 64, cols: 64, stride: 64, transposed: false };
    let product = Step::Product(Product {
        a: matrix(x),
        b: matrix(x),
        c: matrix(y),
        dtype: DType::F32,
        accumulate: false,
        f32_math: F32Math::Exact,
    });
    let early = Case { kernel: "second_reads_before_it_waits", ..SECOND };
    emulator.run(&product).unwrap();
    early.launch(&mut emulator, x, y).unwrap_err();
    assert_eq!(emulator.last_fault().unwrap().kind, FaultKind::Race);
    emulator.run(&product).unwrap();
    SECOND.launch(&mut emulator, x, y).unwrap();
    emulator.write(y, &[0; 4]).unwrap();
    early.launch(&mut emulator, x, y).unwrap();
}

#[test]
fn each_kernel_of_a_chain_counts_its_own_bytes() {
    let Some(mut emulator) = device() else { return };
    let x = super::support::upload(&mut emulator, "x", &[1u32; WORDS]);
    let y = super::support::upload(&mut emulator, "y", &[0u32; WORDS]);
    FIRST.launch(&mut emulator, x, y).unwrap();
    SECOND.launch(&mut emulator, x, y).unwrap();
    let records = emulator.records();
    let unique: Vec<u64> = records.iter().map(|record| record.buffers["x"].unique_bytes_read).collect();
    let sectors: Vec<u64> = records.iter().map(|record| record.buffers["x"].sectors_read).collect();
    assert_eq!((unique, sectors), (vec![512, 512], vec![16, 16]));
}

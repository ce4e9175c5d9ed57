//! Declared and dynamic shared memory share 227 KiB, and dynamic shared memory starts at a multiple of 1 KiB.

use super::{Case, breaks, case, keeps};
use lora_emulator::FaultKind;

const ALL: u32 = 227 << 10;

fn with(kernel: &'static str, shared_bytes: u32) -> Case {
    Case { shared_bytes, n: shared_bytes, ..case(kernel, 2, 64) }
}

#[test]
fn a_block_may_have_227_kib() {
    let expected: Vec<u32> = (0..128).map(|i| (i % 64) ^ 1).collect();
    keeps(&[with("dynamic_only_in_cluster", ALL)], &expected);
    breaks(&[with("dynamic_only_in_cluster", ALL + 1024)], &[FaultKind::InvalidLaunch]);
}

#[test]
fn eight_declared_bytes_cost_a_kib() {
    let one = |shared_bytes| Case { blocks: 1, ..with("dynamic_and_eight_bytes", shared_bytes) };
    let expected: Vec<u32> = (0..64).map(|i| i ^ 1).collect();
    keeps(&[one(ALL - 1024)], &expected);
    keeps(&[Case { kernel: "dynamic_only", ..one(ALL) }], &expected);
    for bytes in [ALL, ALL - 1024 + 256] {
        for fault in breaks(&[one(bytes)], &[FaultKind::InvalidLaunch]) {
            assert!(fault.message.contains("8 bytes of declared"), "{fault}");
        }
    }
}

#[test]
fn declared_variables_have_a_limit_of_their_own() {
    let case = Case { shared_bytes: 0, n: 0, blocks: 1, ..with("declares_too_much", 0) };
    breaks(&[case], &[FaultKind::InvalidLaunch]);
}

//! `fence.proxy.async`: by the threads that stored, before the barrier after their stores, for the right memory.

use super::{Case, breaks, case, counted, keeps};
use lora_emulator::FaultKind;

fn one(kernel: &'static str) -> Case {
    case(kernel, 1, 64)
}

fn unfenced(case: Case) {
    breaks(&[case], &[FaultKind::MissingProxyFence]);
}

#[test]
fn before_tma_overwrites_what_threads_stored() {
    keeps(&[one("reuses")], &counted(256..512));
    unfenced(one("reuses_unfenced"));
    unfenced(one("reuses_fenced_by_reader"));
    unfenced(one("reuses_with_a_global_fence"));
}

#[test]
fn before_tma_reads_what_threads_stored() {
    keeps(&[one("stores")], &counted(256..512));
    unfenced(one("stores_unfenced"));
    unfenced(one("stores_fenced_by_reader"));
}

#[test]
fn before_tma_reads_global_memory_that_threads_of_the_kernel_stored() {
    keeps(&[one("reads_back")], &counted(256..512));
    unfenced(one("reads_back_unfenced"));
    unfenced(one("reads_back_fenced_by_reader"));
    unfenced(one("reads_back_with_a_shared_fence"));
}

#[test]
fn on_both_sides_where_another_block_stored() {
    let two = |kernel| case(kernel, 2, 64);
    keeps(&[two("publishes")], &counted(256..512));
    unfenced(two("publishes_unfenced"));
    unfenced(two("reads_what_is_published_unfenced"));
}

/// The end of a kernel is a fence.
#[test]
fn not_after_the_kernel_that_stored() {
    keeps(&[case("first", 8, 64), one("reuses")], &counted(256..512));
}

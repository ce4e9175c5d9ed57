//! Barriers take whole warps.

use super::{Case, breaks, breaks_under_some_schedule, case, counted, keeps};
use lora_emulator::FaultKind;

const BLOCK: Case = case("block_barrier_together", 1, 128);

fn block(kernel: &'static str) -> Case {
    Case { kernel, ..BLOCK }
}

#[test]
fn lanes_meet_at_one_barrier() {
    keeps(&[BLOCK], &counted(0..128));
    keeps(&[case("cluster_barrier_together", 2, 128)], &[counted(0..128), counted(0..128)].concat());
    breaks(&[block("block_barrier_in_halves")], &[FaultKind::Divergence]);
    breaks(&[case("cluster_barrier_in_halves", 2, 128)], &[FaultKind::Divergence]);
}

#[test]
fn named_barriers_count_warps() {
    keeps(&[block("named_barrier_of_warps")], &counted(0..128));
    breaks_under_some_schedule(&[block("named_barrier_of_half_warps")], &[FaultKind::Divergence]);
    breaks(&[block("arrival_of_half_warps")], &[FaultKind::Divergence]);
}

#[test]
fn ended_lanes_take_no_part() {
    keeps(&[block("block_barrier_without_ended_lanes")], &counted(0..128));
}

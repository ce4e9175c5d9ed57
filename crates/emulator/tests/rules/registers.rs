//! setmaxnreg: a pool of what the block was launched with, and one request for a whole warpgroup.

use super::{Case, breaks, case, counted, keeps};
use lora_emulator::FaultKind;

const THREE_WARPGROUPS: Case = case("one_gives_two_take", 1, 384);

#[test]
fn registers_move_between_warpgroups() {
    keeps(&[THREE_WARPGROUPS], &counted(0..384));
}

#[test]
fn more_than_the_block_has_is_never_granted() {
    for kernel in ["all_take", "two_take_too_much"] {
        for fault in breaks(&[Case { kernel, ..THREE_WARPGROUPS }], &[FaultKind::Deadlock]) {
            assert!(fault.message.contains("asks for 240"), "{fault}");
        }
    }
}

#[test]
fn a_warpgroup_asks_as_one() {
    for kernel in ["a_warp_takes_less", "a_warp_takes_nothing"] {
        breaks(&[Case { kernel, ..THREE_WARPGROUPS }], &[FaultKind::Divergence]);
    }
    breaks(&[case("takes_in_part_of_a_warpgroup", 1, 64)], &[FaultKind::Divergence]);
}

#[test]
fn the_direction_is_part_of_the_request() {
    breaks(&[Case { kernel: "decreases_upwards", ..THREE_WARPGROUPS }], &[FaultKind::InvalidOperand]);
}

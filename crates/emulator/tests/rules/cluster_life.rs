//! Clusters: before a block uses another's shared memory, and until neither does any more.

use super::{Case, breaks, case, counted, keeps};
use lora_emulator::FaultKind;

const TWO: Case = case("arrives_remotely", 2, 32);

fn two(kernel: &'static str) -> Case {
    Case { kernel, ..TWO }
}

#[test]
fn a_barrier_is_used_by_another_block_after_a_cluster_barrier() {
    keeps(&[TWO], &[[0; 32], [1; 32]].concat());
    breaks(
        &[two("arrives_before_a_cluster_barrier")],
        &[FaultKind::BarrierMisuse, FaultKind::Race, FaultKind::OutOfBounds],
    );
    breaks(&[two("fences_after_the_cluster_barrier")], &[FaultKind::MissingProxyFence]);
    breaks(&[two("does_not_fence_its_barrier")], &[FaultKind::MissingProxyFence]);
}

#[test]
fn a_block_ends_after_the_last_arrival_at_its_barriers() {
    for fault in
        breaks(&[two("ends_before_the_arrival")], &[FaultKind::InFlightAtExit, FaultKind::OutOfBounds])
    {
        assert!(fault.message.contains("has ended"), "{fault}");
    }
}

#[test]
fn who_arrives_at_the_cluster_barrier_waits_there() {
    breaks(&[two("arrives_and_ends")], &[FaultKind::BarrierMisuse]);
}

#[test]
fn ordinary_stores_need_cluster_scope_on_both_sides() {
    let swapped: Vec<u32> = (0..32).map(|i| i ^ 1).collect();
    keeps(&[two("hands_over")], &swapped);
    breaks(&[two("hands_over_with_block_scope")], &[FaultKind::Race]);
    breaks(&[two("takes_over_with_block_scope")], &[FaultKind::Race]);
}

#[test]
fn receivers_of_a_box_wait_for_themselves() {
    keeps(&[two("multicasts")], &[counted(256..512), counted(256..512)].concat());
    breaks(&[two("takes_one_box_for_both")], &[FaultKind::Race, FaultKind::NeverWritten]);
}

#[test]
fn a_multicast_names_blocks_of_the_cluster() {
    breaks(&[two("multicasts_to_nobody")], &[FaultKind::InvalidOperand]);
    breaks(&[two("multicasts_beyond_the_cluster")], &[FaultKind::InvalidOperand]);
}

#[test]
fn a_launch_may_say_how_large_clusters_are() {
    let four = Case { blocks: 8, cluster: 4, ..two("any_cluster") };
    let expected: Vec<u32> = (0..256).map(|i| (i / 32 % 4) << 16 | 4).collect();
    keeps(&[four], &expected);
    keeps(&[Case { cluster: 1, ..four }], &[1; 256]);
    keeps(&[Case { cluster: 2, ..TWO }], &[0]);
    for wrong in [
        Case { blocks: 6, ..four },
        Case { blocks: 16, cluster: 16, ..four },
        Case { cluster: 0, ..four },
        Case { cluster: 4, blocks: 8, ..TWO },
        Case { blocks: 16, ..two("declares_sixteen_blocks") },
    ] {
        breaks(&[wrong], &[FaultKind::InvalidLaunch]);
    }
}

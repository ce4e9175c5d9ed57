//! Blocks that wait for each other must be on the device together.

use super::{Case, case, keeps, run, run_under};
use lora_emulator::{FaultKind, Schedule};

const FOUR: Case = case("blocks_meet", 4, 32);

#[test]
fn blocks_that_meet_need_room() {
    let expected: Vec<u32> = (0..128).map(|i| i / 32).collect();
    keeps(&[FOUR], &expected);
    for (limit, passes) in [(4, true), (3, false), (1, false)] {
        for found in run(&[FOUR], |emulator| emulator.set_resident_limit(limit)) {
            match found {
                Ok(y) => assert!(passes && y[..128] == expected, "{limit}"),
                Err(fault) => {
                    assert!(!passes && fault.kind == FaultKind::Deadlock, "{fault}");
                    let words = format!("{} blocks wait until others end", 4 - limit);
                    assert!(fault.message.contains(&words), "{fault}");
                }
            }
        }
    }
}

/// As many as an H100 holds, where each takes a whole multiprocessor.
#[test]
fn the_default_is_one_block_a_multiprocessor() {
    let under = [Schedule::default(), Schedule::random(1)];
    let run = |blocks| run_under(&under, &[Case { blocks, ..FOUR }], |_| ());
    assert!(run(127).iter().all(Result::is_ok));
    assert!(run(133).iter().all(|found| matches!(found, Err(fault) if fault.kind == FaultKind::Deadlock)));
}

#[test]
fn a_cluster_is_on_the_device_as_a_whole() {
    let pair = case("arrives_remotely", 4, 32);
    for (limit, passes) in [(1, false), (2, true), (3, true)] {
        for found in run(&[pair], |emulator| emulator.set_resident_limit(limit)) {
            assert_eq!(found.is_ok(), passes, "{limit}");
        }
    }
}

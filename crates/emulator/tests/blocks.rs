//! Threads, barriers, shared memory and copies: right kernels pass under every schedule, planted faults are reported.

mod support;

use lora_emulator::{FaultKind, Schedule};
use lora_kernels::cuda::executor::Executor;
use support::{arguments, device, download, fault, launch, schedules, upload};

/// Runs a kernel that reads `x` and writes `y` under every schedule, and compares `y`.
fn passes(
    test: &str,
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared: u32,
    x: &[f32],
    expected: &[f32],
) {
    let Some(mut emulator) = device(test) else { return };
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        let (from, to) = (upload(&mut emulator, "x", x), emulator.allocate("y", expected.len() * 4));
        let step = launch(kernel, blocks, threads, shared, arguments(&[from, to], &[x.len() as u32, 0]));
        emulator.run(&step).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(download::<f32>(&mut emulator, to, expected.len()), expected, "{schedule}");
        emulator.free(from);
        emulator.free(to);
    }
}

/// Runs a kernel with a planted fault under every schedule; at least one that finds it must name it right.
fn is_caught(
    test: &str,
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    n: u32,
    kinds: &[FaultKind],
    words: &[&str],
) {
    let Some(mut emulator) = device(test) else { return };
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        let x: Vec<f32> = (0..512).map(|i| i as f32).collect();
        let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 512 * 4));
        let step = launch(kernel, blocks, threads, 512, arguments(&[from, to], &[n, 0]));
        let fault = fault(&mut emulator, &step);
        let text = fault.to_string();
        assert!(kinds.contains(&fault.kind), "{text}");
        for word in words.iter().chain(&["block.cu:", kernel]) {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
        assert_eq!(fault.schedule, schedule);
        emulator.free(from);
        emulator.free(to);
    }
}

#[test]
fn sums_of_blocks() {
    let x: Vec<f32> = (0..700).map(|i| (i % 7) as f32).collect();
    let expected: Vec<f32> = x.chunks(256).flat_map(|part| vec![part.iter().sum(); part.len()]).collect();
    passes("sums_of_blocks", "block_sums_right", 3, 256, 0, &x, &expected);
}

#[test]
fn lanes_rotate() {
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let expected: Vec<f32> = (0..64).map(|i| ((i & 32) | ((i + 1) & 31)) as f32).collect();
    passes("lanes_rotate", "rotate_lanes_right", 1, 64, 256, &x, &expected);
}

#[test]
fn asynchronous_copies_fill_with_zero() {
    let x: Vec<f32> = (1..=102).map(|i| i as f32).collect();
    let expected: Vec<f32> = (1..=128).map(|i| if i <= 102 { i as f32 } else { 0.0 }).collect();
    passes("asynchronous_copies_fill_with_zero", "staged_copy_right", 1, 32, 512, &x, &expected);
}

#[test]
fn missing_barriers_are_races() {
    let kinds: &[FaultKind] = &[FaultKind::Race, FaultKind::NeverWritten];
    let test = "missing_barriers_are_races";
    is_caught(test, "block_sums_without_first_barrier", 1, 256, 256, kinds, &["`part`"]);
    is_caught(test, "block_sums_without_second_barrier", 1, 256, 256, kinds, &["`part`", "nothing orders"]);
    is_caught(test, "rotate_lanes_without_barrier", 1, 64, 64, kinds, &["of dynamic shared memory"]);
    is_caught(test, "staged_copy_without_barrier", 1, 32, 128, kinds, &["of dynamic shared memory"]);
    is_caught(test, "staged_copy_without_wait", 1, 32, 128, kinds, &["still copying to it asynchronously"]);
    is_caught(test, "staged_copy_without_commit", 1, 32, 128, kinds, &["still copying to it asynchronously"]);
    is_caught(test, "blocks_write_the_same", 2, 32, 0, kinds, &["`y`", "of block ("]);
}

#[test]
fn accesses_out_of_bounds_name_the_buffer() {
    let kind = &[FaultKind::OutOfBounds];
    is_caught(
        "out_of_bounds",
        "past_the_end",
        1,
        32,
        512,
        kind,
        &["0 bytes past the end of `y` (2048 bytes)"],
    );
    is_caught("out_of_bounds", "past_the_shared_variable", 1, 32, 32, kind, &["`small`"]);
    is_caught(
        "out_of_bounds",
        "past_dynamic_shared",
        1,
        32,
        500,
        kind,
        &["of 512 bytes of dynamic shared memory"],
    );
}

#[test]
fn other_faults_are_named() {
    is_caught("faults", "misaligned", 1, 32, 1, &[FaultKind::Misaligned], &["not a multiple of 16"]);
    is_caught(
        "faults",
        "reads_unwritten_shared",
        1,
        32,
        31,
        &[FaultKind::NeverWritten],
        &["byte 31 of dynamic"],
    );
    is_caught("faults", "reads_unwritten_global", 1, 32, 0, &[FaultKind::NeverWritten], &["`y`"]);
    is_caught("faults", "divergent_shuffle", 1, 32, 16, &[FaultKind::Divergence], &["shuffle"]);
    is_caught("faults", "ended_lanes", 1, 32, 4, &[FaultKind::Divergence], &["0xffffffff"]);
    let kinds = &[FaultKind::Deadlock, FaultKind::Divergence];
    is_caught("faults", "half_a_warp_waits", 1, 64, 16, kinds, &["named barrier 3"]);
    is_caught("faults", "outside_its_array", 1, 32, 16, &[FaultKind::OutOfBounds], &["element 16"]);
    is_caught("faults", "copy_never_waited_for", 1, 32, 0, &[FaultKind::InFlightAtExit], &["never waited"]);
    is_caught("faults", "waits_for_nobody", 1, 32, 0, &[FaultKind::NeverWritten], &["`y`"]);
    is_caught("faults", "traps", 1, 32, 0, &[FaultKind::Trap], &["__trap"]);
}

#[test]
fn a_fault_is_the_same_again_under_its_schedule() {
    let Some(mut emulator) = device("a_fault_is_the_same_again_under_its_schedule") else { return };
    for schedule in (1..5).map(Schedule::random) {
        let faults = [0, 1].map(|_| {
            emulator.set_schedule(schedule);
            let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
            let (from, to) = (upload(&mut emulator, "x", &x), emulator.allocate("y", 256 * 4));
            let step =
                launch("block_sums_without_second_barrier", 1, 256, 0, arguments(&[from, to], &[256, 0]));
            fault(&mut emulator, &step).to_string()
        });
        assert_eq!(faults[0], faults[1]);
    }
}

#[test]
fn the_last_block_sees_all_others() {
    let test = "the_last_block_sees_all_others";
    let Some(mut emulator) = device(test) else { return };
    let blocks = 5;
    let x: Vec<f32> = (0..32 * blocks).map(|i| (i % 11) as f32).collect();
    let expected: Vec<f32> = (0..32).map(|i| x.iter().skip(i).step_by(32).sum()).collect();
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        for (kernel, right) in [("last_block_sums_right", true), ("last_block_sums_without_fence", false)] {
            let from = upload(&mut emulator, "x", &x);
            let to = emulator.allocate("y", (32 * blocks + 64) * 4 + 4);
            emulator.write(to + 4 * (32 * blocks as u64 + 32), &[0; 4]).unwrap();
            let step = launch(kernel, blocks as u32, 32, 0, arguments(&[from, to], &[0, 0]));
            if right {
                emulator.run(&step).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(download::<f32>(&mut emulator, to, 32), expected);
            } else {
                assert_eq!(fault(&mut emulator, &step).kind, FaultKind::Race);
            }
        }
    }
}

#[test]
fn blocks_may_wait_for_each_other() {
    let Some(mut emulator) = device("blocks_may_wait_for_each_other") else { return };
    for schedule in schedules() {
        emulator.set_schedule(schedule);
        let flag = upload(&mut emulator, "flag", &[0u32]);
        let step = |kernel| launch(kernel, 4, 32, 0, arguments(&[0, flag], &[0, 0]));
        emulator.run(&step("waits_for_other_block")).unwrap_or_else(|error| panic!("{error}"));
        let fault = fault(&mut emulator, &step("waits_for_nobody"));
        assert_eq!(fault.kind, FaultKind::Deadlock);
        assert!(fault.message.contains("wait for memory to change (block.cu:"), "{fault}");
    }
}

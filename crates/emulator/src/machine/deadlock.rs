//! The report of threads that wait for ever.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{Block, Status};
use crate::machine::launch::Launch;

/// What every thread waits for, and how full every barrier is.
pub(super) fn deadlock(launch: &Launch, blocks: &[*mut Block], waiting: usize) -> RawFault {
    let mut message = String::from("no thread can go on");
    if waiting > 0 {
        message += &format!(
            "; {} blocks wait until others end, because the device holds {} at a time",
            waiting * launch.kernel.cluster.max(1) as usize,
            launch.resident_limit
        );
    }
    for &block in blocks {
        // SAFETY: blocks that run are alive, and no thread runs.
        let block = unsafe { &*block };
        let [x, y, z] = block.index;
        message += &format!("\n  block ({x}, {y}, {z}):");
        let describe = |thread: usize| {
            let state = &block.threads[thread];
            let place = launch
                .library
                .lines(launch.site(state.pc))
                .first()
                .map_or_else(String::new, |line| format!(" ({line})"));
            match state.status {
                Status::Ready => "are ready".to_owned(),
                Status::Exited => "have ended".to_owned(),
                Status::Spinning => format!("wait for memory to change{place}"),
                Status::Waiting(waiting) => format!("wait in {waiting}{place}"),
            }
        };
        let same = |a: usize, b: usize| {
            let (a, b) = (&block.threads[a], &block.threads[b]);
            a.status == b.status && (a.pc == b.pc || a.status == Status::Exited)
        };
        let mut first = 0;
        while first < block.threads.len() {
            let mut last = first;
            while last + 1 < block.threads.len() && same(first, last + 1) {
                last += 1;
            }
            message += &format!("\n    threads {first} to {last} {}", describe(first));
            first = last + 1;
        }
        for (id, barrier) in block.barriers.iter().enumerate() {
            if let Some(text) = barrier.describe(id, block.live) {
                message += &format!("\n    {text}");
            }
        }
        let more = (block.mbarriers.iter().map(|barrier| barrier.describe()))
            .chain(block.cluster_barrier.describe())
            .chain(block.registers.describe())
            .chain(block.warpgroups.iter().enumerate().filter_map(|(number, group)| group.describe(number)));
        for text in more {
            message += &format!("\n    {text}");
        }
        for (number, warp) in block.warps.iter().enumerate() {
            if let Some(gathering) = &warp.gathering {
                message += &format!("\n    {}", gathering.describe(number));
            }
            for collective in &warp.collectives {
                message += &format!("\n    {}", collective.describe(number));
            }
        }
    }
    RawFault::new(FaultKind::Deadlock, message)
}

//! `__syncthreads` and named barriers.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{WARP, Waiting};
use crate::machine::caller::{Caller, Flow};
use crate::mechanisms::convergence::{self, Aligned};
use crate::memory::clock::{Clocks, Stamp};

/// One of a block's 16 barriers.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that complete it, counted by whole warps; 0 for all threads that have not ended.
    expected: u32,
    warps: usize,
    arrived: Vec<Stamp>,
    waiting: Vec<usize>,
}

impl Barrier {
    fn is_complete(&self, live: usize) -> bool {
        self.warps > 0
            && match self.expected {
                0 => self.arrived.len() >= live,
                expected => self.warps * WARP >= expected as usize,
            }
    }

    /// In words, for a deadlock's report; nothing if no thread has arrived.
    pub fn describe(&self, id: usize, live: usize) -> Option<String> {
        let expected = if self.expected == 0 { live } else { self.expected as usize };
        let arrived = if self.expected == 0 { self.arrived.len() } else { self.warps * WARP };
        (arrived > 0).then(|| format!("barrier {id}: {arrived} of {expected} threads arrived"))
    }
}

/// `bar.sync` (`wait`) and `bar.arrive`. With `count` 0, all threads of the block take part.
pub(crate) fn arrive(caller: &mut Caller<'_>, id: u32, count: u32, wait: bool) -> Result<Flow, RawFault> {
    let block = &mut *caller.block;
    let misuse = |message: String| RawFault::new(FaultKind::BarrierMisuse, message);
    if id as usize >= block.barriers.len() {
        return Err(misuse(format!("barrier {id}: there are 16")));
    }
    if !count.is_multiple_of(32) || count as usize > block.threads.len() {
        return Err(misuse(format!(
            "barrier {id} for {count} threads: not a multiple of 32 up to the block's {}",
            block.threads.len()
        )));
    }
    let id = id as usize;
    let warp = caller.thread / WARP;
    let Some(lanes) = convergence::gather(caller, Aligned::Barrier { id: id as u32, count, wait })? else {
        caller.wait(Waiting::Barrier { id });
        return Ok(Flow::Suspend);
    };
    if arrive_warp(caller, warp, lanes, (id as u32, count, wait))? || !wait {
        return Ok(Flow::Continue);
    }
    caller.wait(Waiting::Barrier { id });
    Ok(Flow::Suspend)
}

/// A warp arrives with these lanes; true if that completes the barrier. The caller itself is not woken.
pub(crate) fn arrive_warp(
    caller: &mut Caller<'_>,
    warp: usize,
    lanes: u32,
    (id, count, wait): (u32, u32, bool),
) -> Result<bool, RawFault> {
    let block = &mut *caller.block;
    let barrier = &mut block.barriers[id as usize];
    if barrier.warps > 0 && barrier.expected != count {
        return Err(RawFault::new(
            FaultKind::BarrierMisuse,
            format!("barrier {id} for {count} threads, while others arrived at it for {}", barrier.expected),
        ));
    }
    barrier.expected = count;
    barrier.warps += 1;
    for thread in (0..WARP).filter(|lane| lanes >> lane & 1 != 0).map(|lane| warp * WARP + lane) {
        block.barriers[id as usize].arrived.push(block.clocks.arrive(thread));
        if wait {
            block.barriers[id as usize].waiting.push(thread);
        } else if thread != caller.thread {
            block.wake(thread);
        }
    }
    Ok(complete_if_full(caller, id as usize))
}

/// Lets the waiting threads go if enough have arrived. The caller itself is not woken: it runs.
fn complete_if_full(caller: &mut Caller<'_>, id: usize) -> bool {
    let block = &mut *caller.block;
    let barrier = &mut block.barriers[id];
    if !barrier.is_complete(block.live) {
        return false;
    }
    barrier.warps = 0;
    let merged = Clocks::merge(&std::mem::take(&mut barrier.arrived));
    for thread in std::mem::take(&mut barrier.waiting) {
        if let Some(vector) = &merged {
            block.clocks.adopt(thread, vector);
        }
        if thread != caller.thread {
            block.wake(thread);
        }
    }
    true
}

/// A thread ended: barriers for all threads may be complete without it.
pub(crate) fn thread_ended(caller: &mut Caller<'_>) {
    for id in 0..caller.block.barriers.len() {
        if caller.block.barriers[id].expected == 0 {
            complete_if_full(caller, id);
        }
    }
}

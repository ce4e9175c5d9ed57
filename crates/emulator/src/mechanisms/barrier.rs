//! `__syncthreads` and named barriers.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::Waiting;
use crate::machine::caller::{Caller, Flow};
use crate::memory::clock::{Clocks, Stamp};

/// One of a block's 16 barriers.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that complete it; 0 for all that have not ended.
    expected: u32,
    arrived: Vec<Stamp>,
    waiting: Vec<usize>,
}

impl Barrier {
    fn is_complete(&self, live: usize) -> bool {
        let expected = if self.expected == 0 { live } else { self.expected as usize };
        !self.arrived.is_empty() && self.arrived.len() >= expected
    }

    /// In words, for a deadlock's report; nothing if no thread has arrived.
    pub fn describe(&self, id: usize, live: usize) -> Option<String> {
        let expected = if self.expected == 0 { live } else { self.expected as usize };
        (!self.arrived.is_empty())
            .then(|| format!("barrier {id}: {} of {expected} threads arrived", self.arrived.len()))
    }
}

/// `bar.sync` (`wait`) and `bar.arrive`. With `count` 0, all threads of the block take part.
pub(crate) fn arrive(caller: &mut Caller<'_>, id: u32, count: u32, wait: bool) -> Result<Flow, RawFault> {
    let thread = caller.thread;
    let block = &mut *caller.block;
    let id = id as usize;
    let misuse = |message: String| RawFault::new(FaultKind::BarrierMisuse, message);
    let Some(barrier) = block.barriers.get_mut(id) else {
        return Err(misuse(format!("barrier {id}: there are 16")));
    };
    if !count.is_multiple_of(32) || count as usize > block.threads.len() {
        return Err(misuse(format!(
            "barrier {id} for {count} threads: not a multiple of 32 up to the block's {}",
            block.threads.len()
        )));
    }
    if !barrier.arrived.is_empty() && barrier.expected != count {
        return Err(misuse(format!(
            "barrier {id} for {count} threads, while others arrived at it for {}",
            barrier.expected
        )));
    }
    barrier.expected = count;
    barrier.arrived.push(block.clocks.arrive(thread));
    if wait {
        barrier.waiting.push(thread);
    }
    if complete_if_full(caller, id) || !wait {
        return Ok(Flow::Continue);
    }
    caller.wait(Waiting::Barrier { id });
    Ok(Flow::Suspend)
}

/// Lets the waiting threads go if enough have arrived. The caller itself is not woken: it runs.
fn complete_if_full(caller: &mut Caller<'_>, id: usize) -> bool {
    let block = &mut *caller.block;
    let barrier = &mut block.barriers[id];
    if !barrier.is_complete(block.live) {
        return false;
    }
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

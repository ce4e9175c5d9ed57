//! `setmaxnreg`: warps give registers to their block's pool, and take from it.
//!
//! A block gets as many registers a thread as its size leaves, a multiple of 8: ptxas compiles kernels with this
//! instruction for so many. What all warps hold never exceeds what the block got; a warp that asks for more waits.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{WARP, Waiting};
use crate::machine::caller::{Caller, Flow};
use crate::mechanisms::wgmma::WARPGROUP;

/// Registers of a multiprocessor.
const REGISTERS: usize = 1 << 16;
const MOST: u32 = 256;
const WARPS_IN_GROUP: usize = WARPGROUP / WARP;

/// What a warp asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub count: u32,
    pub increase: bool,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let direction = if self.increase { "inc" } else { "dec" };
        write!(f, "setmaxnreg.{direction} {}", self.count)
    }
}

/// The registers of a block, by warp.
#[derive(Debug)]
pub(crate) struct RegisterPool {
    /// Registers a thread that no warp holds.
    free: u32,
    held: Vec<u32>,
    /// Requests that each warp has made, and those that the first of its warpgroup made.
    made: Vec<usize>,
    requests: Vec<Vec<Request>>,
    /// Warps that wait for registers, in order.
    waiting: Vec<(usize, u32)>,
}

impl RegisterPool {
    pub fn new(threads: usize) -> Self {
        let warps = threads.div_ceil(WARP);
        let each = (REGISTERS / (warps.max(1) * WARP)) as u32 / 8 * 8;
        RegisterPool {
            free: 0,
            held: vec![each.min(MOST); warps],
            made: vec![0; warps],
            requests: vec![Vec::new(); warps / WARPS_IN_GROUP],
            waiting: Vec::new(),
        }
    }

    /// In words, for a deadlock's report; nothing if no warp waits.
    pub fn describe(&self) -> Option<String> {
        let (warp, count) = self.waiting.first()?;
        Some(format!(
            "registers: warp {warp} holds {} a thread and asks for {count}, where {} are free",
            self.held[*warp], self.free
        ))
    }

    /// Notes a request, which all warps of a warpgroup make alike.
    fn note(&mut self, warp: usize, request: Request) -> Result<(), String> {
        let group = warp / WARPS_IN_GROUP;
        let warps = group * WARPS_IN_GROUP..(group + 1) * WARPS_IN_GROUP;
        let Some(requests) = self.requests.get_mut(group) else {
            return Err(format!("{request} in a warpgroup of fewer than 128 threads"));
        };
        let number = self.made[warp];
        match requests.get(number) {
            Some(other) if *other != request => {
                return Err(format!("{request}, where another warp of the warpgroup executed {other}"));
            }
            Some(_) => {}
            None => {
                if let Some(late) = warps.into_iter().find(|&other| self.made[other] < number) {
                    return Err(format!(
                        "{request} before warp {late} of the warpgroup has executed the one before"
                    ));
                }
                requests.push(request);
            }
        }
        self.made[warp] += 1;
        Ok(())
    }

    /// Gives waiting warps what they ask for, as far as there is enough; returns those that may go on.
    fn grant(&mut self) -> Vec<usize> {
        let mut granted = Vec::new();
        let RegisterPool { free, held, waiting, .. } = self;
        waiting.retain(|&(warp, count)| {
            let needed = count - held[warp];
            if needed > *free {
                return true;
            }
            *free -= needed;
            held[warp] = count;
            granted.push(warp);
            false
        });
        granted
    }
}

/// A warp executes the instruction.
pub(crate) fn execute(caller: &mut Caller<'_>, warp: usize, request: Request) -> Result<(), RawFault> {
    let pool = &mut caller.block.registers;
    pool.note(warp, request).map_err(|message| RawFault::new(FaultKind::Divergence, message))?;
    let held = pool.held[warp];
    if request.increase && request.count < held || !request.increase && request.count > held {
        return Err(RawFault::new(
            FaultKind::InvalidOperand,
            format!("{request} in a warp that holds {held} registers a thread"),
        ));
    }
    if request.increase {
        pool.waiting.push((warp, request.count));
    } else {
        pool.free += held - request.count;
        pool.held[warp] = request.count;
    }
    for warp in pool.grant() {
        for thread in warp * WARP..(warp + 1) * WARP {
            if matches!(caller.block.threads[thread].waits_for(), Some(Waiting::Registers { .. })) {
                caller.block.wake(thread);
            }
        }
    }
    Ok(())
}

/// Waits until the warp has what it asked for. The thread's result says whether it has.
pub(crate) fn wait(caller: &mut Caller<'_>, count: u32) -> Flow {
    let warp = caller.thread / WARP;
    let granted = caller.block.registers.held[warp] == count;
    caller.block.threads[caller.thread].result = u64::from(granted);
    if granted {
        return Flow::Continue;
    }
    caller.wait(Waiting::Registers { count });
    Flow::Suspend
}

/// When a block has ended, all warps of a warpgroup have made the same requests.
pub(crate) fn thread_ended(caller: &Caller<'_>) -> Result<(), RawFault> {
    let pool = &caller.block.registers;
    if caller.block.live > 0 {
        return Ok(());
    }
    for (group, requests) in pool.requests.iter().enumerate() {
        let warps = group * WARPS_IN_GROUP..(group + 1) * WARPS_IN_GROUP;
        if let Some(warp) = warps.into_iter().find(|&warp| pool.made[warp] < requests.len()) {
            return Err(RawFault::new(
                FaultKind::Divergence,
                format!(
                    "the block ends, and warp {warp} has not executed {}, which other warps of its warpgroup did",
                    requests[pool.made[warp]]
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_shares_what_a_multiprocessor_has() {
        assert_eq!(RegisterPool::new(384).held, [168; 12]);
        assert_eq!(RegisterPool::new(128).held, [256; 4]);
        assert_eq!(RegisterPool::new(1024).held, [64; 32]);
    }
}

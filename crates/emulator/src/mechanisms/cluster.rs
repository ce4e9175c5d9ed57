//! Clusters: blocks that run together, meet in barriers and reach each other's dynamic shared memory.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{Block, WARP, Waiting};
use crate::machine::caller::{Caller, Flow};
use crate::mechanisms::convergence::{self, Aligned};
use crate::memory::clock::{Reach, Released};

/// The barrier of a cluster, kept by its block of rank 0.
#[derive(Debug, Default)]
pub(crate) struct ClusterBarrier {
    arrived: usize,
    phase: u32,
    arriving: Released,
    ended: Released,
    /// Block rank and thread.
    waiting: Vec<(usize, usize)>,
}

impl ClusterBarrier {
    /// In words, for a deadlock's report.
    pub fn describe(&self) -> Option<String> {
        (self.arrived > 0).then(|| format!("cluster barrier: {} threads arrived", self.arrived))
    }
}

impl Caller<'_> {
    /// Another block of the caller's cluster. It must not have ended.
    pub fn peer(&mut self, rank: usize) -> Result<&mut Block, RawFault> {
        let own = self.block.rank;
        let Some(&peer) = self.block.peers.get(rank).filter(|_| rank != own) else {
            return Err(RawFault::new(
                FaultKind::InvalidOperand,
                format!("block {rank} of a cluster of {}", self.block.peers.len()),
            ));
        };
        // SAFETY: blocks of a cluster live until all have ended; this is another block than the caller's.
        let peer = unsafe { &mut *peer };
        if peer.live == 0 {
            return Err(RawFault::new(
                FaultKind::OutOfBounds,
                format!("uses shared memory of block {rank} of the cluster, which has ended"),
            ));
        }
        Ok(peer)
    }

    /// Runs `body` for each block of the cluster.
    fn for_each_block(&mut self, mut body: impl FnMut(&mut Block)) {
        let own = self.block.rank;
        for rank in 0..self.block.peers.len() {
            if rank == own {
                body(self.block);
            } else {
                // SAFETY: as in `peer`.
                body(unsafe { &mut *self.block.peers[rank] });
            }
        }
    }

    fn with_barrier<R>(&mut self, body: impl FnOnce(&mut ClusterBarrier) -> R) -> R {
        match (self.block.rank, self.block.peers.first()) {
            // SAFETY: as in `peer`.
            (1.., Some(&first)) => body(unsafe { &mut (*first).cluster_barrier }),
            _ => body(&mut self.block.cluster_barrier),
        }
    }
}

pub(crate) fn arrive(caller: &mut Caller<'_>) -> Result<Flow, RawFault> {
    let Some(lanes) = convergence::gather(caller, Aligned::ClusterArrive)? else {
        caller.wait(Waiting::Cluster);
        return Ok(Flow::Suspend);
    };
    let phase = caller.with_barrier(|barrier| barrier.phase);
    for thread in threads(caller, lanes) {
        if caller.block.threads[thread].cluster_phase.is_some() {
            return Err(RawFault::new(
                FaultKind::BarrierMisuse,
                "arrives at the cluster barrier twice, with no wait between",
            ));
        }
        caller.block.threads[thread].cluster_phase = Some(phase);
        let released = caller.block.clocks.release(thread);
        caller.with_barrier(|barrier| {
            barrier.arrived += 1;
            barrier.arriving.join(&released);
        });
        if thread != caller.thread {
            caller.block.wake(thread);
        }
    }
    complete_if_full(caller);
    Ok(Flow::Continue)
}

/// The threads of the caller's warp with these lanes.
fn threads(caller: &Caller<'_>, lanes: u32) -> Vec<usize> {
    let first = caller.thread / WARP * WARP;
    (0..WARP).filter(|lane| lanes >> lane & 1 != 0).map(|lane| first + lane).collect()
}

/// A thread that has arrived waits before it ends, and a block ends after all uses of its shared memory by others.
pub(crate) fn thread_ended(caller: &Caller<'_>) -> Result<(), RawFault> {
    if caller.block.threads[caller.thread].cluster_phase.is_some() {
        return Err(RawFault::new(
            FaultKind::BarrierMisuse,
            "ends after its arrival at the cluster barrier, with no wait",
        ));
    }
    if caller.block.live > 0 {
        return Ok(());
    }
    match caller.block.unseen_remote_use() {
        None => Ok(()),
        Some(access) => Err(RawFault {
            kind: FaultKind::InFlightAtExit,
            message: format!(
                "its block has ended, and nothing orders that after thread {} of another block of the cluster used \
                 its shared memory",
                access.actor.index()
            ),
            other: Some(access.site),
        }),
    }
}

/// Ends the phase if every thread of the cluster that has not ended has arrived.
pub(crate) fn complete_if_full(caller: &mut Caller<'_>) {
    let mut live = 0;
    caller.for_each_block(|block| live += block.live);
    let waiting = caller.with_barrier(|barrier| {
        if barrier.arrived == 0 || barrier.arrived < live {
            return Vec::new();
        }
        barrier.arrived = 0;
        barrier.phase += 1;
        barrier.ended = std::mem::take(&mut barrier.arriving);
        std::mem::take(&mut barrier.waiting)
    });
    let mut rank = 0;
    caller.for_each_block(|block| {
        waiting.iter().filter(|(other, _)| *other == rank).for_each(|(_, thread)| block.wake(*thread));
        rank += 1;
    });
}

/// Waits for the phase that the threads arrived in. Their results say whether it has ended.
pub(crate) fn wait(caller: &mut Caller<'_>) -> Result<Flow, RawFault> {
    caller.block.threads[caller.thread].result = 0;
    let Some(lanes) = convergence::gather(caller, Aligned::ClusterWait)? else {
        caller.wait(Waiting::Cluster);
        return Ok(Flow::Suspend);
    };
    let rank = caller.block.rank;
    let mut flow = Flow::Continue;
    for thread in threads(caller, lanes) {
        let Some(phase) = caller.block.threads[thread].cluster_phase else {
            return Err(RawFault::new(
                FaultKind::BarrierMisuse,
                "waits at the cluster barrier without an arrival",
            ));
        };
        let ended = caller.with_barrier(|barrier| {
            if barrier.phase > phase {
                return Some(barrier.ended.clone());
            }
            barrier.waiting.push((rank, thread));
            None
        });
        let Some(released) = ended else {
            flow = Flow::Suspend;
            continue;
        };
        let state = &mut caller.block.threads[thread];
        state.result = 1;
        state.cluster_phase = None;
        caller.block.clocks.acquire_released(thread, &released, Reach::Everything);
        if thread != caller.thread {
            caller.block.wake(thread);
        }
    }
    if flow == Flow::Suspend {
        caller.wait(Waiting::Cluster);
    }
    Ok(flow)
}

/// The address of another block's memory at the place of `own`.
pub(crate) fn pointer(caller: &mut Caller<'_>, own: usize, rank: usize) -> Result<usize, RawFault> {
    if rank == caller.block.rank {
        return Ok(own);
    }
    let window = caller.block.shared.window_address(own).filter(|_| caller.block.shared.is_dynamic(own));
    let Some(window) = window else {
        return Err(RawFault::new(
            FaultKind::OutOfBounds,
            "other blocks' shared memory is reached through addresses of dynamic shared memory only",
        ));
    };
    caller.peer(rank)?.shared.window_pointer(window).ok_or_else(|| {
        RawFault::new(FaultKind::OutOfBounds, format!("shared address {window:#x} of another block"))
    })
}

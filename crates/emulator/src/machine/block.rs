//! A block of threads in the course of its execution.

use crate::machine::ready::ReadyThreads;
use crate::machine::schedule::{Random, ThreadOrder};
use crate::machine::thread::Fiber;
use crate::mechanisms::barrier::Barrier;
use crate::mechanisms::cluster::ClusterBarrier;
use crate::mechanisms::cp_async::Copies;
use crate::mechanisms::mbarrier::Mbarrier;
use crate::mechanisms::tma::Stores;
use crate::mechanisms::warp::{Collective, CollectiveKind};
use crate::mechanisms::wgmma::{Instruction, WARPGROUP, Warpgroup};
use crate::memory::clock::{Clocks, Released, Stamp};
use crate::memory::shadow::Access;
use crate::memory::shared::SharedMemory;

/// Lanes of a warp.
pub(crate) const WARP: usize = 32;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Barrier { id: usize },
    Warp { kind: CollectiveKind, mask: u32 },
    Warpgroup { instruction: Instruction },
    Mbarrier { address: u32, parity: u32 },
    Cluster,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Waiting::Barrier { id: 0 } => write!(f, "__syncthreads"),
            Waiting::Barrier { id } => write!(f, "named barrier {id}"),
            Waiting::Warp { kind, mask } => write!(f, "{kind} of lanes {mask:#010x}"),
            Waiting::Warpgroup { instruction } => write!(f, "{instruction}"),
            Waiting::Mbarrier { address, parity } => {
                write!(f, "the mbarrier at {address:#x} for parity {parity}")
            }
            Waiting::Cluster => write!(f, "the cluster barrier"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    Waiting(Waiting),
    /// In a loop that waits for memory to change.
    Spinning,
    Exited,
}

#[derive(Debug)]
pub(crate) struct ThreadState {
    pub fiber: Option<Fiber>,
    pub status: Status,
    /// Program counter of the last call into the emulator.
    pub pc: usize,
    /// What a collective operation gave this thread.
    pub result: u64,
    pub copies: Copies,
    /// What the last fence of device scope made releasable by later atomic operations.
    pub fenced: Released,
    /// What earlier atomic operations read, to be acquired by the next fence.
    pub observed: Released,
    pub stores: Stores,
    /// Phase of the cluster barrier that the thread arrived in and has not waited for.
    pub cluster_phase: Option<u32>,
    /// Counts of the thread's clock at its fences of the asynchronous proxy, ascending.
    proxy_fences: Vec<u32>,
    /// What the thread had seen at the last of them.
    at_proxy_fence: Option<Stamp>,
}

/// Lanes of a warp that meet in collective operations.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub collectives: Vec<Collective>,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub index: [u32; 3],
    pub threads: Vec<ThreadState>,
    pub warps: Vec<Warp>,
    pub warpgroups: Vec<Warpgroup>,
    pub barriers: [Barrier; 16],
    pub mbarriers: Vec<Mbarrier>,
    /// Rank in the cluster.
    pub rank: usize,
    /// The blocks of the cluster by rank, with this one.
    pub peers: Vec<*mut Block>,
    /// In use in the block of rank 0.
    pub cluster_barrier: ClusterBarrier,
    pub clocks: Clocks,
    pub shared: SharedMemory,
    /// Threads that have not ended.
    pub live: usize,
    ready: ReadyThreads,
}

impl Block {
    pub fn new(
        index: [u32; 3],
        sequence: u32,
        fibers: Vec<Fiber>,
        shared: SharedMemory,
        order: ThreadOrder,
        random: &mut Random,
    ) -> Self {
        let count = fibers.len();
        let threads = fibers
            .into_iter()
            .map(|fiber| ThreadState {
                fiber: Some(fiber),
                status: Status::Ready,
                pc: 0,
                result: 0,
                copies: Copies::default(),
                fenced: Released::default(),
                observed: Released::default(),
                stores: Stores::default(),
                cluster_phase: None,
                proxy_fences: Vec::new(),
                at_proxy_fence: None,
            })
            .collect();
        let warps = (0..count.div_ceil(WARP)).map(|_| Warp::default()).collect();
        Block {
            index,
            threads,
            warps,
            warpgroups: (0..count / WARPGROUP).map(|_| Warpgroup::default()).collect(),
            barriers: std::array::from_fn(|_| Barrier::default()),
            mbarriers: Vec::new(),
            rank: 0,
            peers: Vec::new(),
            cluster_barrier: ClusterBarrier::default(),
            clocks: Clocks::new(sequence, count),
            shared,
            live: count,
            ready: ReadyThreads::new(count, order, random),
        }
    }

    /// The thread's writes so far, and those it has seen, may be read by the asynchronous proxy.
    pub fn fence_proxy(&mut self, thread: usize) {
        let count = self.clocks.now(thread);
        let stamp = self.clocks.arrive(thread);
        let state = &mut self.threads[thread];
        state.proxy_fences.push(count);
        state.at_proxy_fence = Some(stamp);
    }

    /// Whether a fence of its writer, or the reader's own, lies between a write that the reader sees and now.
    pub fn is_fenced(&self, reader: usize, write: &Access) -> bool {
        let Some(writer) = self.threads.get(write.actor.index()) else { return true };
        if write.actor.block() != self.clocks.block() {
            return false;
        }
        let next = writer.proxy_fences.partition_point(|count| *count < write.count);
        let by_writer =
            writer.proxy_fences.get(next).is_some_and(|count| self.clocks.sees(reader, write.actor, *count));
        let own = &self.threads[reader].at_proxy_fence;
        by_writer || own.as_ref().is_some_and(|stamp| stamp.sees(write.actor, write.count))
    }

    pub fn wake(&mut self, thread: usize) {
        self.threads[thread].status = Status::Ready;
        self.ready.push(thread);
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Wakes the threads that wait for memory to change; true if there are any.
    pub fn wake_spinning(&mut self) -> bool {
        let spinning: Vec<usize> =
            (0..self.threads.len()).filter(|&i| self.threads[i].status == Status::Spinning).collect();
        spinning.iter().for_each(|&thread| self.wake(thread));
        !spinning.is_empty()
    }

    /// Takes the thread that runs next.
    pub fn next_ready(&mut self, random: &mut Random) -> Option<usize> {
        self.ready.pop(random)
    }

    /// Lanes of a warp that have not ended.
    pub fn live_lanes(&self, warp: usize) -> u32 {
        let lanes = &self.threads[warp * WARP..((warp + 1) * WARP).min(self.threads.len())];
        lanes
            .iter()
            .enumerate()
            .filter(|(_, thread)| thread.status != Status::Exited)
            .fold(0, |mask, (lane, _)| mask | 1 << lane)
    }
}

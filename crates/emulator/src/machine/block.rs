//! A block of threads in the course of its execution.

use crate::machine::ready::ReadyThreads;
use crate::machine::schedule::{Random, ThreadOrder};
use crate::machine::thread::Fiber;
use crate::mechanisms::barrier::Barrier;
use crate::mechanisms::cluster::ClusterBarrier;
use crate::mechanisms::convergence::Gathering;
use crate::mechanisms::cp_async::Copies;
use crate::mechanisms::mbarrier::Mbarrier;
use crate::mechanisms::registers::RegisterPool;
use crate::mechanisms::tma::Stores;
use crate::mechanisms::warp::{Collective, CollectiveKind};
use crate::mechanisms::wgmma::{Instruction, WARPGROUP, Warpgroup};
use crate::memory::clock::{Clocks, Released, Stamp};
use crate::memory::shadow::Access;
use crate::memory::shared::SharedMemory;
use std::collections::HashMap;

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
    Registers { count: u32 },
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
            Waiting::Registers { count } => write!(f, "setmaxnreg.inc {count} for registers of other warps"),
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
    /// What the thread had seen at its last fence of the asynchronous proxy for global memory.
    pub at_global_fence: Option<Stamp>,
}

impl ThreadState {
    /// What the thread waits for.
    pub fn waits_for(&self) -> Option<Waiting> {
        match self.status {
            Status::Waiting(waiting) => Some(waiting),
            _ => None,
        }
    }
}

/// Lanes of a warp that meet in collective operations.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    /// Lanes that have not ended.
    live: u32,
    pub collectives: Vec<Collective>,
    /// Where lanes wait for the others, to execute an instruction as one.
    pub gathering: Option<Gathering>,
}

/// Where a block's clocks start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The block's number: no other block of the kernels that may overlap has it.
    pub number: u32,
    /// That of the launch's first block.
    pub first: u32,
    /// Whether the launch may overlap with the kernels before it.
    pub programmatic: bool,
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
    /// By thread of another block: its last use of this block's shared memory.
    remote_uses: HashMap<u32, Access>,
    pub registers: RegisterPool,
    pub clocks: Clocks,
    pub shared: SharedMemory,
    /// Threads that have not ended.
    pub live: usize,
    ready: ReadyThreads,
}

impl Block {
    pub fn new(
        index: [u32; 3],
        origin: Origin,
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
                at_global_fence: None,
            })
            .collect();
        let warps = (0..count)
            .step_by(WARP)
            .map(|first| Warp { live: u32::MAX >> (WARP - (count - first).min(WARP)), ..Warp::default() });
        Block {
            index,
            threads,
            warps: warps.collect(),
            warpgroups: (0..count / WARPGROUP).map(|_| Warpgroup::default()).collect(),
            barriers: std::array::from_fn(|_| Barrier::default()),
            mbarriers: Vec::new(),
            rank: 0,
            peers: Vec::new(),
            cluster_barrier: ClusterBarrier::default(),
            remote_uses: HashMap::new(),
            registers: RegisterPool::new(count),
            clocks: Clocks::new(origin.number, origin.first, origin.programmatic, count),
            shared,
            live: count,
            ready: ReadyThreads::new(count, order, random),
        }
    }

    /// A thread of another block of the cluster used this block's shared memory.
    pub fn note_remote_use(&mut self, access: Access) {
        self.remote_uses.insert(access.actor.bits(), access);
    }

    /// A use by another block that this block, which ends, cannot know to be over.
    pub fn unseen_remote_use(&self) -> Option<Access> {
        let is_seen = |access: &Access| {
            (0..self.threads.len()).any(|thread| self.clocks.sees_end(thread, access.actor, access.count))
        };
        self.remote_uses
            .values()
            .filter(|access| !is_seen(access))
            .min_by_key(|access| access.actor.bits())
            .copied()
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

    /// A thread has ended.
    pub fn end(&mut self, thread: usize) {
        self.threads[thread].status = Status::Exited;
        self.live -= 1;
        self.warps[thread / WARP].live &= !(1 << (thread % WARP));
    }

    /// Lanes of a warp that have not ended.
    pub fn live_lanes(&self, warp: usize) -> u32 {
        self.warps[warp].live
    }
}

//! Barriers in shared memory that count arrivals and bytes of asynchronous copies.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{Block, Waiting};
use crate::machine::caller::{Caller, Flow};
use crate::memory::access::{Request, check, violation};
use crate::memory::clock::{Actor, Clocks, Reach, Released};
use crate::memory::shadow::{Access, AccessKind};

const BYTES: usize = 8;
/// Largest number of bytes that may be outstanding.
const MAX_TRANSACTION_BYTES: i64 = (1 << 20) - 1;

/// A barrier. Threads of other blocks name it by the block and its address in the shared window.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    pub address: u32,
    expected: u32,
    pending: u32,
    /// Bytes announced and not come; negative while they come before they are announced.
    transaction_bytes: i64,
    phase: u32,
    /// Clocks of this phase's arrivals.
    arriving: Released,
    /// Clocks of the phases that have ended.
    ended: Released,
    waiting: Vec<usize>,
    /// Thread that initialised it.
    initialiser: usize,
    /// Count of that thread's clock at its fence since.
    fenced: Option<u32>,
}

impl Mbarrier {
    /// In words, for a deadlock's report.
    pub fn describe(&self) -> String {
        format!(
            "mbarrier at {:#x}: phase {}, {} of {} arrivals missing, {} bytes missing",
            self.address, self.phase, self.pending, self.expected, self.transaction_bytes
        )
    }

    /// A thread arrived, or bytes have come: ends the phase if that was the last. Returns the threads to wake.
    fn advance(&mut self) -> Vec<usize> {
        if self.pending > 0 || self.transaction_bytes != 0 {
            return Vec::new();
        }
        self.phase += 1;
        self.pending = self.expected;
        self.ended.join(&std::mem::take(&mut self.arriving));
        std::mem::take(&mut self.waiting)
    }
}

fn misuse(message: impl Into<String>) -> RawFault {
    RawFault::new(FaultKind::BarrierMisuse, message)
}

/// The window address of a barrier that the calling thread names by a pointer.
pub(crate) fn window_address(block: &Block, pointer: usize) -> Result<u32, RawFault> {
    if !pointer.is_multiple_of(BYTES) {
        return Err(RawFault::new(FaultKind::Misaligned, "an mbarrier is not at a multiple of 8 bytes"));
    }
    block.shared.window_address(pointer).ok_or_else(|| misuse("an mbarrier is not in shared memory"))
}

/// Position among the block's barriers.
pub(crate) fn find(block: &Block, address: u32) -> Result<usize, RawFault> {
    let position = block.mbarriers.iter().position(|barrier| barrier.address == address);
    position.ok_or_else(|| misuse(format!("the mbarrier at {address:#x} is not initialised")))
}

/// Records a use of the barrier's bytes: they must not be initialised at the same time.
pub(crate) fn touch(caller: &mut Caller<'_>, pointer: usize, atomic: bool) -> Result<(), RawFault> {
    let kind = AccessKind { write: true, atomic, asynchronous_proxy: false };
    check(caller, &Request::new(pointer, BYTES, kind))
}

pub(crate) fn init(caller: &mut Caller<'_>, pointer: usize, arrivals: u32) -> Result<Flow, RawFault> {
    let address = window_address(caller.block, pointer)?;
    if arrivals == 0 || arrivals >= 1 << 20 {
        return Err(misuse(format!("an mbarrier for {arrivals} arrivals")));
    }
    touch(caller, pointer, false)?;
    if caller.block.mbarriers.iter().any(|other| other.address == address && !other.waiting.is_empty()) {
        return Err(misuse(format!("the mbarrier at {address:#x} is initialised while threads wait at it")));
    }
    caller.block.mbarriers.retain(|other| other.address != address);
    caller.block.mbarriers.push(Mbarrier {
        address,
        expected: arrivals,
        pending: arrivals,
        transaction_bytes: 0,
        phase: 0,
        arriving: Released::default(),
        ended: Released::default(),
        waiting: Vec::new(),
        initialiser: caller.thread,
        fenced: None,
    });
    Ok(Flow::Continue)
}

/// `fence.mbarrier_init`: the thread's barriers may be used by asynchronous copies and other blocks.
pub(crate) fn fence_init(caller: &mut Caller<'_>) {
    let thread = caller.thread;
    let count = caller.block.clocks.now(thread);
    caller.block.clocks.arrive(thread);
    for barrier in caller.block.mbarriers.iter_mut().filter(|barrier| barrier.initialiser == thread) {
        barrier.fenced.get_or_insert(count);
    }
}

/// The barrier, in `owner`, must be visible beyond its block's ordinary accesses, and the calling thread must know.
pub(crate) fn check_fenced(
    clocks: &Clocks,
    thread: usize,
    owner: &Block,
    position: usize,
) -> Result<(), RawFault> {
    let barrier = &owner.mbarriers[position];
    let actor = Actor::new(owner.clocks.block(), barrier.initialiser);
    if barrier.fenced.is_some_and(|count| clocks.sees(thread, actor, count)) {
        return Ok(());
    }
    Err(RawFault::new(
        FaultKind::MissingProxyFence,
        format!(
            "the mbarrier at {:#x} was initialised with no fence.mbarrier_init after it that this thread knows of",
            barrier.address
        ),
    ))
}

/// The calling thread's use of a barrier.
fn arrival(caller: &Caller<'_>) -> Access {
    Access {
        actor: Actor::new(caller.block.clocks.block(), caller.thread),
        count: caller.block.clocks.now(caller.thread),
        site: caller.launch.site(caller.pc),
        kind: AccessKind { write: true, atomic: true, asynchronous_proxy: false },
    }
}

/// Records a use of a barrier in another block of the cluster, and returns its position there.
pub(crate) fn touch_remote(caller: &mut Caller<'_>, rank: usize, address: u32) -> Result<usize, RawFault> {
    let position = find(caller.peer(rank)?, address)?;
    let (thread, access) = (caller.thread, arrival(caller));
    // SAFETY: `peer` checked the rank: another block than the caller's, and alive.
    let peer = unsafe { &mut *caller.block.peers[rank] };
    let place = peer.shared.window_pointer(address).and_then(|pointer| peer.shared.locate(pointer, BYTES));
    if let Some(Ok(place)) = place
        && let Some((shadow, offset)) = peer.shared.shadow(place)
    {
        shadow.access(offset, BYTES, &access, &caller.block.clocks, thread).map_err(|problem| {
            let what = format!("uses an mbarrier of block {rank} of the cluster");
            violation(caller.launch, caller.block, problem, &what)
        })?;
    }
    check_fenced(&caller.block.clocks, thread, peer, position)?;
    Ok(position)
}

/// Arrives at the barrier, here or at the same place of another block of the cluster.
///
/// An arrival there tells of ordinary stores only where it has cluster scope.
pub(crate) fn arrive(
    caller: &mut Caller<'_>,
    pointer: usize,
    bytes: u32,
    block_rank: Option<usize>,
    cluster_scope: bool,
) -> Result<Flow, RawFault> {
    let address = window_address(caller.block, pointer)?;
    let rank = caller.block.rank;
    match block_rank {
        Some(other) if other != rank => {
            let position = touch_remote(caller, other, address)?;
            let access = arrival(caller);
            caller.peer(other)?.note_remote_use(access);
            let released = caller.block.clocks.release(caller.thread);
            let released = if cluster_scope { released } else { released.without_stores() };
            arrive_at(caller.peer(other)?, position, bytes, &released)?;
        }
        _ => {
            touch(caller, pointer, true)?;
            let released = caller.block.clocks.release(caller.thread);
            let position = find(caller.block, address)?;
            arrive_at(caller.block, position, bytes, &released)?;
        }
    }
    Ok(Flow::Continue)
}

fn arrive_at(block: &mut Block, position: usize, bytes: u32, released: &Released) -> Result<(), RawFault> {
    let barrier = &mut block.mbarriers[position];
    if barrier.pending == 0 {
        return Err(misuse(format!(
            "more than {} arrivals in one phase of the mbarrier at {:#x}",
            barrier.expected, barrier.address
        )));
    }
    barrier.transaction_bytes += i64::from(bytes);
    if barrier.transaction_bytes > MAX_TRANSACTION_BYTES {
        return Err(misuse(format!(
            "{} outstanding bytes at the mbarrier at {:#x}",
            barrier.transaction_bytes, barrier.address
        )));
    }
    barrier.pending -= 1;
    barrier.arriving.join(released);
    for thread in block.mbarriers[position].advance() {
        block.wake(thread);
    }
    Ok(())
}

/// Bytes of an asynchronous copy have come.
pub(crate) fn complete_bytes(block: &mut Block, position: usize, bytes: usize, released: &Released) {
    let barrier = &mut block.mbarriers[position];
    barrier.transaction_bytes -= bytes as i64;
    barrier.arriving.join(released);
    for thread in block.mbarriers[position].advance() {
        block.wake(thread);
    }
}

/// Waits for the end of the phase of a parity. The thread's result says whether it has ended. Only a wait with cluster scope
/// shows ordinary stores of other blocks.
pub(crate) fn wait(
    caller: &mut Caller<'_>,
    pointer: usize,
    parity: u32,
    cluster_scope: bool,
) -> Result<Flow, RawFault> {
    let address = window_address(caller.block, pointer)?;
    touch(caller, pointer, true)?;
    let position = find(caller.block, address)?;
    let block = &mut *caller.block;
    let barrier = &mut block.mbarriers[position];
    let ended = barrier.phase & 1 != parity & 1;
    block.threads[caller.thread].result = u64::from(ended);
    if ended {
        let reach = if cluster_scope { Reach::Everything } else { Reach::NoStores };
        block.clocks.acquire_released(caller.thread, &barrier.ended, reach);
        return Ok(Flow::Continue);
    }
    barrier.waiting.push(caller.thread);
    caller.wait(Waiting::Mbarrier { address, parity });
    Ok(Flow::Suspend)
}

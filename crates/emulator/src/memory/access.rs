//! Every load and store of a kernel: is it in bounds, aligned, written before, and ordered after what it conflicts with?

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::Block;
use crate::machine::caller::Caller;
use crate::machine::launch::Launch;
use crate::memory::clock::{Actor, IN_FLIGHT};
use crate::memory::proxy::Space;
use crate::memory::shadow::{Access, AccessKind, Fresh, Shadow, Violation};
use crate::memory::shared::SharedMemory;

/// An access to check and record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub address: usize,
    pub bytes: usize,
    /// What the address must be a multiple of.
    pub alignment: usize,
    pub kind: AccessKind,
    /// Whether it goes on after the instruction that started it.
    pub in_flight: bool,
}

impl Request {
    pub fn new(address: usize, bytes: usize, kind: AccessKind) -> Self {
        let alignment = if bytes.is_power_of_two() { bytes } else { 1 };
        Request { address, bytes, alignment, kind, in_flight: false }
    }

    fn verb(&self) -> &'static str {
        if self.kind.write { "writes" } else { "reads" }
    }

    fn out_of_bounds(&self, whereabouts: &str) -> RawFault {
        let message = format!("{} {} bytes {whereabouts}", self.verb(), self.bytes);
        RawFault::new(FaultKind::OutOfBounds, message)
    }

    fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(self.alignment)
    }

    /// What is wrong with the access to byte `offset` of what has this name.
    fn judge(
        &self,
        result: Result<Fresh, Violation>,
        launch: &Launch,
        block: &Block,
        (name, offset): (String, usize),
    ) -> RawFault {
        let what = format!("{} {} bytes at byte {offset} of {name}", self.verb(), self.bytes);
        match result {
            Err(problem) => violation(launch, block, problem, &what),
            Ok(_) => {
                RawFault::new(FaultKind::Misaligned, format!("{what}: not a multiple of {}", self.alignment))
            }
        }
    }
}

/// Checks and records an access by the calling thread.
pub(crate) fn check(caller: &mut Caller<'_>, request: &Request) -> Result<(), RawFault> {
    check_as(caller.launch, caller.block, caller.thread, caller.pc, request)
}

/// Checks an access as the calling thread's, and records it as that of an asynchronous engine.
pub(crate) fn check_for(caller: &mut Caller<'_>, engine: Actor, request: &Request) -> Result<(), RawFault> {
    record(caller.launch, caller.block, caller.thread, engine, caller.pc, request)
}

/// Checks and records an access by any thread of the block.
pub(crate) fn check_as(
    launch: &mut Launch,
    block: &mut Block,
    thread: usize,
    pc: usize,
    request: &Request,
) -> Result<(), RawFault> {
    let actor = Actor::new(block.clocks.block(), thread);
    record(launch, block, thread, actor, pc, request)
}

fn record(
    launch: &mut Launch,
    block: &mut Block,
    thread: usize,
    actor: Actor,
    pc: usize,
    request: &Request,
) -> Result<(), RawFault> {
    let Request { address, bytes, kind, in_flight, .. } = *request;
    let count = if in_flight { IN_FLIGHT } else { block.clocks.now(thread) };
    let access = Access { actor, count, site: launch.site(pc), kind };
    if let Some(place) = block.shared.locate(address, bytes) {
        let place = place.map_err(|whereabouts| request.out_of_bounds(&whereabouts))?;
        let Block { shared, clocks, .. } = block;
        shared.touch(place, bytes, launch.shared_limit)?;
        let Some((shadow, offset)) = shared.shadow(place) else { return Ok(()) };
        let result = shadow.access(offset, bytes, &access, clocks, thread);
        return match result {
            Ok(_) if request.is_aligned() => Ok(()),
            _ => Err(request.judge(result, launch, block, block.shared.name(place))),
        };
    }
    if let Some(result) = record_in_cluster(launch, block, thread, &access, request) {
        return result;
    }
    let number = launch.memory.block_number(block.clocks.block() - launch.first_block);
    match launch.memory.locate(address, bytes) {
        Ok((buffer, offset)) => {
            let result = buffer.shadow.access(offset, bytes, &access, &block.clocks, thread);
            if let Ok(fresh) = result {
                let sectors = buffer.sectors.touch(kind.write, offset, bytes, number);
                buffer.traffic.add(kind.write, bytes as u64, fresh, sectors);
                if request.is_aligned() {
                    return Ok(());
                }
            }
            let name = format!("`{}`", buffer.name);
            Err(request.judge(result, launch, block, (name, offset)))
        }
        // Constants of the library are read through ordinary addresses.
        Err(_) if !kind.write && launch.library.holds(address, bytes) => Ok(()),
        Err(whereabouts) => Err(request.out_of_bounds(&whereabouts.0)),
    }
}

/// The same in shared memory of another block of the cluster; `None` if the address is in none.
fn record_in_cluster(
    launch: &mut Launch,
    block: &mut Block,
    thread: usize,
    access: &Access,
    request: &Request,
) -> Option<Result<(), RawFault>> {
    for rank in (0..block.peers.len()).filter(|rank| *rank != block.rank) {
        // SAFETY: blocks of a cluster live until all have ended; this is another block than the caller's.
        let peer = unsafe { &mut *block.peers[rank] };
        let Some(place) = peer.shared.locate_dynamic(request.address, request.bytes) else { continue };
        if peer.live == 0 {
            return Some(Err(request.out_of_bounds("in shared memory of a block that has ended")));
        }
        return Some(place.map_err(|whereabouts| request.out_of_bounds(&whereabouts)).and_then(|place| {
            let Some((shadow, offset)) = peer.shared.shadow(place) else { return Ok(()) };
            let result = shadow.access(offset, request.bytes, access, &block.clocks, thread);
            match result {
                Ok(_) if request.is_aligned() => {
                    peer.note_remote_use(*access);
                    Ok(())
                }
                _ => {
                    let name = (format!("dynamic shared memory of block {rank} of the cluster"), offset);
                    Err(request.judge(result, launch, block, name))
                }
            }
        }));
    }
    None
}

/// What the asynchronous proxy reads or overwrites must have been fenced if ordinary stores wrote it.
pub(crate) fn check_proxy_fence(caller: &Caller<'_>, request: &Request) -> Result<(), RawFault> {
    let Request { address, bytes, .. } = *request;
    if let Some(place) = caller.block.shared.locate(address, bytes) {
        let Ok(place) = place else { return Ok(()) };
        let Some((shadow, offset)) = caller.block.shared.shadow_ref(place) else { return Ok(()) };
        return match unfenced(caller, shadow, Space::Shared, offset, bytes) {
            None => Ok(()),
            Some(write) => {
                let (name, offset) = caller.block.shared.name(place);
                Err(missing_fence(caller, request, &write, &format!("byte {offset} of {name}")))
            }
        };
    }
    let Some((buffer, offset)) = caller.launch.memory.find(address, bytes) else { return Ok(()) };
    match unfenced(caller, &buffer.shadow, Space::Global, offset, bytes) {
        None => Ok(()),
        Some(write) => {
            Err(missing_fence(caller, request, &write, &format!("byte {offset} of `{}`", buffer.name)))
        }
    }
}

/// The same for dynamic shared memory of another block of the cluster, which TMA overwrites.
pub(crate) fn check_proxy_fence_of_peer(
    caller: &Caller<'_>,
    shared: &SharedMemory,
    offset: usize,
    request: &Request,
) -> Result<(), RawFault> {
    match unfenced(caller, &shared.dynamic, Space::Shared, offset, request.bytes) {
        None => Ok(()),
        Some(write) => {
            let place = format!("byte {offset} of another block's dynamic shared memory");
            Err(missing_fence(caller, request, &write, &place))
        }
    }
}

/// An ordinary write of these bytes that the asynchronous proxy may not see yet.
fn unfenced(
    caller: &Caller<'_>,
    shadow: &Shadow,
    space: Space,
    offset: usize,
    bytes: usize,
) -> Option<Access> {
    let fences = &caller.launch.proxy_fences;
    shadow.writes(offset, bytes).find(|write| !fences.covers(caller.block, caller.thread, space, write))
}

fn missing_fence(caller: &Caller<'_>, request: &Request, write: &Access, place: &str) -> RawFault {
    let far = if write.actor.block() == caller.block.clocks.block() { "" } else { " of another block" };
    RawFault {
        kind: FaultKind::MissingProxyFence,
        message: format!(
            "the asynchronous proxy {} {place}, with no fence.proxy.async by thread {}{far} between its write and \
             the barrier after it{}",
            request.verb(),
            write.actor.index(),
            if far.is_empty() { "" } else { ", or none by the calling thread since" }
        ),
        other: Some(write.site),
    }
}

/// A fault from what the shadow memory objects to.
pub(crate) fn violation(launch: &Launch, block: &Block, problem: Violation, what: &str) -> RawFault {
    match problem {
        Violation::NeverWritten => {
            RawFault::new(FaultKind::NeverWritten, format!("{what}, which nobody has written"))
        }
        Violation::Race(other) => RawFault {
            kind: FaultKind::Race,
            message: format!("{what}, and nothing orders that after {}", describe(launch, block, &other)),
            other: Some(other.site),
        },
    }
}

/// The fault of an access through a pointer that is less aligned than its type.
pub(crate) fn misaligned(caller: &mut Caller<'_>, address: usize, alignment: usize) -> RawFault {
    let whereabouts = match caller.block.shared.locate(address, 1) {
        Some(Ok(place)) => {
            let (name, offset) = caller.block.shared.name(place);
            format!("at byte {offset} of {name}")
        }
        Some(Err(whereabouts)) => whereabouts,
        None => match caller.launch.memory.locate(address, 1) {
            Ok((buffer, offset)) => format!("at byte {offset} of `{}`", buffer.name),
            Err(whereabouts) => whereabouts.0,
        },
    };
    let message = format!("uses an address {whereabouts} that is not a multiple of {alignment}");
    RawFault::new(FaultKind::Misaligned, message)
}

/// The earlier access of a race, in words.
fn describe(launch: &Launch, block: &Block, other: &Access) -> String {
    let index = other.actor.index();
    let verb = match (other.count == IN_FLIGHT, other.kind.write) {
        (false, true) => "wrote it",
        (false, false) => "read it",
        (true, true) => "is still copying to it asynchronously",
        (true, false) => "is still copying from it asynchronously",
    };
    let who = if index < block.threads.len() {
        format!("thread {index}")
    } else {
        "an asynchronous operation".to_owned()
    };
    if other.actor.block() == block.clocks.block() {
        format!("{who} of the block, which {verb}")
    } else if block.clocks.is_earlier(other.actor) {
        format!("{who} of a kernel before this one, which {verb}: this thread has not waited for it")
    } else {
        let [x, y, z] = launch.block_index(other.actor.block() - launch.first_block);
        format!("{who} of block ({x}, {y}, {z}), which {verb}")
    }
}

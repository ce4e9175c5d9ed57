//! `cp.async`: copies from global to shared memory that the issuing thread waits for in groups.
//!
//! Until then source and destination count as in use: no thread, not even the issuing one, may touch the destination or
//! write the source. The bytes move when they are issued, or when they are waited for, as the schedule has it.

use crate::fault::{FaultKind, RawFault};
use crate::machine::caller::Caller;
use crate::machine::schedule::Completion;
use crate::memory::access::{Request, check};
use crate::memory::clock::{Actor, IN_FLIGHT};
use crate::memory::shadow::{Access, AccessKind};
use crate::memory::shared::SharedPlace;
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
struct Copy {
    shared: usize,
    global: usize,
    bytes: usize,
    /// Bytes that are read; the rest becomes zero.
    source_bytes: usize,
    moved: bool,
    pc: usize,
}

/// Copies that a thread has issued and not waited for.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    open: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
}

impl Copies {
    /// How many copies are in flight.
    pub fn in_flight(&self) -> usize {
        self.open.len() + self.groups.iter().map(Vec::len).sum::<usize>()
    }
}

impl Copy {
    fn run(&mut self) {
        if self.moved {
            return;
        }
        self.moved = true;
        // SAFETY: both ranges were checked when the copy was issued, and buffers live as long as the launch.
        unsafe {
            let shared = self.shared as *mut u8;
            shared.copy_from_nonoverlapping(self.global as *const u8, self.source_bytes);
            shared.add(self.source_bytes).write_bytes(0, self.bytes - self.source_bytes);
        }
    }
}

pub(crate) fn issue(
    caller: &mut Caller<'_>,
    shared: usize,
    global: usize,
    bytes: usize,
    source_bytes: usize,
) -> Result<(), RawFault> {
    if source_bytes > bytes {
        return Err(RawFault::new(
            FaultKind::InvalidOperand,
            format!("cp.async of {bytes} bytes from {source_bytes} bytes"),
        ));
    }
    if caller.block.shared.window_address(shared).is_none() {
        return Err(RawFault::new(
            FaultKind::OutOfBounds,
            "cp.async: the destination is not in shared memory",
        ));
    }
    if !global.is_multiple_of(bytes) {
        return Err(RawFault::new(
            FaultKind::Misaligned,
            format!("cp.async: the source is not at a multiple of {bytes} bytes"),
        ));
    }
    if source_bytes > 0 {
        let read =
            Request { alignment: 1, in_flight: true, ..Request::new(global, source_bytes, AccessKind::READ) };
        check(caller, &read)?;
    }
    check(caller, &Request { in_flight: true, ..Request::new(shared, bytes, AccessKind::WRITE) })?;
    let mut copy = Copy { shared, global, bytes, source_bytes, moved: false, pc: caller.pc };
    if match caller.launch.schedule.completion {
        Completion::Eager => true,
        Completion::Late => false,
        Completion::Random => caller.launch.random.coin(),
    } {
        copy.run();
    }
    caller.block.threads[caller.thread].copies.open.push(copy);
    Ok(())
}

pub(crate) fn commit(caller: &mut Caller<'_>) {
    let copies = &mut caller.block.threads[caller.thread].copies;
    let group = std::mem::take(&mut copies.open);
    copies.groups.push_back(group);
}

/// Waits until at most `pending` groups are unfinished.
pub(crate) fn wait(caller: &mut Caller<'_>, pending: usize) {
    loop {
        let copies = &mut caller.block.threads[caller.thread].copies;
        if copies.groups.len() <= pending {
            return;
        }
        for mut copy in copies.groups.pop_front().unwrap_or_default() {
            copy.run();
            complete(caller, &copy);
        }
    }
}

/// From now on the copy counts as done by the thread.
fn complete(caller: &mut Caller<'_>, copy: &Copy) {
    let access = |kind, count| Access {
        actor: Actor::new(caller.block.clocks.block(), caller.thread),
        count,
        site: caller.launch.site(copy.pc),
        kind,
    };
    let now = caller.block.clocks.now(caller.thread);
    let (from, to) = (access(AccessKind::WRITE, IN_FLIGHT), access(AccessKind::WRITE, now));
    match caller.block.shared.locate(copy.shared, copy.bytes) {
        Some(Ok(SharedPlace::Dynamic(offset))) => {
            caller.block.shared.dynamic.complete(offset, copy.bytes, from, to);
        }
        Some(Ok(SharedPlace::Declared(offset))) => {
            caller.block.shared.declared.complete(offset, copy.bytes, from, to);
        }
        _ => {}
    }
    let (from, to) = (access(AccessKind::READ, IN_FLIGHT), access(AccessKind::READ, now));
    if let Ok((buffer, offset)) = caller.launch.memory.locate(copy.global, copy.source_bytes) {
        buffer.shadow.complete(offset, copy.source_bytes, from, to);
    }
}

//! Every load and store of a kernel: is it in bounds, aligned, written before, and ordered after what it conflicts with?

use crate::block::Block;
use crate::caller::Caller;
use crate::clock::{Actor, IN_FLIGHT};
use crate::fault::{FaultKind, RawFault};
use crate::launch::Launch;
use crate::shadow::{Access, AccessKind, Fresh, Violation};
use crate::shared::SharedPlace;

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
}

/// Checks and records an access by the calling thread.
pub(crate) fn check(caller: &mut Caller<'_>, request: &Request) -> Result<(), RawFault> {
    check_as(caller.launch, caller.block, caller.thread, caller.pc, request)
}

/// Checks and records an access by any thread of the block.
pub(crate) fn check_as(
    launch: &mut Launch,
    block: &mut Block,
    thread: usize,
    pc: usize,
    request: &Request,
) -> Result<(), RawFault> {
    let Request { address, bytes, alignment, kind, in_flight } = *request;
    let access = Access {
        actor: Actor::new(block.clocks.block(), thread),
        count: if in_flight { IN_FLIGHT } else { block.clocks.now(thread) },
        site: launch.site(pc),
        kind,
    };
    let name;
    let result = if let Some(place) = block.shared.locate(address, bytes) {
        match place {
            Ok(SharedPlace::Ignored) => return Ok(()),
            Ok(place @ (SharedPlace::Dynamic(offset) | SharedPlace::Declared(offset))) => {
                let shadow = match place {
                    SharedPlace::Dynamic(_) => &mut block.shared.dynamic,
                    _ => &mut block.shared.declared,
                };
                let result = shadow.access(offset, bytes, &access, &block.clocks, thread);
                if result.is_ok() && address.is_multiple_of(alignment) {
                    return Ok(());
                }
                name = block.shared.name(place);
                result
            }
            Err(whereabouts) => {
                let message = format!("{} {bytes} bytes {whereabouts}", request.verb());
                return Err(RawFault::new(FaultKind::OutOfBounds, message));
            }
        }
    } else {
        match launch.memory.locate(address, bytes) {
            Ok((buffer, offset)) => {
                let result = buffer.shadow.access(offset, bytes, &access, &block.clocks, thread);
                if let Ok(Fresh { read, written }) = result {
                    let traffic = &mut buffer.traffic;
                    if kind.write {
                        traffic.writes += 1;
                        traffic.bytes_written += bytes as u64;
                        traffic.unique_bytes_written += written;
                    } else {
                        traffic.reads += 1;
                        traffic.bytes_read += bytes as u64;
                        traffic.unique_bytes_read += read;
                    }
                    if address.is_multiple_of(alignment) {
                        return Ok(());
                    }
                }
                name = (format!("`{}`", buffer.name), offset);
                result
            }
            // Constants of the library are read through ordinary addresses.
            Err(_) if !kind.write && launch.library.holds(address, bytes) => return Ok(()),
            Err(whereabouts) => {
                let message = format!("{} {bytes} bytes {}", request.verb(), whereabouts.0);
                return Err(RawFault::new(FaultKind::OutOfBounds, message));
            }
        }
    };
    let (name, offset) = name;
    let what = format!("{} {bytes} bytes at byte {offset} of {name}", request.verb());
    Err(match result {
        Ok(_) => RawFault::new(FaultKind::Misaligned, format!("{what}: not a multiple of {alignment}")),
        Err(Violation::NeverWritten) => {
            RawFault::new(FaultKind::NeverWritten, format!("{what}, which nobody has written"))
        }
        Err(Violation::Race(other)) => RawFault {
            kind: FaultKind::Race,
            message: format!("{what}, and nothing orders that after {}", describe(launch, block, &other)),
            other: Some(other.site),
        },
    })
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
    } else {
        let [x, y, z] = launch.block_index(other.actor.block());
        format!("{who} of block ({x}, {y}, {z}), which {verb}")
    }
}

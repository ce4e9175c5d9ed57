//! Atomic operations and fences.
//!
//! Ordering follows the CUDA memory model for release and acquire: an operation with those semantics, or a relaxed one
//! between fences of device scope, publishes what its thread has seen and done, and passes on what others published at
//! the same address.

use crate::fault::RawFault;
use crate::machine::caller::Caller;
use crate::memory::access::{Request, check};
use crate::memory::clock::Reach;
use crate::memory::shadow::AccessKind;

/// The operations, numbered as `emulator::AtomicOperation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Load,
    Store,
    Exchange,
    CompareExchange,
    Add,
    Minimum,
    Maximum,
    SignedMinimum,
    SignedMaximum,
    And,
    Or,
    Xor,
}

impl Operation {
    pub fn from_ffi(number: u32) -> Self {
        use Operation::*;
        const ALL: [Operation; 12] = [
            Load,
            Store,
            Exchange,
            CompareExchange,
            Add,
            Minimum,
            Maximum,
            SignedMinimum,
            SignedMaximum,
            And,
            Or,
            Xor,
        ];
        ALL[number as usize % ALL.len()]
    }

    /// The new value, if the operation writes one.
    fn apply(self, old: u64, operand: u64, expected: u64, bits: u32) -> Option<u64> {
        let signed = |value: u64| (value << (64 - bits)) as i64 >> (64 - bits);
        Some(match self {
            Operation::Load => return None,
            Operation::Store | Operation::Exchange => operand,
            Operation::CompareExchange if old == expected => operand,
            Operation::CompareExchange => return None,
            Operation::Add => old.wrapping_add(operand),
            Operation::Minimum => old.min(operand),
            Operation::Maximum => old.max(operand),
            Operation::SignedMinimum if signed(old) <= signed(operand) => old,
            Operation::SignedMaximum if signed(old) >= signed(operand) => old,
            Operation::SignedMinimum | Operation::SignedMaximum => operand,
            Operation::And => old & operand,
            Operation::Or => old | operand,
            Operation::Xor => old ^ operand,
        })
    }
}

/// Which way an operation synchronises.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub acquire: bool,
    pub release: bool,
}

impl Order {
    pub fn from_ffi(bits: u32) -> Self {
        Order { acquire: bits & 1 != 0, release: bits & 2 != 0 }
    }
}

/// Does the operation on 4 or 8 bytes, and returns the old value.
pub(crate) fn execute(
    caller: &mut Caller<'_>,
    operation: Operation,
    order: Order,
    address: usize,
    bytes: usize,
    operand: u64,
    expected: u64,
) -> Result<u64, RawFault> {
    let kind = |write| AccessKind { write, atomic: true, asynchronous_proxy: false };
    if operation != Operation::Store {
        check(caller, &Request::new(address, bytes, kind(false)))?;
    }
    if operation != Operation::Load {
        check(caller, &Request::new(address, bytes, kind(true)))?;
    }
    // SAFETY: checked: aligned bytes of a buffer or of shared memory. All threads run on one host thread.
    let old = unsafe {
        match bytes {
            4 => u64::from(*(address as *const u32)),
            _ => *(address as *const u64),
        }
    };
    let new = operation.apply(old, operand, expected, 8 * bytes as u32);
    if let Some(new) = new {
        // SAFETY: as above.
        unsafe {
            match bytes {
                4 => *(address as *mut u32) = new as u32,
                _ => *(address as *mut u64) = new,
            }
        }
    }
    synchronise(caller, address, order, operation != Operation::Store, new.is_some());
    Ok(old)
}

fn synchronise(caller: &mut Caller<'_>, address: usize, order: Order, reads: bool, writes: bool) {
    let thread = caller.thread;
    if reads && let Some(published) = caller.launch.published.get(&address) {
        if order.acquire {
            caller.block.clocks.acquire_released(thread, published, Reach::Everything);
        }
        caller.block.threads[thread].observed.join(published);
    }
    if writes {
        let released = if order.release {
            caller.block.clocks.release(thread)
        } else {
            caller.block.threads[thread].fenced.clone()
        };
        caller.launch.published.entry(address).or_default().join(&released);
    }
}

/// A fence of device scope.
pub(crate) fn fence(caller: &mut Caller<'_>) {
    let thread = caller.thread;
    let observed = std::mem::take(&mut caller.block.threads[thread].observed);
    caller.block.clocks.acquire_released(thread, &observed, Reach::Everything);
    caller.block.threads[thread].fenced = caller.block.clocks.release(thread);
}

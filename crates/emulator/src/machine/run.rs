//! Runs the blocks of a grid.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::{Block, Status};
use crate::machine::caller::Caller;
use crate::machine::deadlock::deadlock;
use crate::machine::launch::Launch;
use crate::machine::schedule::{Completion, ThreadOrder};
use crate::mechanisms::{barrier, cluster, convergence, registers, tma, warp, wgmma};
use crate::memory::clock::Actor;
use crate::memory::shared::random_base;

/// Rounds in which threads only looked for a change of memory, before they count as stuck.
const STALLED_ROUNDS: u32 = 1000;

/// Blocks that run side by side.
struct Group {
    /// From `Box::into_raw`.
    blocks: Vec<*mut Block>,
    /// The one whose declared shared variables are in place.
    current: usize,
    /// Whether a thread did more than wait since waiting threads last looked at memory.
    progress: bool,
    stalled: u32,
}

/// Runs the launch to its end or first fault.
pub(crate) fn run(launch: &mut Launch) -> std::io::Result<()> {
    let total = launch.blocks.end - launch.blocks.start;
    debug_assert!(total <= Actor::MAX_BLOCKS);
    // A cluster's blocks are neighbours in x, and run side by side.
    let cluster = launch.kernel.cluster.max(1);
    let mut order: Vec<u32> = (0..total as u32).step_by(cluster as usize).collect();
    if launch.schedule.threads != ThreadOrder::InOrder {
        for last in (1..order.len()).rev() {
            let other = launch.random.below(last + 1);
            order.swap(last, other);
        }
    }
    let mut waiting = order.into_iter();
    let mut group = Group { blocks: Vec::new(), current: 0, progress: true, stalled: 0 };
    let launch: *mut Launch = launch;
    // SAFETY: blocks are alive until taken out of the group, and references to them and to the launch are short: none
    // is held while a thread runs.
    let result = unsafe { run_group(launch, &mut group, &mut waiting) };
    for block in group.blocks.drain(..) {
        // SAFETY: from `Box::into_raw`, and taken out of the group here. No thread runs.
        unsafe { (*launch).recycle(*Box::from_raw(block)) }
    }
    result
}

/// # Safety
/// `launch` and the group's blocks are alive, and nobody else holds references to them.
unsafe fn run_group(
    launch: *mut Launch,
    group: &mut Group,
    waiting: &mut std::vec::IntoIter<u32>,
) -> std::io::Result<()> {
    // SAFETY: the caller's condition, for the whole function; each borrow ends with its statement.
    unsafe {
        loop {
            let wanted = (*launch).schedule.resident_blocks.max(1);
            while group.blocks.len() < wanted
                && has_room(&*launch, group)
                && let Some(sequence) = waiting.next()
            {
                add_cluster(launch, group, sequence)?;
            }
            if group.blocks.is_empty() {
                return Ok(());
            }
            if (*launch).schedule.completion == Completion::Random && (*launch).random.below(64) == 0 {
                complete_load(launch);
            }
            if !choose_block(launch, group) {
                if complete_load(launch) {
                    group.progress = true;
                    continue;
                }
                if wake_spinning(group) {
                    continue;
                }
                if has_room(&*launch, group)
                    && let Some(sequence) = waiting.next()
                {
                    add_cluster(launch, group, sequence)?;
                    continue;
                }
                if group.stalled < STALLED_ROUNDS && force_spinning(group) {
                    continue;
                }
                let fault = deadlock(&*launch, &group.blocks, waiting.len());
                (*launch).fault = Some((fault, None));
                return Ok(());
            }
            let block = group.blocks[group.current];
            let Some(thread) = (*block).next_ready(&mut (*launch).random) else {
                continue;
            };
            let Some(mut fiber) = (&mut (*block).threads)[thread].fiber.take() else {
                continue;
            };
            (&mut (*block).threads)[thread].status = Status::Ready;
            let ended = fiber.resume();
            (&mut (*block).threads)[thread].fiber = Some(fiber);
            if ended && (*launch).fault.is_none() {
                thread_ended(&mut *launch, &mut *block, thread);
            }
            if (*launch).fault.is_some() {
                return Ok(());
            }
            if (&(*block).threads)[thread].status != Status::Spinning {
                group.progress = true;
            }
            let peers = &(*block).peers;
            if peers.iter().all(|peer| (**peer).live == 0) {
                let peers = peers.clone();
                group.blocks.retain(|block| !peers.contains(block));
                for peer in peers {
                    // Of these only the last to run has its variables in place.
                    if peer == block {
                        (*peer).shared.clear_in_place();
                    }
                    (*launch).recycle(*Box::from_raw(peer));
                }
                group.current = 0;
                if let Some(&next) = group.blocks.first() {
                    (*next).shared.swap_in();
                }
            }
        }
    }
}

/// Whether the device holds a cluster more than those that run.
fn has_room(launch: &Launch, group: &Group) -> bool {
    group.blocks.len() + launch.kernel.cluster.max(1) as usize <= launch.resident_limit
}

/// Starts the blocks of a cluster, the first of which has this number.
///
/// # Safety
/// As for [`run_group`].
unsafe fn add_cluster(launch: *mut Launch, group: &mut Group, first: u32) -> std::io::Result<()> {
    // SAFETY: the caller's condition.
    unsafe {
        if let Some(&current) = group.blocks.get(group.current) {
            (*current).shared.swap_out();
        }
        group.current = group.blocks.len();
        let base = random_base((*launch).shared_bytes, (*launch).shared_limit, &mut (*launch).random);
        for rank in 0..(*launch).kernel.cluster.max(1) {
            let block = (*launch).start_block(first + rank, rank, base)?;
            group.blocks.push(Box::into_raw(block));
        }
        let peers = group.blocks[group.current..].to_vec();
        for (rank, &block) in peers.iter().enumerate() {
            (*block).rank = rank;
            (*block).peers = peers.clone();
        }
        (*group.blocks[group.current]).shared.swap_in();
    }
    group.progress = true;
    group.stalled = 0;
    Ok(())
}

/// Stays with the current block while it has threads to run, mostly; false if no block has any.
///
/// # Safety
/// As for [`run_group`].
unsafe fn choose_block(launch: *mut Launch, group: &mut Group) -> bool {
    // SAFETY: the caller's condition.
    unsafe {
        let count = group.blocks.len();
        let change = count > 1
            && (*launch).schedule.threads != ThreadOrder::InOrder
            && (*launch).random.below(64) == 0;
        let start = if change { (*launch).random.below(count) } else { group.current };
        let candidates = (0..count).map(|step| (start + step) % count);
        let Some(chosen) = candidates.into_iter().find(|&i| (*group.blocks[i]).has_ready()) else {
            return false;
        };
        if chosen != group.current {
            (*group.blocks[group.current]).shared.swap_out();
            (*group.blocks[chosen]).shared.swap_in();
            group.current = chosen;
        }
        true
    }
}

/// Brings a box that TMA owes; false if it owes none.
///
/// # Safety
/// As for [`run_group`].
unsafe fn complete_load(launch: *mut Launch) -> bool {
    // SAFETY: the caller's condition.
    unsafe {
        let loads = &mut (*launch).loads;
        let count = loads.len();
        if count == 0 {
            return false;
        }
        let random = (*launch).schedule.completion == Completion::Random;
        let choice = if random { (*launch).random.below(count) } else { 0 };
        let load = loads.remove(choice);
        load.complete();
    }
    true
}

/// Lets threads that wait for a change of memory look again, if something has run since they did.
///
/// # Safety
/// As for [`run_group`].
unsafe fn wake_spinning(group: &mut Group) -> bool {
    if !std::mem::take(&mut group.progress) {
        return false;
    }
    group.stalled = 0;
    // SAFETY: the caller's condition.
    unsafe { force_spinning(group) }
}

/// Lets them look again in any case.
///
/// # Safety
/// As for [`run_group`].
unsafe fn force_spinning(group: &mut Group) -> bool {
    group.stalled += 1;
    let mut any = false;
    for &block in &group.blocks {
        // SAFETY: the caller's condition.
        any |= unsafe { (*block).wake_spinning() };
    }
    any
}

fn thread_ended(launch: &mut Launch, block: &mut Block, thread: usize) {
    let pc = block.threads[thread].pc;
    block.end(thread);
    let mut caller = Caller { launch, block, thread, pc };
    let result = check_in_flight(&caller)
        .and_then(|()| warp::thread_ended(&mut caller))
        .and_then(|()| wgmma::thread_ended(&mut caller))
        .and_then(|()| convergence::thread_ended(&mut caller))
        .and_then(|()| registers::thread_ended(&caller))
        .and_then(|()| cluster::thread_ended(&caller));
    barrier::thread_ended(&mut caller);
    cluster::complete_if_full(&mut caller);
    if let Err(fault) = result {
        caller.launch.record(fault, caller.block.index, thread, pc);
    }
}

/// A thread that ends must have waited for what it started.
fn check_in_flight(caller: &Caller<'_>) -> Result<(), RawFault> {
    let thread = &caller.block.threads[caller.thread];
    let loads = if caller.block.live == 0 { tma::in_flight_to(caller.launch, caller.block) } else { 0 };
    for (count, what) in [
        (thread.copies.in_flight(), "cp.async copies that it never waited for"),
        (thread.stores.reading(), "TMA stores that may still read its shared memory"),
        (loads, "TMA loads on their way to its block, whose last thread it is"),
    ] {
        if count > 0 {
            return Err(RawFault::new(FaultKind::InFlightAtExit, format!("ends with {count} {what}")));
        }
    }
    Ok(())
}

//! Runs the blocks of a grid.

use crate::block::{Block, Status, WARP};
use crate::caller::Caller;
use crate::clock::{Actor, Released};
use crate::fault::{FaultKind, Place, RawFault};
use crate::library::{Kernel, KernelLibrary};
use crate::memory::{GlobalMemory, RawMemory};
use crate::schedule::{Completion, Random, Schedule, ThreadOrder};
use crate::shadow::Site;
use crate::shared::{SharedMemory, StaticStorage, random_base};
use crate::thread::{AlignedStack, Fiber, Thread};
use crate::tma::Load;
use crate::{barrier, cluster, tma, warp, wgmma};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Rounds in which threads only looked for a change of memory, before they count as stuck.
const STALLED_ROUNDS: u32 = 1000;
/// Stacks and shared memory, kept between launches.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    stacks: Vec<AlignedStack>,
    shared: Vec<SharedMemory>,
}

/// What a launch is counted to have done beside its traffic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub tensor_core_operations: u64,
    pub matrix_bank_conflicts: u64,
}

/// A launch in the course of its execution: what its blocks share.
#[derive(Debug)]
pub(crate) struct Launch {
    pub library: Arc<KernelLibrary>,
    pub memory: GlobalMemory,
    pub schedule: Schedule,
    pub random: Random,
    pub work: Work,
    /// What atomic operations published, by address.
    pub published: HashMap<usize, Released>,
    /// Boxes that TMA has not brought yet.
    pub loads: Vec<Load>,
    /// The first fault. The launch ends with it.
    pub fault: Option<(RawFault, Option<Place>)>,
    kernel: Kernel,
    grid: [u32; 3],
    blocks: Range<u64>,
    dimensions: [u32; 3],
    shared_bytes: usize,
    shared_limit: usize,
    arguments: RawMemory,
    argument_bytes: usize,
    pool: Pool,
    statics: StaticStorage,
}

/// What a launch needs to start.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub library: Arc<KernelLibrary>,
    pub kernel: Kernel,
    pub grid: [u32; 3],
    /// The blocks that run, counted through the grid.
    pub blocks: Range<u64>,
    pub dimensions: [u32; 3],
    pub shared_bytes: usize,
    pub shared_limit: usize,
    pub arguments: &'a [u8],
    pub schedule: Schedule,
}

impl Launch {
    pub fn new(setup: Setup<'_>, memory: GlobalMemory, mut pool: Pool) -> Self {
        let Setup {
            library,
            kernel,
            grid,
            blocks,
            dimensions,
            shared_bytes,
            shared_limit,
            arguments,
            schedule,
        } = setup;
        let (start, bytes) = library.static_shared();
        let mut statics = StaticStorage { start, bytes, variables: library.variables.clone() };
        statics.poison(&(0..bytes));
        // Shared memory of another host thread or library is of no use.
        pool.shared.retain(|shared| shared.has_storage(start, bytes));
        let mut aligned = RawMemory::new(arguments.len());
        aligned.write(0, arguments);
        Launch {
            library,
            memory,
            schedule,
            random: Random::new(schedule.seed),
            work: Work::default(),
            published: HashMap::new(),
            loads: Vec::new(),
            fault: None,
            kernel,
            grid,
            blocks,
            dimensions,
            shared_bytes,
            shared_limit,
            arguments: aligned,
            argument_bytes: arguments.len(),
            pool,
            statics,
        }
    }

    /// Gives back what outlives the launch.
    pub fn into_parts(self) -> (GlobalMemory, Pool) {
        (self.memory, self.pool)
    }

    /// Offset of a program counter in the library.
    pub fn site(&self, pc: usize) -> Site {
        pc.wrapping_sub(self.library.image_start()) as Site
    }

    /// Index in the grid of the block with this number among those that run.
    pub fn block_index(&self, sequence: u32) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        let number = self.blocks.start + u64::from(sequence);
        [number % x, number / x % y, number / x / y].map(|index| index as u32)
    }

    /// Keeps the first fault.
    pub fn record(&mut self, fault: RawFault, block: [u32; 3], thread: usize, pc: usize) {
        let place = Place { block, thread, site: self.site(pc) };
        self.fault.get_or_insert((fault, Some(place)));
    }

    /// Bytes of the kernel's argument at an address.
    pub fn argument_bytes_at(&self, address: usize, bytes: usize) -> Option<&[u8]> {
        let offset = address.checked_sub(self.arguments.start())?;
        if offset > self.argument_bytes || bytes > self.argument_bytes - offset {
            return None;
        }
        // SAFETY: the range lies in the arguments, which nobody writes while the launch runs.
        Some(unsafe { std::slice::from_raw_parts(self.arguments.pointer().add(offset), bytes) })
    }

    /// Starts a block with dynamic shared memory at `base`.
    fn start_block(&mut self, sequence: u32, rank: u32, base: usize) -> std::io::Result<Box<Block>> {
        let mut shared = self.pool.shared.pop().unwrap_or_else(|| SharedMemory::new(self.statics.clone()));
        shared.start_block(self.shared_bytes, base);
        let index = self.block_index(sequence);
        let [width, height, depth] = self.dimensions;
        let count = (width * height * depth) as usize;
        let launch: *mut Launch = self;
        let mut fibers = Vec::with_capacity(count);
        for thread in 0..count {
            let stack = match self.pool.stacks.pop() {
                Some(stack) => stack,
                None => AlignedStack::new()?,
            };
            let number = thread as u32;
            let context = Thread {
                thread_index: [number % width, number / width % height, number / width / height],
                block_index: index,
                block_dimensions: self.dimensions,
                grid_dimensions: self.grid,
                dynamic_shared: shared.dynamic_pointer(),
                arguments: self.arguments.pointer(),
                argument_bytes: self.argument_bytes as u64,
                lane: number % WARP as u32,
                warp: number / WARP as u32,
                block_rank_in_cluster: rank,
                blocks_in_cluster: self.kernel.cluster,
                index: thread,
                launch,
                block: std::ptr::null_mut(),
                yielder: std::ptr::null(),
            };
            // SAFETY: the launch is neither moved nor dropped while its blocks run, the arguments have the size that the
            // kernel declares, and the block's address is filled in below.
            fibers.push(unsafe { Fiber::new(stack, context, self.kernel.entry) });
        }
        let mut block =
            Box::new(Block::new(index, sequence, fibers, shared, self.schedule.threads, &mut self.random));
        let address: *mut Block = &mut *block;
        for thread in &mut block.threads {
            if let Some(fiber) = &mut thread.fiber {
                fiber.set_block(address);
            }
        }
        Ok(block)
    }

    fn recycle(&mut self, block: Block) {
        let Block { threads, shared, .. } = block;
        self.pool.shared.push(shared);
        let fibers = threads.into_iter().filter_map(|thread| thread.fiber);
        self.pool.stacks.extend(fibers.map(Fiber::into_stack));
    }
}

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
    waiting: &mut impl Iterator<Item = u32>,
) -> std::io::Result<()> {
    // SAFETY: the caller's condition, for the whole function; each borrow ends with its statement.
    unsafe {
        loop {
            while group.blocks.len() < (*launch).schedule.resident_blocks.max(1)
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
                if let Some(sequence) = waiting.next() {
                    add_cluster(launch, group, sequence)?;
                    continue;
                }
                if group.stalled < STALLED_ROUNDS && force_spinning(group) {
                    continue;
                }
                let fault = deadlock(&*launch, group);
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
    block.threads[thread].status = Status::Exited;
    block.live -= 1;
    let mut caller = Caller { launch, block, thread, pc };
    let result = check_in_flight(&caller)
        .and_then(|()| warp::thread_ended(&mut caller))
        .and_then(|()| wgmma::thread_ended(&mut caller));
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

/// What every thread waits for, and how full every barrier is.
fn deadlock(launch: &Launch, group: &Group) -> RawFault {
    let mut message = String::from("no thread can go on");
    for &block in &group.blocks {
        // SAFETY: the group's blocks are alive, and no thread runs.
        let block = unsafe { &*block };
        let [x, y, z] = block.index;
        message += &format!("\n  block ({x}, {y}, {z}):");
        let describe = |thread: usize| {
            let state = &block.threads[thread];
            let place = crate::source::lines(launch.library.path(), launch.site(state.pc))
                .first()
                .map_or_else(String::new, |line| format!(" ({line})"));
            match state.status {
                Status::Ready => "are ready".to_owned(),
                Status::Exited => "have ended".to_owned(),
                Status::Spinning => format!("wait for memory to change{place}"),
                Status::Waiting(waiting) => format!("wait in {waiting}{place}"),
            }
        };
        let same = |a: usize, b: usize| {
            let (a, b) = (&block.threads[a], &block.threads[b]);
            a.status == b.status && (a.pc == b.pc || a.status == Status::Exited)
        };
        let mut first = 0;
        while first < block.threads.len() {
            let mut last = first;
            while last + 1 < block.threads.len() && same(first, last + 1) {
                last += 1;
            }
            message += &format!("\n    threads {first} to {last} {}", describe(first));
            first = last + 1;
        }
        for (id, barrier) in block.barriers.iter().enumerate() {
            if let Some(text) = barrier.describe(id, block.live) {
                message += &format!("\n    {text}");
            }
        }
        let more = (block.mbarriers.iter().map(|barrier| barrier.describe()))
            .chain(block.cluster_barrier.describe())
            .chain(block.warpgroups.iter().enumerate().filter_map(|(number, group)| group.describe(number)));
        for text in more {
            message += &format!("\n    {text}");
        }
        for (number, warp) in block.warps.iter().enumerate() {
            for collective in &warp.collectives {
                message += &format!("\n    {}", collective.describe(number));
            }
        }
    }
    RawFault::new(FaultKind::Deadlock, message)
}

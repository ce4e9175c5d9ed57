//! A launch: what its blocks share, and how they start and end.

use crate::fault::{Place, RawFault};
use crate::library::kernel_library::{Kernel, KernelLibrary};
use crate::machine::block::{Block, Origin, WARP};
use crate::machine::schedule::{Random, Schedule};
use crate::machine::thread::{AlignedStack, Fiber, Thread};
use crate::mechanisms::tma::Load;
use crate::memory::clock::Released;
use crate::memory::global::{GlobalMemory, RawMemory};
use crate::memory::proxy::ProxyFences;
use crate::memory::shadow::Site;
use crate::memory::shared::{SharedMemory, StaticStorage};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

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
    pub proxy_fences: ProxyFences,
    /// Whether a thread has waited for the kernels before this one.
    pub waited_for_earlier: bool,
    /// Number of the first block: those below are blocks of kernels that this one may overlap with.
    pub first_block: u32,
    /// Whether it may overlap with the kernels before it.
    pub programmatic: bool,
    /// The first fault. The launch ends with it.
    pub fault: Option<(RawFault, Option<Place>)>,
    pub(super) kernel: Kernel,
    grid: [u32; 3],
    pub(super) blocks: Range<u64>,
    dimensions: [u32; 3],
    pub(super) shared_bytes: usize,
    pub shared_limit: usize,
    /// Blocks that the device holds at a time.
    pub(super) resident_limit: usize,
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
    pub resident_limit: usize,
    pub first_block: u32,
    pub programmatic: bool,
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
            resident_limit,
            first_block,
            programmatic,
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
            proxy_fences: ProxyFences::default(),
            waited_for_earlier: false,
            first_block,
            programmatic,
            fault: None,
            kernel,
            grid,
            blocks,
            dimensions,
            shared_bytes,
            shared_limit,
            resident_limit,
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
    pub(super) fn start_block(
        &mut self,
        sequence: u32,
        rank: u32,
        base: usize,
    ) -> std::io::Result<Box<Block>> {
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
        let origin = Origin {
            number: self.first_block + sequence,
            first: self.first_block,
            programmatic: self.programmatic,
        };
        let order = self.schedule.threads;
        let mut block = Box::new(Block::new(index, origin, fibers, shared, order, &mut self.random));
        let address: *mut Block = &mut *block;
        for thread in &mut block.threads {
            if let Some(fiber) = &mut thread.fiber {
                fiber.set_block(address);
            }
        }
        Ok(block)
    }

    pub(super) fn recycle(&mut self, block: Block) {
        let Block { threads, shared, .. } = block;
        self.pool.shared.push(shared);
        let fibers = threads.into_iter().filter_map(|thread| thread.fiber);
        self.pool.stacks.extend(fibers.map(Fiber::into_stack));
    }
}

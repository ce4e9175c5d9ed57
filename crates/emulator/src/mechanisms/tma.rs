//! Copies of boxes by the tensor memory accelerator, through the asynchronous proxy.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::Block;
use crate::machine::caller::{Caller, Flow};
use crate::machine::launch::Launch;
use crate::machine::schedule::Completion;
use crate::mechanisms::mbarrier;
use crate::mechanisms::tensor_map::TensorMap;
use crate::memory::access::{Request, check, check_proxy_fence, check_proxy_fence_of_peer, violation};
use crate::memory::clock::{Actor, IN_FLIGHT};
use crate::memory::shadow::{Access, AccessKind, Site};
use std::collections::VecDeque;

const SHARED_ALIGNMENT: usize = 128;
/// Bytes that a swizzle keeps together.
const PIECE: usize = 16;

const WRITE: AccessKind = AccessKind { write: true, atomic: false, asynchronous_proxy: true };
const READ: AccessKind = AccessKind { write: false, atomic: false, asynchronous_proxy: true };

/// A box of a matrix, and where it lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Region {
    map: TensorMap,
    /// Address in the shared window, unswizzled.
    window: u32,
    column: i64,
    row: i64,
}

impl Region {
    fn new(
        caller: &Caller<'_>,
        map: usize,
        shared: usize,
        column: i32,
        row: i32,
    ) -> Result<Region, RawFault> {
        let operand = |message: String| RawFault::new(FaultKind::InvalidOperand, message);
        let bytes = caller
            .launch
            .argument_bytes_at(map, 128)
            .ok_or_else(|| operand("the tensor map is not in a kernel argument".into()))?;
        let map = <&[u8; 128]>::try_from(bytes)
            .ok()
            .and_then(TensorMap::decode)
            .ok_or_else(|| operand("the bytes of the tensor map are not a tensor map".into()))?;
        let window =
            caller.block.shared.window_address(shared).filter(|_| caller.block.shared.is_dynamic(shared));
        let window = window.ok_or_else(|| {
            RawFault::new(FaultKind::OutOfBounds, "TMA: the address is not in dynamic shared memory")
        })?;
        let alignment = map.swizzle.pattern_bytes().unwrap_or(SHARED_ALIGNMENT);
        if !(window as usize).is_multiple_of(alignment) {
            return Err(RawFault::new(
                FaultKind::Misaligned,
                format!("TMA: the shared address is not a multiple of {alignment}: {:?}", map.swizzle),
            ));
        }
        Ok(Region { map, window, column: i64::from(column), row: i64::from(row) })
    }

    /// Global address and bytes of the part of a box row that lies in the matrix, and its offset in the box row.
    fn inside(&self, box_row: usize) -> Option<(usize, usize, usize)> {
        let TensorMap { address, element_bytes, columns, rows, row_bytes, box_columns, .. } = self.map;
        let row = u64::try_from(self.row + box_row as i64).ok().filter(|row| *row < rows)?;
        let first = self.column.max(0);
        let last = (self.column + i64::from(box_columns)).min(columns as i64);
        if first >= last {
            return None;
        }
        let element = u64::from(element_bytes);
        let start = address + row * row_bytes + first as u64 * element;
        let bytes = (last - first) as u64 * element;
        Some((start as usize, bytes as usize, (first - self.column) as usize * element as usize))
    }

    /// Where byte `offset` of a box row lies in the shared window.
    fn place(&self, box_row: usize, offset: usize) -> u32 {
        self.map.swizzle.apply(self.window + (box_row * self.map.box_row_bytes() + offset) as u32)
    }

    /// Pieces of a box: row, offset in it, address in this block's shared memory.
    fn pieces<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
        let rows = 0..self.map.box_rows as usize;
        rows.flat_map(move |row| {
            (0..self.map.box_row_bytes()).step_by(PIECE).filter_map(move |offset| {
                Some((row, offset, block.shared.window_pointer(self.place(row, offset))?))
            })
        })
    }

    /// Copies into a block's shared memory, zero where the box leaves the matrix.
    fn load(&self, block: &Block) {
        for (row, offset, address) in self.pieces(block) {
            let mut piece = [0u8; PIECE];
            if let Some((global, bytes, start)) = self.inside(row) {
                let (first, last) = (offset.max(start), (offset + PIECE).min(start + bytes));
                if first < last {
                    let target = &mut piece[first - offset..last - offset];
                    // SAFETY: checked when the copy was issued: bytes of a live buffer.
                    unsafe {
                        target
                            .as_mut_ptr()
                            .copy_from_nonoverlapping((global + first - start) as *const u8, last - first);
                    }
                }
            }
            // SAFETY: checked when the copy was issued: bytes of the block's shared memory.
            unsafe { *(address as *mut [u8; PIECE]) = piece };
        }
    }

    /// Copies the part inside the matrix from a block's shared memory.
    fn store(&self, block: &Block) {
        for (row, offset, address) in self.pieces(block) {
            if let Some((global, bytes, start)) = self.inside(row) {
                let (first, last) = (offset.max(start), (offset + PIECE).min(start + bytes));
                if first < last {
                    // SAFETY: checked when the copy was issued: bytes of shared memory and of a live buffer.
                    unsafe {
                        ((global + first - start) as *mut u8)
                            .copy_from_nonoverlapping((address + first - offset) as *const u8, last - first);
                    }
                }
            }
        }
    }
}

/// A load to one block that has been issued and has not come.
#[derive(Debug)]
pub(crate) struct Load {
    region: Region,
    target: *mut Block,
    /// Position of the mbarrier that counts the bytes.
    barrier: usize,
    site: Site,
}

impl Load {
    /// Whether it will write this block's shared memory.
    pub fn reaches(&self, block: *const Block) -> bool {
        std::ptr::eq(self.target, block)
    }

    /// The bytes come.
    ///
    /// # Safety
    /// The block is alive, and nobody holds references to it.
    pub unsafe fn complete(self) {
        // SAFETY: the caller's condition.
        complete_in(unsafe { &mut *self.target }, &self.region, self.barrier, self.site);
    }
}

fn in_flight(block: &Block, position: usize, site: Site) -> Access {
    Access { actor: block.clocks.asynchronous_actor(position), count: IN_FLIGHT, site, kind: WRITE }
}

fn complete_in(block: &mut Block, region: &Region, position: usize, site: Site) {
    region.load(block);
    let before = in_flight(block, position, site);
    let count = block.clocks.complete_asynchronous(position);
    let bytes = region.map.box_bytes();
    if let Some(offset) = block.shared.dynamic_offset(region.window, bytes) {
        block.shared.dynamic.complete(offset, bytes, before, Access { count, ..before });
    }
    let released = block.clocks.release_asynchronous(position);
    mbarrier::complete_bytes(block, position, bytes, &released);
}

/// `blocks` names the cluster's blocks that receive the box, by bits; without it, the calling one. They receive it one by
/// one.
pub(crate) fn load(
    caller: &mut Caller<'_>,
    shared: usize,
    map: usize,
    barrier: usize,
    (column, row): (i32, i32),
    blocks: Option<u32>,
) -> Result<Flow, RawFault> {
    let region = Region::new(caller, map, shared, column, row)?;
    let address = mbarrier::window_address(caller.block, barrier)?;
    for box_row in 0..region.map.box_rows as usize {
        if let Some((address, bytes, _)) = region.inside(box_row) {
            let read = Request { alignment: 1, ..Request::new(address, bytes, READ) };
            check_proxy_fence(caller, &read)?;
            check(caller, &read)?;
        }
    }
    let site = caller.launch.site(caller.pc);
    let own = caller.block.rank;
    let ranks: Vec<usize> = match blocks {
        None => vec![own],
        Some(0) => {
            return Err(RawFault::new(FaultKind::InvalidOperand, "a multicast to no block"));
        }
        Some(blocks) => (0..32).filter(|rank| blocks >> rank & 1 != 0).collect(),
    };
    for rank in ranks {
        let load = if rank == own {
            mbarrier::touch(caller, barrier, true)?;
            load_here(caller, region, address, site)?
        } else {
            load_there(caller, region, address, site, rank)?
        };
        let now = match caller.launch.schedule.completion {
            Completion::Eager => true,
            Completion::Late => false,
            Completion::Random => caller.launch.random.below(4) == 0,
        };
        if !now {
            caller.launch.loads.push(load);
        } else if rank == own {
            complete_in(caller.block, &region, load.barrier, site);
        } else {
            // SAFETY: another block of the cluster than the caller's, alive; nobody holds a reference to it.
            unsafe { load.complete() }
        }
    }
    Ok(Flow::Continue)
}

/// Checks and records a load into the calling block.
fn load_here(caller: &mut Caller<'_>, region: Region, barrier: u32, site: Site) -> Result<Load, RawFault> {
    let bytes = region.map.box_bytes();
    let position = mbarrier::find(caller.block, barrier)?;
    mbarrier::check_fenced(&caller.block.clocks, caller.thread, caller.block, position)?;
    let offset = offset(caller.block, &region, bytes)?;
    let write = Request::new(caller.block.shared.dynamic_pointer() as usize + offset, bytes, WRITE);
    check_proxy_fence(caller, &write)?;
    let access = in_flight(caller.block, position, site);
    let Block { shared, clocks, .. } = &mut *caller.block;
    let result = shared.dynamic.access(offset, bytes, &access, clocks, caller.thread);
    result.map_err(|problem| {
        violation(caller.launch, caller.block, problem, "TMA writes a box in dynamic shared memory")
    })?;
    Ok(Load { region, target: &mut *caller.block, barrier: position, site })
}

/// The same for another block of the cluster.
fn load_there(
    caller: &mut Caller<'_>,
    region: Region,
    barrier: u32,
    site: Site,
    rank: usize,
) -> Result<Load, RawFault> {
    let bytes = region.map.box_bytes();
    let position = mbarrier::touch_remote(caller, rank, barrier)?;
    // SAFETY: checked: another block than the caller's, and alive.
    let peer = unsafe { &mut *caller.block.peers[rank] };
    let offset = offset(peer, &region, bytes)?;
    check_proxy_fence_of_peer(caller, &peer.shared, offset, &Request::new(0, bytes, WRITE))?;
    let access = in_flight(peer, position, site);
    let result = peer.shared.dynamic.access(offset, bytes, &access, &caller.block.clocks, caller.thread);
    result.map_err(|problem| {
        let what = "TMA writes a box in another block's shared memory";
        violation(caller.launch, caller.block, problem, what)
    })?;
    Ok(Load { region, target: peer, barrier: position, site })
}

fn offset(block: &Block, region: &Region, bytes: usize) -> Result<usize, RawFault> {
    block.shared.dynamic_offset(region.window, bytes).ok_or_else(|| {
        RawFault::new(
            FaultKind::OutOfBounds,
            format!("TMA: a box of {bytes} bytes leaves dynamic shared memory"),
        )
    })
}

#[derive(Clone, Copy, Debug)]
struct Store {
    region: Region,
    moved: bool,
    /// Whether the thread may reuse the shared memory.
    read: bool,
    site: Site,
}

/// Stores that a thread has issued and not waited for.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    open: Vec<Store>,
    groups: VecDeque<Vec<Store>>,
}

impl Stores {
    /// How many stores still read shared memory, as far as the thread knows.
    pub fn reading(&self) -> usize {
        self.open.iter().chain(self.groups.iter().flatten()).filter(|store| !store.read).count()
    }
}

pub(crate) fn store(
    caller: &mut Caller<'_>,
    map: usize,
    shared: usize,
    (column, row): (i32, i32),
) -> Result<Flow, RawFault> {
    let region = Region::new(caller, map, shared, column, row)?;
    let bytes = region.map.box_bytes();
    offset(caller.block, &region, bytes)?;
    let read = Request { alignment: 1, in_flight: true, ..Request::new(shared, bytes, READ) };
    check_proxy_fence(caller, &read)?;
    check(caller, &read)?;
    for box_row in 0..region.map.box_rows as usize {
        if let Some((address, bytes, _)) = region.inside(box_row) {
            let write = Request { alignment: 1, in_flight: true, ..Request::new(address, bytes, WRITE) };
            check_proxy_fence(caller, &write)?;
            check(caller, &write)?;
        }
    }
    let now = match caller.launch.schedule.completion {
        Completion::Eager => true,
        Completion::Late => false,
        Completion::Random => caller.launch.random.coin(),
    };
    if now {
        region.store(caller.block);
    }
    let site = caller.launch.site(caller.pc);
    caller.block.threads[caller.thread].stores.open.push(Store { region, moved: now, read: false, site });
    Ok(Flow::Continue)
}

pub(crate) fn commit(caller: &mut Caller<'_>) {
    let stores = &mut caller.block.threads[caller.thread].stores;
    let group = std::mem::take(&mut stores.open);
    stores.groups.push_back(group);
}

/// Waits until at most `pending` groups are unfinished, or, with `only_read`, still read shared memory.
pub(crate) fn wait(caller: &mut Caller<'_>, pending: usize, only_read: bool) {
    let thread = caller.thread;
    let mut groups = std::mem::take(&mut caller.block.threads[thread].stores.groups);
    let finished = groups.len().saturating_sub(pending);
    for store in groups.iter_mut().take(finished).flatten() {
        if !store.moved {
            store.region.store(caller.block);
            store.moved = true;
        }
        if !store.read {
            store.read = true;
            complete_read(caller, store);
        }
        if !only_read {
            complete_write(caller, store);
        }
    }
    if !only_read {
        groups.drain(..finished);
    }
    caller.block.threads[thread].stores.groups = groups;
}

fn by_thread(caller: &Caller<'_>, store: &Store, kind: AccessKind) -> (Access, Access) {
    let actor = Actor::new(caller.block.clocks.block(), caller.thread);
    let before = Access { actor, count: IN_FLIGHT, site: store.site, kind };
    (before, Access { count: caller.block.clocks.now(caller.thread), ..before })
}

fn complete_read(caller: &mut Caller<'_>, store: &Store) {
    let (before, after) = by_thread(caller, store, READ);
    let bytes = store.region.map.box_bytes();
    if let Some(offset) = caller.block.shared.dynamic_offset(store.region.window, bytes) {
        caller.block.shared.dynamic.complete(offset, bytes, before, after);
    }
}

fn complete_write(caller: &mut Caller<'_>, store: &Store) {
    let (before, after) = by_thread(caller, store, WRITE);
    for box_row in 0..store.region.map.box_rows as usize {
        if let Some((address, bytes, _)) = store.region.inside(box_row)
            && let Ok((buffer, offset)) = caller.launch.memory.locate(address, bytes)
        {
            buffer.shadow.complete(offset, bytes, before, after);
        }
    }
}

/// Loads still under way to a block that ends.
pub(crate) fn in_flight_to(launch: &Launch, block: *const Block) -> usize {
    launch.loads.iter().filter(|load| load.reaches(block)).count()
}

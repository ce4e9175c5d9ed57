//! What is known about each four bytes of memory: whether they were written, and who accessed them lately.
//!
//! As in ThreadSanitizer, a cell remembers a handful of accesses. Two accesses conflict if their bytes overlap, one of
//! them writes, not both are atomic, and the later one does not see the earlier one. A cell that is full forgets
//! some read: a conflict with one of many readers can be missed in one cell, hardly in all cells of a tile.

use crate::memory::clock::{Actor, Clocks, IN_FLIGHT};
use crate::memory::zeroed::Zeroed;
use bytemuck::Zeroable;

const GRANULE: usize = 4;
const SLOTS: usize = 5;

/// Where in a kernel something happened: the offset of the return address in the kernel library.
pub(crate) type Site = u32;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccessKind {
    pub write: bool,
    pub atomic: bool,
    /// Through the asynchronous proxy (TMA, wgmma): ordinary writes must be fenced before it reads them.
    pub asynchronous_proxy: bool,
}

impl AccessKind {
    pub const READ: Self = AccessKind { write: false, atomic: false, asynchronous_proxy: false };
    pub const WRITE: Self = AccessKind { write: true, atomic: false, asynchronous_proxy: false };
}

/// An access by an actor at a time of its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub actor: Actor,
    pub count: u32,
    pub site: Site,
    pub kind: AccessKind,
}

#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
struct Slot {
    actor: u32,
    /// 0: the slot is empty.
    count: u32,
    /// Site in the upper bits, then the four bytes of the granule, then the kind.
    packed: u32,
}

const SITE_SHIFT: u32 = 7;
const MASK_SHIFT: u32 = 3;
/// Largest kernel library whose sites fit.
pub(crate) const MAX_IMAGE_BYTES: usize = 1 << (32 - SITE_SHIFT);

impl Slot {
    fn new(access: &Access, mask: u32) -> Self {
        let kind = access.kind;
        Slot {
            actor: access.actor.bits(),
            count: access.count,
            packed: access.site << SITE_SHIFT
                | mask << MASK_SHIFT
                | u32::from(kind.write)
                | u32::from(kind.atomic) << 1
                | u32::from(kind.asynchronous_proxy) << 2,
        }
    }
    fn mask(self) -> u32 {
        self.packed >> MASK_SHIFT & 0xf
    }
    fn write(self) -> bool {
        self.packed & 1 != 0
    }
    fn atomic(self) -> bool {
        self.packed & 2 != 0
    }
    fn asynchronous_proxy(self) -> bool {
        self.packed & 4 != 0
    }
    fn access(self) -> Access {
        Access {
            actor: Actor::from_bits(self.actor),
            count: self.count,
            site: self.packed >> SITE_SHIFT,
            kind: AccessKind {
                write: self.write(),
                atomic: self.atomic(),
                asynchronous_proxy: self.asynchronous_proxy(),
            },
        }
    }
}

#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Cell {
    slots: [Slot; SLOTS],
    /// Generation in the upper 24 bits; then the bytes read and written in it.
    state: u32,
}

/// Why an access is at fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Violation {
    /// It conflicts with an earlier one.
    Race(Access),
    /// It reads a byte that nobody wrote.
    NeverWritten,
}

/// Bytes that an access touched for the first time in this generation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fresh {
    pub read: u64,
    pub written: u64,
}

/// The cells of one stretch of memory.
#[derive(Debug)]
pub(crate) struct Shadow {
    cells: Zeroed<Cell>,
    /// One bit a byte, four to an element.
    written: Zeroed<u8>,
    generation: u32,
    /// The first generation whose accesses still matter: that of the first of the kernels that may overlap.
    oldest: u32,
}

/// Generations are counted from 1 to this.
const GENERATIONS: u32 = 0xff_ffff;

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Shadow {
    pub fn new(bytes: usize) -> Self {
        let granules = bytes.div_ceil(GRANULE);
        Shadow { cells: Zeroed::new(granules), written: Zeroed::new(granules), generation: 1, oldest: 1 }
    }

    /// Forgets all accesses: what follows is ordered after them.
    pub fn next_generation(&mut self) {
        self.generation = self.generation % GENERATIONS + 1;
        self.oldest = self.generation;
    }

    /// Counts first touches anew; nothing orders what follows after earlier accesses.
    pub fn next_overlapping_generation(&mut self) {
        self.generation = self.generation % GENERATIONS + 1;
    }

    /// Whether accesses of a generation still matter.
    fn remembers(&self, generation: u32) -> bool {
        let age = |start: u32| (self.generation + GENERATIONS - start) % GENERATIONS;
        generation != 0 && age(generation) <= age(self.oldest)
    }

    /// Marks bytes as written, or as never written.
    pub fn set_written(&mut self, offset: usize, bytes: usize, written: bool) {
        if offset.is_multiple_of(GRANULE) && bytes.is_multiple_of(GRANULE) {
            self.written[offset / GRANULE..(offset + bytes) / GRANULE].fill(if written { 0xf } else { 0 });
            return;
        }
        for (granule, mask) in granules(offset, bytes) {
            if written {
                self.written[granule] |= mask as u8;
            } else {
                self.written[granule] &= !(mask as u8);
            }
        }
    }

    /// The first byte of the range that nobody wrote.
    pub fn first_unwritten(&self, offset: usize, bytes: usize) -> Option<usize> {
        granules(offset, bytes).find_map(|(granule, mask)| {
            let missing = mask & !u32::from(self.written[granule]);
            (missing != 0).then(|| granule * GRANULE + missing.trailing_zeros() as usize)
        })
    }

    /// Records an access, as `thread` of the block may make it.
    #[inline]
    pub fn access(
        &mut self,
        offset: usize,
        bytes: usize,
        access: &Access,
        clocks: &Clocks,
        thread: usize,
    ) -> Result<Fresh, Violation> {
        let mut fresh = Fresh::default();
        for (granule, mask) in granules(offset, bytes) {
            let written = &mut self.written[granule];
            if access.kind.write {
                *written |= mask as u8;
            } else if mask & !u32::from(*written) != 0 {
                return Err(Violation::NeverWritten);
            }
            let generation = self.cells[granule].state >> 8;
            let remembers = generation == self.generation || self.remembers(generation);
            let cell = &mut self.cells[granule];
            if !remembers {
                *cell = Cell { state: self.generation << 8, ..Cell::zeroed() };
            } else if generation != self.generation {
                cell.state = self.generation << 8;
            }
            let touched = if access.kind.write { mask << 4 } else { mask };
            let new = (touched & !cell.state).count_ones();
            cell.state |= touched;
            if access.kind.write {
                fresh.written += u64::from(new);
            } else {
                fresh.read += u64::from(new);
            }
            cell.record(access, mask, clocks, thread, granule).map_err(Violation::Race)?;
        }
        Ok(fresh)
    }

    /// An asynchronous access recorded as in flight has completed: it now counts as the `completed` one.
    pub fn complete(&mut self, offset: usize, bytes: usize, in_flight: Access, completed: Access) {
        for (granule, mask) in granules(offset, bytes) {
            let cell = &mut self.cells[granule];
            if cell.state >> 8 != self.generation {
                continue;
            }
            for slot in &mut cell.slots {
                if slot.count == IN_FLIGHT
                    && slot.actor == in_flight.actor.bits()
                    && slot.write() == in_flight.kind.write
                    && slot.mask() & !mask == 0
                {
                    *slot = Slot::new(&completed, slot.mask());
                }
            }
        }
    }

    /// Writes in this range that are visible to the reader's clock, for checks beyond races.
    pub fn writes(&self, offset: usize, bytes: usize) -> impl Iterator<Item = Access> + '_ {
        granules(offset, bytes)
            .filter(|(granule, _)| self.cells[*granule].state >> 8 == self.generation)
            .flat_map(|(granule, mask)| {
                self.cells[granule]
                    .slots
                    .iter()
                    .filter(move |slot| slot.count != 0 && slot.write() && slot.mask() & mask != 0)
                    .map(|slot| slot.access())
            })
    }
}

impl Cell {
    #[inline]
    fn record(
        &mut self,
        access: &Access,
        mask: u32,
        clocks: &Clocks,
        thread: usize,
        granule: usize,
    ) -> Result<(), Access> {
        let write = access.kind.write;
        let mut place = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.count == 0 {
                place = place.or(Some(index));
                continue;
            }
            if slot.mask() & mask == 0 {
                continue;
            }
            let actor = Actor::from_bits(slot.actor);
            let ordered = if slot.write() && !slot.asynchronous_proxy() {
                clocks.sees(thread, actor, slot.count)
            } else {
                clocks.sees_end(thread, actor, slot.count)
            };
            let conflicting = (write || slot.write()) && !(access.kind.atomic && slot.atomic());
            if conflicting && !ordered {
                return Err(slot.access());
            }
            // Whoever conflicts with the old access without seeing it conflicts with the new one too; but not an atomic
            // one with a new one that is atomic.
            let as_strict = slot.atomic() || !access.kind.atomic;
            if ordered && as_strict && (write || !slot.write()) && slot.mask() & !mask == 0 {
                slot.count = 0;
                place = Some(index);
            }
        }
        let index = place.unwrap_or_else(|| self.evict(access, granule));
        self.slots[index] = Slot::new(access, mask);
        Ok(())
    }

    /// Makes room by forgetting a read, else an atomic operation, else any. Which one differs from cell to cell, but not
    /// between runs.
    fn evict(&self, access: &Access, granule: usize) -> usize {
        let mixed = (access.actor.bits() ^ (granule as u32).rotate_left(16)).wrapping_mul(0x9E37_79B9);
        let start = (mixed >> 16) as usize;
        let find = |forgets: fn(Slot) -> bool| {
            (0..SLOTS).map(|i| (start + i) % SLOTS).find(|&i| forgets(self.slots[i]))
        };
        find(|slot| !slot.write()).or_else(|| find(|slot| slot.atomic())).unwrap_or(start % SLOTS)
    }
}

/// The granules that a range touches, each with a mask of its bytes.
#[inline]
fn granules(offset: usize, bytes: usize) -> impl Iterator<Item = (usize, u32)> + Clone {
    let end = offset + bytes;
    (offset / GRANULE..end.div_ceil(GRANULE)).map(move |granule| {
        let start = granule * GRANULE;
        let first = offset.saturating_sub(start).min(GRANULE);
        let last = (end - start).min(GRANULE);
        (granule, (1u32 << last) - (1u32 << first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_generations_are_remembered_past_the_last_number() {
        let mut shadow = Shadow::new(4);
        (shadow.generation, shadow.oldest) = (GENERATIONS - 1, GENERATIONS - 1);
        shadow.next_overlapping_generation();
        shadow.next_overlapping_generation();
        assert_eq!(shadow.generation, 1);
        let remembered = |shadow: &Shadow| {
            [0, GENERATIONS - 2, GENERATIONS - 1, GENERATIONS, 1, 2].map(|each| shadow.remembers(each))
        };
        assert_eq!(remembered(&shadow), [false, false, true, true, true, false]);
        shadow.next_generation();
        assert_eq!(remembered(&shadow), [false, false, false, false, false, true]);
    }
}

//! A block's shared memory: dynamic, at a random base, and statically declared.
//!
//! Addresses as `cvta.to.shared` gives them: dynamic shared memory lies within the first 256 KiB, statically declared
//! variables from [`STATIC_WINDOW`] on, out of the reach of 18-bit matrix descriptors.

use crate::fault::{FaultKind, RawFault};
use crate::library::kernel_library::StaticVariables;
use crate::machine::schedule::Random;
use crate::memory::global::{POISON, RawMemory};
use crate::memory::shadow::Shadow;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// Reach of a dynamic shared address.
const WINDOW_BYTES: usize = 256 << 10;
/// Where statically declared variables start in the shared window.
const STATIC_WINDOW: usize = 1 << 20;
/// Bytes of declared variables that a kernel may have.
const DECLARED_LIMIT: usize = 48 << 10;
/// Bytes at the start of the window that the system keeps, and alignment of the dynamic part.
const BASE_ALIGNMENT: usize = 1024;

/// Shared memory of one resident block; used again for later blocks.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    arena: RawMemory,
    base: usize,
    bytes: usize,
    pub dynamic: Shadow,
    statics: StaticStorage,
    pub declared: Shadow,
    /// Contents of the declared variables while another block's are in place; only `touched` of it means anything.
    saved: Vec<u8>,
    /// The bytes of the declared variables that the block has accessed. The others are poison.
    touched: Range<usize>,
    /// Start and end of the variable that was accessed last.
    last_variable: Cell<(usize, usize)>,
    /// The declared variables that the block has accessed, by their starts; the first is the last one accessed.
    used: Vec<Range<usize>>,
}

/// The thread-local storage that holds the library's `__shared__` variables, of the host thread that runs the launch.
#[derive(Clone, Debug)]
pub(crate) struct StaticStorage {
    pub start: usize,
    pub bytes: usize,
    pub variables: Arc<StaticVariables>,
}

impl StaticStorage {
    /// Poisons a part, which starts and ends at multiples of four bytes.
    pub fn poison(&mut self, range: &Range<usize>) {
        self.bytes_at(range).chunks_exact_mut(POISON.len()).for_each(|chunk| chunk.copy_from_slice(&POISON));
    }

    fn bytes_at(&mut self, range: &Range<usize>) -> &mut [u8] {
        debug_assert!(range.end <= self.bytes);
        // SAFETY: the storage is the running host thread's own, and no kernel code runs while it is borrowed.
        unsafe { std::slice::from_raw_parts_mut((self.start + range.start) as *mut u8, range.len()) }
    }
}

/// What an address in shared memory means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedPlace {
    /// Offset in dynamic shared memory.
    Dynamic(usize),
    /// Offset in the declared variables.
    Declared(usize),
    /// Bookkeeping of the compiler.
    Ignored,
}

/// A place for `bytes` of dynamic shared memory, where `limit` is the most that a block may have.
pub(crate) fn random_base(bytes: usize, limit: usize, random: &mut Random) -> usize {
    let room = limit.saturating_sub(bytes) / BASE_ALIGNMENT;
    BASE_ALIGNMENT * (1 + random.below(room + 1))
}

impl SharedMemory {
    pub fn new(statics: StaticStorage) -> Self {
        SharedMemory {
            arena: RawMemory::new(WINDOW_BYTES),
            base: BASE_ALIGNMENT,
            bytes: 0,
            dynamic: Shadow::new(WINDOW_BYTES),
            declared: Shadow::new(statics.bytes),
            saved: vec![0; statics.bytes],
            touched: 0..0,
            last_variable: Cell::new((0, 0)),
            used: Vec::new(),
            statics,
        }
    }

    /// Whether the declared variables are at this address.
    pub fn has_storage(&self, start: usize, bytes: usize) -> bool {
        (self.statics.start, self.statics.bytes) == (start, bytes)
    }

    /// Poisons everything for a new block with `bytes` of dynamic shared memory at `base`.
    pub fn start_block(&mut self, bytes: usize, base: usize) {
        self.base = base;
        self.bytes = bytes;
        self.arena.poison(self.base, bytes);
        self.dynamic.next_generation();
        self.dynamic.set_written(0, bytes.next_multiple_of(POISON.len()), false);
        self.declared.next_generation();
        self.declared.set_written(self.touched.start, self.touched.len(), false);
        self.touched = 0..0;
        self.used.clear();
    }

    /// Puts this block's declared variables in place, where all is poison.
    pub fn swap_in(&mut self) {
        self.statics.bytes_at(&self.touched).copy_from_slice(&self.saved[self.touched.clone()]);
    }

    /// Keeps this block's declared variables for later, and leaves poison.
    pub fn swap_out(&mut self) {
        self.saved[self.touched.clone()].copy_from_slice(self.statics.bytes_at(&self.touched));
        self.clear_in_place();
    }

    /// Leaves poison where this block's declared variables are in place.
    pub fn clear_in_place(&mut self) {
        self.statics.poison(&self.touched);
    }

    pub fn dynamic_pointer(&self) -> *mut u8 {
        // SAFETY: the base lies within the arena.
        unsafe { self.arena.pointer().add(self.base) }
    }

    /// What is known of the memory at a place, and the offset in it; `None` for bookkeeping.
    pub fn shadow(&mut self, place: SharedPlace) -> Option<(&mut Shadow, usize)> {
        match place {
            SharedPlace::Dynamic(offset) => Some((&mut self.dynamic, offset)),
            SharedPlace::Declared(offset) => Some((&mut self.declared, offset)),
            SharedPlace::Ignored => None,
        }
    }

    /// Notes that the block uses these bytes of the declared variables, and checks that there is room for them beside the
    /// dynamic part.
    pub fn touch(&mut self, place: SharedPlace, bytes: usize, limit: usize) -> Result<(), RawFault> {
        let SharedPlace::Declared(offset) = place else { return Ok(()) };
        self.use_variable(offset, limit)?;
        let (start, end) = (offset & !(POISON.len() - 1), (offset + bytes).next_multiple_of(POISON.len()));
        let end = end.min(self.statics.bytes);
        if self.touched.is_empty() {
            self.touched = start..end;
        } else if start < self.touched.start || end > self.touched.end {
            self.touched = start.min(self.touched.start)..end.max(self.touched.end);
        }
        Ok(())
    }

    /// A kernel has those declared variables that its blocks access, as far as anybody can tell here. The dynamic part lies
    /// behind them, at a multiple of [`BASE_ALIGNMENT`].
    fn use_variable(&mut self, offset: usize, limit: usize) -> Result<(), RawFault> {
        if self.used.first().is_some_and(|variable| variable.contains(&offset)) {
            return Ok(());
        }
        if let Some(known) = self.used.iter().position(|variable| variable.contains(&offset)) {
            self.used.swap(0, known);
            return Ok(());
        }
        let Some(variable) = self.statics.variables.find(offset) else { return Ok(()) };
        self.used.insert(0, variable.start..variable.start + variable.bytes);
        let declared: usize = self.used.iter().map(|variable| variable.len().next_multiple_of(8)).sum();
        let before = if self.bytes == 0 { declared } else { declared.next_multiple_of(BASE_ALIGNMENT) };
        let fault = |message| Err(RawFault::new(FaultKind::InvalidLaunch, message));
        if declared > DECLARED_LIMIT {
            return fault(format!(
                "{declared} bytes of declared shared variables, where a kernel may have {DECLARED_LIMIT}"
            ));
        }
        if before + self.bytes > limit {
            return fault(format!(
                "{declared} bytes of declared shared variables, which take {before} before {} bytes of dynamic \
                 shared memory, where a block may have {limit}",
                self.bytes
            ));
        }
        Ok(())
    }

    /// [`shadow`](Self::shadow), to look at only.
    pub fn shadow_ref(&self, place: SharedPlace) -> Option<(&Shadow, usize)> {
        match place {
            SharedPlace::Dynamic(offset) => Some((&self.dynamic, offset)),
            SharedPlace::Declared(offset) => Some((&self.declared, offset)),
            SharedPlace::Ignored => None,
        }
    }

    /// Whether an address is in dynamic shared memory, or near it.
    pub fn is_dynamic(&self, address: usize) -> bool {
        address.wrapping_sub(self.arena.start()) < WINDOW_BYTES
    }

    /// Offset in dynamic shared memory of an address of the shared window, if it holds so many bytes there.
    pub fn dynamic_offset(&self, window: u32, bytes: usize) -> Option<usize> {
        let offset = (window as usize).checked_sub(self.base)?;
        (offset <= self.bytes && bytes <= self.bytes - offset).then_some(offset)
    }

    /// The part of dynamic shared memory that holds these bytes; as [`locate`](Self::locate).
    pub fn locate_dynamic(&self, address: usize, bytes: usize) -> Option<Result<SharedPlace, String>> {
        self.is_dynamic(address).then(|| {
            let place = address.wrapping_sub(self.arena.start()).wrapping_sub(self.base);
            if place < self.bytes && bytes <= self.bytes - place {
                return Ok(SharedPlace::Dynamic(place));
            }
            let place = place as isize;
            Err(format!("at byte {place} of {} bytes of dynamic shared memory", self.bytes))
        })
    }

    /// The part of shared memory that holds these bytes: `None` if they are not in shared memory at all, an error in
    /// words if they reach beyond what the block has.
    #[inline]
    pub fn locate(&self, address: usize, bytes: usize) -> Option<Result<SharedPlace, String>> {
        if let Some(place) = self.locate_dynamic(address, bytes) {
            return Some(place);
        }
        let offset = address.wrapping_sub(self.statics.start);
        (offset < self.statics.bytes).then(|| self.locate_declared(offset, bytes))
    }

    fn locate_declared(&self, offset: usize, bytes: usize) -> Result<SharedPlace, String> {
        let variables = &self.statics.variables;
        let last = self.last_variable.get();
        if offset >= last.0 && offset + bytes <= last.1 {
            return Ok(SharedPlace::Declared(offset));
        }
        match variables.find(offset) {
            Some(variable) if variable.bookkeeping && bytes == 1 => Ok(SharedPlace::Ignored),
            Some(variable) if !variable.bookkeeping && offset + bytes <= variable.start + variable.bytes => {
                self.last_variable.set((variable.start, variable.start + variable.bytes));
                Ok(SharedPlace::Declared(offset))
            }
            Some(variable) if !variable.bookkeeping => Err(format!(
                "from byte {} on past the end of shared variable `{}` ({} bytes)",
                offset - variable.start,
                variable.name,
                variable.bytes
            )),
            _ => Err(format!("{} shared variable", variables.describe(offset))),
        }
    }

    /// The name of what lies at a place, and the offset in it.
    pub fn name(&self, place: SharedPlace) -> (String, usize) {
        match place {
            SharedPlace::Dynamic(offset) => ("dynamic shared memory".into(), offset),
            SharedPlace::Declared(offset) => match self.statics.variables.find(offset) {
                Some(variable) => (format!("shared variable `{}`", variable.name), offset - variable.start),
                None => ("declared shared memory".into(), offset),
            },
            SharedPlace::Ignored => ("bookkeeping".into(), 0),
        }
    }

    /// The address in the shared window, if the pointer is to shared memory.
    pub fn window_address(&self, address: usize) -> Option<u32> {
        let offset = address.wrapping_sub(self.arena.start());
        if offset < WINDOW_BYTES {
            return Some(offset as u32);
        }
        let offset = address.wrapping_sub(self.statics.start);
        (offset < self.statics.bytes).then_some((STATIC_WINDOW + offset) as u32)
    }

    /// The pointer that an address of the shared window stands for.
    pub fn window_pointer(&self, address: u32) -> Option<usize> {
        let address = address as usize;
        if address < WINDOW_BYTES {
            return Some(self.arena.start() + address);
        }
        let offset = address.wrapping_sub(STATIC_WINDOW);
        (offset < self.statics.bytes).then_some(self.statics.start + offset)
    }
}

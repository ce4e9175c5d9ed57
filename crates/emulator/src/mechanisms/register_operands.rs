//! Registers that threads hand to `wgmma`.
//!
//! `wgmma.fence` must come between other uses of registers and the products that take them. Kernels name the registers at the
//! fence, which also keeps the compiler from moving their uses across it; here what they hold is remembered, and compared
//! when a product takes them, and until it is waited for. Reading accumulators too early is not seen.

use crate::machine::caller::Caller;
use crate::mechanisms::wgmma::WARPGROUP;

/// An array of a thread's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Array {
    pub address: u64,
    pub words: usize,
}

impl Array {
    fn end(self) -> u64 {
        self.address + 4 * self.words as u64
    }

    pub fn overlaps(self, other: Array) -> bool {
        self.address < other.end() && other.address < self.end()
    }

    /// What the registers hold.
    ///
    /// # Safety
    /// The array lies on the stack of a thread that waits in the emulator.
    unsafe fn contents(self) -> Vec<u32> {
        // SAFETY: the caller's condition.
        unsafe { std::slice::from_raw_parts(self.address as *const u32, self.words) }.to_vec()
    }
}

#[derive(Debug)]
struct Named {
    array: Array,
    contents: Vec<u32>,
}

/// The registers of a thread that products may take.
#[derive(Debug, Default)]
pub(crate) struct ThreadRegisters {
    /// Named for the fence to come.
    naming: Vec<Array>,
    fenced: Vec<Named>,
}

impl ThreadRegisters {
    /// Whether a product may take the array: it was named, and holds what it did then.
    ///
    /// # Safety
    /// As for [`Array::contents`].
    pub unsafe fn is_fenced(&self, array: Array) -> bool {
        self.fenced.iter().any(|named| {
            let inside = named.array.address <= array.address && array.end() <= named.array.end();
            // SAFETY: the caller's condition.
            inside && unsafe { array.contents() } == named.part(array)
        })
    }

    /// A product has written the array.
    ///
    /// # Safety
    /// As for [`Array::contents`].
    pub unsafe fn update(&mut self, array: Array) {
        for named in self.fenced.iter_mut().filter(|named| named.array.overlaps(array)) {
            // SAFETY: the caller's condition; `named` is part of the same object.
            named.contents = unsafe { named.array.contents() };
        }
    }

    /// The thread may use the array as it likes, until it is named again.
    pub fn give_back(&mut self, array: Array) {
        self.fenced.retain(|named| !named.array.overlaps(array));
    }

    /// The fence: what was named counts from now on.
    ///
    /// # Safety
    /// As for [`Array::contents`].
    pub unsafe fn fence(&mut self) {
        for array in std::mem::take(&mut self.naming) {
            self.give_back(array);
            // SAFETY: the caller's condition.
            self.fenced.push(Named { array, contents: unsafe { array.contents() } });
        }
    }

    /// Arrays named for the fence to come.
    pub fn naming(&self) -> &[Array] {
        &self.naming
    }
}

impl Named {
    fn part(&self, array: Array) -> &[u32] {
        let first = ((array.address - self.array.address) / 4) as usize;
        &self.contents[first..first + array.words]
    }
}

/// The calling thread names registers for its warpgroup's next fence.
pub(crate) fn name(caller: &mut Caller<'_>, address: u64, words: usize) {
    let thread = caller.thread;
    if let Some(warpgroup) = caller.block.warpgroups.get_mut(thread / WARPGROUP) {
        warpgroup.named[thread % WARPGROUP].naming.push(Array { address, words });
    }
}

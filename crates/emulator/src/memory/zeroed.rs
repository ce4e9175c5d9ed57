//! Zeroed memory of any size, of which only touched pages cost anything.

use bytemuck::Zeroable;
use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr;

/// Elements that are zero until they are written. They may be far more than the machine has memory for.
#[derive(Debug)]
pub(crate) struct Zeroed<T> {
    pointer: *mut T,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: Zeroable> Zeroed<T> {
    /// `T` is aligned to no more than a page.
    pub fn new(len: usize) -> Self {
        let layout = Layout::array::<T>(len.max(1)).expect("less than the address space");
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new anonymous mapping of at least one byte touches no memory that is in use.
        let pointer = unsafe { libc::mmap(ptr::null_mut(), layout.size(), protection, flags, -1, 0) };
        if pointer == libc::MAP_FAILED {
            handle_alloc_error(layout);
        }
        Zeroed { pointer: pointer.cast(), len }
    }
}

impl<T> Zeroed<T> {
    pub fn pointer(&self) -> *mut T {
        self.pointer
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` elements, for which zero is a value, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }
}

impl<T> DerefMut for Zeroed<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and not unmapped before. Elements are plain data.
        unsafe { libc::munmap(self.pointer.cast(), (self.len.max(1)) * size_of::<T>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_machine_is_zero_until_it_is_written() {
        let mut memory = Zeroed::<u64>::new(1 << 40);
        assert_eq!((memory[0], memory[(1 << 40) - 1]), (0, 0));
        memory[1 << 39] = 7;
        assert_eq!((memory[1 << 39], memory[(1 << 39) + 1]), (7, 0));
        assert_eq!(Zeroed::<u8>::new(0).len(), 0);
    }
}

//! Scratch memory that is kept from one operation to the next.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// One cache line, so that buffers start on a cache line.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Buffers that are not in use. Any thread may take one and give it back.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    free: Mutex<Vec<Vec<Line>>>,
}

/// A borrowed buffer of `f32`; goes back when dropped. What it holds at first is unspecified.
pub(super) struct Buffer<'a> {
    scratch: &'a Scratch,
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    pub fn take(&self, len: usize) -> Buffer<'_> {
        let needed = len.div_ceil(16);
        let mut lines = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            // The smallest that suffices, or else the largest, which then grows.
            let best = (0..free.len()).min_by_key(|&i| match free[i].len() {
                length if length >= needed => (false, length),
                length => (true, usize::MAX - length),
            });
            best.map(|i| free.swap_remove(i)).unwrap_or_default()
        };
        if lines.len() < needed {
            lines.clear();
            lines.resize(needed, Line([0.0; 16]));
        }
        Buffer { scratch: self, lines, len }
    }
}

impl Deref for Buffer<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        self.scratch.free.lock().unwrap_or_else(PoisonError::into_inner).push(lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_and_aligned() {
        let scratch = Scratch::default();
        let address = {
            let (small, large) = (scratch.take(10), scratch.take(1000));
            assert_eq!((small.len(), large.len()), (10, 1000));
            assert_eq!(small.as_ptr() as usize % 64, 0);
            large.as_ptr()
        };
        assert_eq!(scratch.take(900).as_ptr(), address);
        assert_eq!(scratch.free.lock().unwrap().len(), 2);
    }
}

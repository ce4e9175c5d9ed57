//! Scratch memory of a plan.

use super::super::step::Step;
use crate::{Error, Result};

/// Steps, and the scratch memory they use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In stream order.
    pub steps: Vec<Step>,
    /// Bytes of scratch memory from the base that the plan was made for.
    pub workspace_bytes: usize,
}

/// Hands out scratch memory from one block, whose place need not be known: addresses are only counted on from the base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace {
    base: u64,
    used: usize,
    peak: usize,
}

/// How much was in use at some point of the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(usize);

impl Workspace {
    const ALIGNMENT: usize = 256;

    /// Memory from `base`, a multiple of 256.
    pub fn new(base: u64) -> Self {
        Workspace { base, used: 0, peak: 0 }
    }

    /// The address of fresh memory, a multiple of 256. More than memory can hold is for [`Workspace::bytes`] to refuse.
    pub fn take(&mut self, bytes: usize) -> u64 {
        let address = self.base.saturating_add(self.used as u64);
        let aligned = bytes.checked_next_multiple_of(Self::ALIGNMENT).unwrap_or(usize::MAX);
        self.used = self.used.saturating_add(aligned);
        self.peak = self.peak.max(self.used);
        address
    }

    pub fn mark(&self) -> Mark {
        Mark(self.used)
    }

    /// Lets later steps reuse what was taken since the mark: steps run in order.
    pub fn release(&mut self, mark: Mark) {
        self.used = mark.0;
    }

    /// Bytes needed in all.
    ///
    /// # Errors
    /// No memory can be so large.
    pub fn bytes(&self) -> Result<usize> {
        match isize::try_from(self.peak) {
            Ok(_) => Ok(self.peak),
            Err(_) => Err(Error::OutOfMemory { needed: self.peak, purpose: "the workspace" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_disjoint_and_reused_after_release() {
        let mut workspace = Workspace::new(1024);
        let first = workspace.take(10);
        let mark = workspace.mark();
        let second = workspace.take(257);
        assert_eq!((first, second), (1024, 1280));
        workspace.release(mark);
        assert_eq!(workspace.take(1), second);
        assert_eq!(workspace.bytes().expect("little"), 256 + 512);
    }

    #[test]
    fn more_than_memory_can_hold_is_an_error() {
        for bytes in [usize::MAX, usize::MAX - 300, isize::MAX as usize] {
            let mut workspace = Workspace::new(u64::MAX - 255);
            workspace.take(10);
            workspace.take(bytes);
            workspace.take(bytes);
            assert!(matches!(workspace.bytes(), Err(Error::OutOfMemory { .. })), "{bytes}");
        }
    }
}

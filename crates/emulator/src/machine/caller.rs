//! The thread that called into the emulator.

use crate::machine::block::{Block, Status, Waiting};
use crate::machine::launch::Launch;

/// The running thread's call, with what it may change.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub launch: &'a mut Launch,
    pub block: &'a mut Block,
    /// Thread in the block.
    pub thread: usize,
    /// Return address of the call.
    pub pc: usize,
}

/// Whether the thread goes on after its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// Others run first, until somebody wakes the thread.
    Suspend,
}

impl Caller<'_> {
    /// The thread waits from now on.
    pub fn wait(&mut self, waiting: Waiting) {
        self.block.threads[self.thread].status = Status::Waiting(waiting);
    }

    /// Lets others run: the thread is probably in a loop that waits for memory to change.
    pub fn spin(&mut self) {
        self.block.threads[self.thread].status = Status::Spinning;
    }
}

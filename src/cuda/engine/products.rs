//! Forward and backward.

use super::Engine;
use crate::cuda::executor::Executor;
use crate::memory::Raw;
use crate::ops::{BackwardSiblings, ForwardSiblings};
use crate::{Error, Result};

impl<E: Executor> Engine<E> {
    /// The forward on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and outputs must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn forward_siblings(&mut self, op: ForwardSiblings<'_, Raw>) -> Result<()> {
        op.check()?;
        Err(Error::Unsupported("forward".into()))
    }

    /// The backward on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and outputs must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn backward_siblings(&mut self, op: BackwardSiblings<'_, Raw>) -> Result<()> {
        op.check()?;
        Err(Error::Unsupported("backward".into()))
    }
}

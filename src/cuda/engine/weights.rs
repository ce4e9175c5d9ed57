//! Weight updates, deltas and fingerprints.

use super::{Engine, RawCodes};
use crate::cuda::executor::Executor;
use crate::memory::Raw;
use crate::ops::{Delta, MergeReport, WeightUpdate};
use crate::{Error, Result};

impl<E: Executor> Engine<E> {
    /// Merges, unmerges or switches on raw device memory. A record that is given must have room for its codes.
    ///
    /// # Safety
    /// Every view and the record's codes must name live memory of the executor's device, and must not overlap.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn update_weights(
        &mut self,
        op: WeightUpdate<'_, Raw, RawCodes>,
    ) -> Result<Option<MergeReport>> {
        op.check()?;
        Err(Error::Unsupported("update_weights".into()))
    }

    /// Writes s·A·B to raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and the output must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn delta(&mut self, op: Delta<'_, Raw>) -> Result<()> {
        op.check()?;
        Err(Error::Unsupported("delta".into()))
    }
}

//! Forward, backward and copies.

use super::Engine;
use crate::Result;
use crate::cuda::executor::Executor;
use crate::cuda::plan::reuse::Operation;
use crate::memory::Raw;
use crate::ops::{BackwardSiblings, Conversion, ForwardSiblings, Frozen};

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
        self.run(op)
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
        self.run(op)
    }

    /// A layer without adapter on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and Y must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn frozen(&mut self, op: Frozen<'_, Raw>) -> Result<()> {
        op.check()?;
        self.run(op)
    }

    /// A copy between matrices in raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and the target must not overlap the source.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn convert(&mut self, op: Conversion<'_, Raw>) -> Result<()> {
        op.check()?;
        self.run(op)
    }

    /// Plans a checked operation, unless one of its shape was planned before, and runs its steps.
    fn run(&mut self, op: impl Operation) -> Result<()> {
        let settings = self.settings();
        let plan = self.plans.of(op, settings)?;
        let workspace = match plan.workspace_bytes() {
            0 => 0,
            bytes => self.executor.workspace(bytes)?,
        };
        plan.steps(workspace).iter().try_for_each(|step| self.executor.run(step))
    }
}

//! Forward and backward.

use super::Engine;
use crate::cuda::executor::Executor;
use crate::cuda::plan::frozen::frozen;
use crate::cuda::plan::reuse::Operation;
use crate::memory::Raw;
use crate::ops::check::frozen_layer;
use crate::ops::{BackwardSiblings, ForwardSiblings};
use crate::{MatrixMut, MatrixRef, Result};

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

    /// Y = X·W, a layer without adapter, on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and Y must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn frozen(
        &mut self,
        x: MatrixRef<'_, Raw>,
        w: MatrixRef<'_, Raw>,
        y: MatrixMut<'_, Raw>,
    ) -> Result<()> {
        frozen_layer(x, w, y.as_ref())?;
        self.executor.run(&frozen(x, w, &y, self.f32_math))
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

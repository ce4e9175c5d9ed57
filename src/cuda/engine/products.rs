//! Forward and backward.

use super::Engine;
use crate::cuda::executor::Executor;
use crate::cuda::plan::{Plan, backward::backward, forward::forward, frozen::frozen};
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
        let f32_math = self.f32_math;
        self.run_plan(|workspace| forward(&op, f32_math, workspace))
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
        let f32_math = self.f32_math;
        self.run_plan(|workspace| backward(&op, f32_math, workspace))
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

    /// Plans once to learn how much scratch memory is needed, and again for where it is.
    fn run_plan(&mut self, plan: impl Fn(u64) -> Result<Plan>) -> Result<()> {
        let sized = plan(0)?;
        let plan = match sized.workspace_bytes {
            0 => sized,
            bytes => plan(self.executor.workspace(bytes)?)?,
        };
        plan.steps.iter().try_for_each(|step| self.executor.run(step))
    }
}

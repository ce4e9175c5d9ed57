//! Forward and backward.

use super::Engine;
use crate::Result;
use crate::cuda::executor::Executor;
use crate::cuda::plan::{Plan, backward::backward, forward::forward, frozen::frozen};
use crate::memory::Raw;
use crate::ops::{BackwardSiblings, ForwardSiblings, Frozen};

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

    /// A layer without adapter on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and Y must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn frozen(&mut self, op: Frozen<'_, Raw>) -> Result<()> {
        op.check()?;
        let f32_math = self.f32_math;
        self.run_plan(|workspace| frozen(&op, f32_math, workspace))
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

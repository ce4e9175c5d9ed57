//! Forward, backward and copies.

use super::Engine;
use crate::Result;
use crate::cuda::executor::Executor;
use crate::cuda::plan::reuse::Operation;
use crate::memory::Raw;
use crate::ops::{
    Backward, BackwardProjection, BackwardSiblings, Conversion, Forward, ForwardSiblings, Frozen, Projection,
};

/// Emptied vectors of the last operations on one layer, so that the next one allocates none.
#[derive(Debug, Default)]
pub(super) struct Spares {
    forward: Vec<Projection<'static, Raw>>,
    backward: Vec<BackwardProjection<'static, Raw>>,
}

/// The vector's memory for elements of another lifetime: the standard library collects in place.
fn emptied<From, To>(mut items: Vec<From>) -> Vec<To> {
    items.clear();
    items.into_iter().map(|_| unreachable!("it is empty")).collect()
}

impl<E: Executor> Engine<E> {
    /// The forward of one layer on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and outputs must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn forward(&mut self, op: Forward<'_, Raw>) -> Result<()> {
        let Forward { x, w, adapter, bias, dropout, y, s } = op;
        let mut projections = emptied(std::mem::take(&mut self.spares.forward));
        projections.push(Projection { w, adapter, bias, y, s });
        let mut op = ForwardSiblings { x, dropout, projections };
        let result = op.check().and_then(|()| self.run(&mut op));
        self.spares.forward = emptied(op.projections);
        result
    }

    /// The backward of one layer on raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and outputs must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn backward(&mut self, op: Backward<'_, Raw>) -> Result<()> {
        let Backward { x, w, adapter, dropout, dy, s, dx, da, db, dbias } = op;
        let mut projections = emptied(std::mem::take(&mut self.spares.backward));
        projections.push(BackwardProjection { w, adapter, dy, s, da, db, dbias });
        let mut op = BackwardSiblings { x, dropout, dx, projections };
        let result = op.check().and_then(|()| self.run(&mut op));
        self.spares.backward = emptied(op.projections);
        result
    }

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

//! The CPU backend: the same operations on host slices, on all cores.

mod backward;
mod forward;
mod weights;

use crate::Result;
use crate::backend::Backend;
use crate::memory::Host;
use crate::ops::{BackwardSiblings, Delta, ForwardSiblings, MergeReport, WeightUpdate};

/// The CPU backend. It owns scratch memory that grows to what the largest operation needs.
#[derive(Debug, Default)]
pub struct Cpu {}

impl Cpu {
    /// A backend on rayon's global thread pool.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Backend for Cpu {
    type Memory = Host;
    type Codes = Vec<u8>;

    fn forward_siblings(&mut self, op: ForwardSiblings<'_>) -> Result<()> {
        op.check()?;
        forward::forward(self, op)
    }

    fn backward_siblings(&mut self, op: BackwardSiblings<'_>) -> Result<()> {
        op.check()?;
        backward::backward(self, op)
    }

    fn update_weights(&mut self, op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
        op.check()?;
        weights::update(op)
    }

    fn delta(&mut self, op: Delta<'_>) -> Result<()> {
        op.check()?;
        weights::delta(op)
    }
}

//! The CPU backend: the same operations on host slices, on all cores.

mod adapters;
mod backward;
mod convert;
mod copy;
mod device;
mod forward;
mod frozen;
mod mask;
mod panel;
mod product;
mod scratch;
mod simd;
mod skinny;
#[cfg(test)]
mod tests;
mod view;
mod weights;
mod wide;

use crate::Backend;
use crate::memory::Host;
use crate::ops::{BackwardSiblings, Conversion, Delta, ForwardSiblings, Frozen, MergeReport, WeightUpdate};
use crate::{DType, Result};
pub use device::HostBuffer;
use half::{bf16, f16};
use scratch::Scratch;

/// The CPU backend. It owns scratch memory that grows to what the largest operation needs, and to what operations on several
/// threads need together.
#[derive(Debug, Default)]
pub struct Cpu {
    scratch: Scratch,
}

impl Cpu {
    /// A backend on rayon's global thread pool.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Backend for Cpu {
    type Memory = Host;
    type Codes = Vec<u8>;

    fn forward_siblings(&self, op: ForwardSiblings<'_>) -> Result<()> {
        op.check()?;
        match op.x.dtype() {
            DType::F32 => forward::forward::<f32>(&self.scratch, op),
            DType::F16 => forward::forward::<f16>(&self.scratch, op),
            DType::Bf16 => forward::forward::<bf16>(&self.scratch, op),
        }
    }

    fn backward_siblings(&self, op: BackwardSiblings<'_>) -> Result<()> {
        op.check()?;
        match op.projections.first().map(|projection| projection.dy.dtype()) {
            None => Ok(()),
            Some(DType::F32) => backward::backward::<f32>(&self.scratch, op),
            Some(DType::F16) => backward::backward::<f16>(&self.scratch, op),
            Some(DType::Bf16) => backward::backward::<bf16>(&self.scratch, op),
        }
    }

    fn frozen(&self, op: Frozen<'_>) -> Result<()> {
        op.check()?;
        match op.x.dtype() {
            DType::F32 => frozen::frozen::<f32>(&self.scratch, op),
            DType::F16 => frozen::frozen::<f16>(&self.scratch, op),
            DType::Bf16 => frozen::frozen::<bf16>(&self.scratch, op),
        }
    }

    fn update_weights(&self, op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
        op.check()?;
        weights::update(op)
    }

    fn delta(&self, op: Delta<'_>) -> Result<()> {
        op.check()?;
        weights::delta(op)
    }

    fn convert(&self, op: Conversion<'_>) -> Result<()> {
        op.check()?;
        copy::convert(&self.scratch, op)
    }
}

//! The operations as methods: what the CPU and the CUDA backend have in common.

use crate::Result;
use crate::memory::Memory;
use crate::ops::{Backward, BackwardSiblings, Delta, Forward, ForwardSiblings, MergeReport, WeightUpdate};

/// Runs LoRA operations on one kind of memory.
///
/// Every method checks its arguments first and writes nothing if they do not fit.
pub trait Backend {
    /// Where the matrices live.
    type Memory: Memory;
    /// Where a restore record keeps its codes.
    type Codes;

    /// Y = X·W + s·drop(X)·A·B (+ bias).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn forward(&mut self, op: Forward<'_, Self::Memory>) -> Result<()> {
        self.forward_siblings(op.into())
    }

    /// The forward of several layers that read the same X.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn forward_siblings(&mut self, op: ForwardSiblings<'_, Self::Memory>) -> Result<()>;

    /// dX, dA, dB and dbias, as asked for.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn backward(&mut self, op: Backward<'_, Self::Memory>) -> Result<()> {
        self.backward_siblings(op.into())
    }

    /// The backward of several layers that read the same X.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn backward_siblings(&mut self, op: BackwardSiblings<'_, Self::Memory>) -> Result<()>;

    /// Merges, unmerges or switches adapters in place. The report is there if it was asked for.
    ///
    /// # Errors
    /// An argument does not fit, the record belongs to other weights or another adapter, or the device failed.
    fn update_weights(
        &mut self,
        op: WeightUpdate<'_, Self::Memory, Self::Codes>,
    ) -> Result<Option<MergeReport>>;

    /// Writes Δ = s·A·B.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn delta(&mut self, op: Delta<'_, Self::Memory>) -> Result<()>;
}

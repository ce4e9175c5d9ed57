//! The operations as methods: what the CPU and the CUDA backend have in common.

use crate::Result;
use crate::memory::Memory;
use crate::ops::{
    Backward, BackwardSiblings, Conversion, Delta, Forward, ForwardSiblings, Frozen, FrozenBackward,
    MergeReport, WeightUpdate,
};

/// Runs LoRA operations on one kind of memory.
///
/// Every method checks its arguments first and writes nothing if they do not fit. Several threads may use one backend at
/// once, with the results that they would have one after the other.
pub trait Backend {
    /// Where the matrices live.
    type Memory: Memory;
    /// Where a restore record keeps its codes.
    type Codes: Default;

    /// Y = X·W + s·drop(X)·A·B (+ bias).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn forward(&self, op: Forward<'_, Self::Memory>) -> Result<()> {
        self.forward_siblings(op.into())
    }

    /// The forward of several layers that read the same X.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn forward_siblings(&self, op: ForwardSiblings<'_, Self::Memory>) -> Result<()>;

    /// dX, dA, dB and dbias, as asked for.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn backward(&self, op: Backward<'_, Self::Memory>) -> Result<()> {
        self.backward_siblings(op.into())
    }

    /// The backward of several layers that read the same X.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn backward_siblings(&self, op: BackwardSiblings<'_, Self::Memory>) -> Result<()>;

    /// Y = X·W (+ bias): a layer without adapter.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn frozen(&self, op: Frozen<'_, Self::Memory>) -> Result<()>;

    /// dX = dY·Wᵀ: the gradient of a layer without adapter.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn frozen_backward(&self, op: FrozenBackward<'_, Self::Memory>) -> Result<()> {
        op.check()?;
        self.frozen(op.into())
    }

    /// Merges, unmerges or switches adapters in place. The report is there if it was asked for.
    ///
    /// # Errors
    /// An argument does not fit, the record belongs to other weights or another adapter, or the device failed.
    fn update_weights(&self, op: WeightUpdate<'_, Self::Memory, Self::Codes>) -> Result<Option<MergeReport>>;

    /// Writes Δ = s·A·B.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn delta(&self, op: Delta<'_, Self::Memory>) -> Result<()>;

    /// Copies a matrix into another of any layout and element type.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    fn convert(&self, op: Conversion<'_, Self::Memory>) -> Result<()>;
}

//! Operations on bare device addresses, for those who bring their own memory management.

use super::Cuda;
use crate::Result;
use crate::cuda::engine::RawCodes;
use crate::memory::Raw;
use crate::ops::{
    Backward, BackwardSiblings, Conversion, Delta, Forward, ForwardSiblings, Frozen, FrozenBackward,
    MergeReport, WeightUpdate,
};

/// # Bare addresses
/// The same operations on [`Raw`] memory, for frameworks that manage device memory themselves.
///
/// A framework wraps its tensors as [`RawBuffer`](crate::memory::RawBuffer)s, which are views like any others:
///
/// ```no_run
/// use lora_kernels::memory::{Raw, RawBuffer};
/// use lora_kernels::{DType, Layout, MatrixRef};
///
/// # fn tensor_address() -> u64 { 0 }
/// // A bf16 tensor [out, in] whose rows lie `stride` elements apart, as W [in, out]:
/// let (inputs, outputs, stride) = (4096, 11008, 4096);
/// let layout = Layout::strided(outputs, inputs, stride)?.t();
/// let buffer = RawBuffer { address: tensor_address(), len: outputs * stride, dtype: DType::Bf16 };
/// let w = MatrixRef::<Raw>::from_buffer(buffer, layout)?;
/// # Ok::<(), lora_kernels::Error>(())
/// ```
///
/// These methods do everything the safe ones do, except for ordering the handle's stream against other streams and
/// checking that arguments live in the handle's context.
impl Cuda {
    /// [`Backend::forward`](crate::Backend::forward) on bare addresses.
    ///
    /// # Safety
    /// Every view must name memory of the handle's context that stays allocated until the stream has done the work, and
    /// that no other stream touches meanwhile. Outputs must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn forward_raw(&self, op: Forward<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().forward(op) }
    }

    /// [`Backend::forward_siblings`](crate::Backend::forward_siblings) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn forward_siblings_raw(&self, op: ForwardSiblings<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().forward_siblings(op) }
    }

    /// [`Backend::backward`](crate::Backend::backward) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn backward_raw(&self, op: Backward<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().backward(op) }
    }

    /// [`Backend::backward_siblings`](crate::Backend::backward_siblings) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn backward_siblings_raw(&self, op: BackwardSiblings<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().backward_siblings(op) }
    }

    /// [`Backend::frozen`](crate::Backend::frozen) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn frozen_raw(&self, op: Frozen<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().frozen(op) }
    }

    /// [`Backend::frozen_backward`](crate::Backend::frozen_backward) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn frozen_backward_raw(&self, op: FrozenBackward<'_, Raw>) -> Result<()> {
        op.check()?;
        // SAFETY: the caller keeps the same promises.
        unsafe { self.frozen_raw(op.into()) }
    }

    /// [`Backend::update_weights`](crate::Backend::update_weights) on bare addresses. The caller allocates the codes of
    /// a record: [`RestoreRecord::code_bytes`](crate::restore::RestoreRecord::code_bytes) says how many bytes.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw); the record's codes, too, and its escapes must lie within the weight.
    ///
    /// # Errors
    /// An argument does not fit, the record belongs to other weights or another adapter, or the device failed.
    pub unsafe fn update_weights_raw(
        &self,
        op: WeightUpdate<'_, Raw, RawCodes>,
    ) -> Result<Option<MergeReport>> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().update_weights(op) }
    }

    /// [`Backend::delta`](crate::Backend::delta) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn delta_raw(&self, op: Delta<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().delta(op) }
    }

    /// [`Backend::convert`](crate::Backend::convert) on bare addresses.
    ///
    /// # Safety
    /// As for [`forward_raw`](Self::forward_raw).
    ///
    /// # Errors
    /// An argument does not fit, or the device failed.
    pub unsafe fn convert_raw(&self, op: Conversion<'_, Raw>) -> Result<()> {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.engine().convert(op) }
    }
}

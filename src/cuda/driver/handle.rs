//! The safe handle.

use super::borrow::Borrows;
use super::codes::DeviceCodes;
use super::memory::DeviceMemory;
use super::{DriverExecutor, failure, probe};
use crate::backend::Backend;
use crate::cuda::engine::{Engine, RawCodes};
use crate::cuda::step::F32Math;
use crate::ops::{BackwardSiblings, Delta, ForwardSiblings, MergeReport, WeightUpdate};
use crate::restore::RestoreRecord;
use crate::{Error, MatrixMut, MatrixRef, Result};
use cudarc::driver::{CudaContext, CudaStream, DevicePtrMut};
use std::sync::Arc;

/// The CUDA backend: operations on cudarc's slices, enqueued on one stream.
///
/// Forward, backward and delta return when their work has been enqueued. An update that uses a record or asks for a
/// report waits for the device, because the result is on the host.
///
/// # Memory
/// The handle owns scratch memory that grows to what the largest operation needs, and 32 MiB for cuBLASLt. Nothing
/// else is allocated, except the codes of restore records.
///
/// # Capturing graphs
/// Once an operation has run with the same shapes and addresses, it can be captured into a CUDA graph. Before that, it
/// may have to allocate or to load a kernel, and returns an error in a capture. Keep the handle as long as the graph,
/// which uses its scratch memory, and do not let operations of the handle and replays of the graph overlap. Slices that
/// are captured must be allocated without cudarc's event tracking: see
/// [`CudaContext::disable_event_tracking`](cudarc::driver::CudaContext::disable_event_tracking).
#[derive(Debug)]
pub struct Cuda {
    pub(super) engine: Engine<DriverExecutor>,
}

impl Cuda {
    /// A handle that enqueues on `stream`. With candle, that is `device.cuda_stream()`.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] if the device is too old, cuBLASLt is missing, or the crate was built without kernels.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        DriverExecutor::new(stream).map(|executor| Cuda { engine: Engine::new(executor) })
    }

    /// A handle on the default stream of a device, counted from 0.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] if anything is missing; the text says how to get it. [`Error::Cuda`] if the driver
    /// knows no such device.
    pub fn on_device(ordinal: usize) -> Result<Self> {
        probe::driver()?;
        if i32::try_from(ordinal).is_err() {
            return Err(Error::InvalidValue {
                argument: "ordinal",
                value: ordinal.to_string(),
                expected: "the number of a device",
            });
        }
        let context = CudaContext::new(ordinal).map_err(failure::driver("opening the CUDA device"))?;
        Self::new(context.default_stream())
    }

    /// The stream that operations are enqueued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        self.engine.executor().stream()
    }

    /// Chooses how `f32` matrices are multiplied; true `f32` at first.
    pub fn set_f32_math(&mut self, math: F32Math) {
        self.engine.set_f32_math(math);
    }

    /// Y = X·W: a layer without adapter, and what LoRA's overhead is measured against.
    ///
    /// X \[M, in\], W \[in, out\] and Y \[M, out\] have one element type and may be transposed views. Sums are `f32`
    /// and are rounded once. Returns when the product has been enqueued.
    ///
    /// # Errors
    /// A shape or an element type does not fit, or the device failed.
    pub fn frozen(
        &mut self,
        x: MatrixRef<'_, DeviceMemory>,
        w: MatrixRef<'_, DeviceMemory>,
        y: MatrixMut<'_, DeviceMemory>,
    ) -> Result<()> {
        let stream = self.stream().clone();
        let mut borrows = Borrows::new(&stream);
        let (x, w, y) = (borrows.read("x", x)?, borrows.read("w", w)?, borrows.write("y", y)?);
        // SAFETY: the views are cudarc's live slices, and Y's is borrowed exclusively.
        unsafe { self.engine.frozen(x, w, y) }
    }

    /// Copies a restore record to the host, where the CPU backend can use it and it can be stored.
    ///
    /// # Errors
    /// The record lives in another context, or the copy failed.
    pub fn download_record(&mut self, record: &RestoreRecord<DeviceCodes>) -> Result<RestoreRecord> {
        let Some(recorded) = record.recorded() else { return Ok(RestoreRecord::new(record.method())) };
        let stream = self.stream();
        let mut bytes = Vec::new();
        if let Some(codes) = &record.codes.0 {
            Borrows::new(stream).check_context("record", codes.context())?;
            bytes = stream.clone_dtoh(codes).map_err(failure::driver("copying a restore record"))?;
            stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))?;
        }
        Ok(RestoreRecord::from_parts(record.method(), *recorded, bytes, record.escapes().to_vec()))
    }

    /// Copies a restore record from the host to this handle's device.
    ///
    /// # Errors
    /// Device memory ran out, or the copy failed.
    pub fn upload_record(&mut self, record: &RestoreRecord) -> Result<RestoreRecord<DeviceCodes>> {
        let Some(recorded) = record.recorded() else { return Ok(RestoreRecord::new(record.method())) };
        let stream = self.stream();
        let codes = stream
            .clone_htod(record.codes())
            .map_err(failure::allocation(record.codes().len(), "a restore record"))?;
        // The host's copy may be dropped as soon as this returns.
        stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))?;
        let codes = DeviceCodes(Some(codes));
        Ok(RestoreRecord::from_parts(record.method(), *recorded, codes, record.escapes().to_vec()))
    }

    fn update_with_record(
        &mut self,
        op: WeightUpdate<'_, DeviceMemory, DeviceCodes>,
        codes: Option<(&mut DeviceCodes, &mut RestoreRecord<RawCodes>)>,
    ) -> Result<Option<MergeReport>> {
        let stream = self.stream().clone();
        let mut borrows = Borrows::new(&stream);
        let WeightUpdate { w, remove, add, rounding, report, .. } = op;
        let mut update = WeightUpdate {
            w: borrows.write("w", w)?,
            remove: remove.map(|adapter| borrows.adapter(adapter)).transpose()?,
            add: add.map(|adapter| borrows.adapter(adapter)).transpose()?,
            rounding,
            record: None,
            report,
        };
        if let Some((codes, record)) = codes {
            if let Some(memory) = &mut codes.0 {
                borrows.check_context("record", memory.context())?;
                let bytes = memory.len() as u64;
                let (address, guard) = memory.device_ptr_mut(&stream);
                borrows.keep(guard);
                record.codes = RawCodes { address, bytes };
            }
            update.record = Some(record);
        }
        // SAFETY: the views and the codes are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine.update_weights(update) }
    }
}

impl Backend for Cuda {
    type Memory = DeviceMemory;
    type Codes = DeviceCodes;

    fn forward_siblings(&mut self, op: ForwardSiblings<'_, DeviceMemory>) -> Result<()> {
        let stream = self.stream().clone();
        let mut borrows = Borrows::new(&stream);
        let op = borrows.forward(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine.forward_siblings(op) }
    }

    fn backward_siblings(&mut self, op: BackwardSiblings<'_, DeviceMemory>) -> Result<()> {
        let stream = self.stream().clone();
        let mut borrows = Borrows::new(&stream);
        let op = borrows.backward(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine.backward_siblings(op) }
    }

    fn update_weights(
        &mut self,
        mut op: WeightUpdate<'_, DeviceMemory, DeviceCodes>,
    ) -> Result<Option<MergeReport>> {
        op.check()?;
        let Some(record) = op.record.take() else { return self.update_with_record(op, None) };
        let method = record.method();
        // A switch needs the codes that are there; the engine refuses them if they are too few.
        if op.add.is_some() && op.remove.is_none() {
            let needed = RestoreRecord::<DeviceCodes>::code_bytes(method, op.w.shape(), op.w.dtype());
            record.codes.make_room(self.stream(), needed)?;
        }
        let lent = std::mem::replace(record, RestoreRecord::new(method));
        let (mut lent, mut codes) = lent.move_codes(RawCodes::default());
        let result = self.update_with_record(op, Some((&mut codes, &mut lent)));
        (*record, _) = lent.move_codes(codes);
        result
    }

    fn delta(&mut self, op: Delta<'_, DeviceMemory>) -> Result<()> {
        let stream = self.stream().clone();
        let mut borrows = Borrows::new(&stream);
        let op = borrows.delta(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine.delta(op) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Cuda>();
    }

    #[test]
    fn without_a_gpu_opening_a_device_is_a_typed_error() {
        if let Err(error) = Cuda::on_device(1 << 20) {
            assert!(matches!(error, Error::CudaUnavailable(_) | Error::Cuda { .. }), "{error}");
        }
    }
}

//! The safe handle.

use super::borrow::Borrows;
use super::codes::DeviceCodes;
use super::memory::DeviceMemory;
use super::{DriverExecutor, failure, probe};
use crate::cuda::engine::{Engine, RawCodes};
use crate::cuda::step::F32Math;
use crate::ops::{
    Backward, BackwardSiblings, Conversion, Delta, Forward, ForwardSiblings, Frozen, FrozenBackward,
    MergeReport, WeightUpdate,
};
use crate::restore::RestoreRecord;
use crate::{Backend, Error, Result};
use cudarc::driver::{CudaContext, CudaStream, DevicePtrMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The CUDA backend: operations on cudarc's slices, enqueued on one stream.
///
/// # Streams and threads
/// The stream is the caller's: one of cudarc's, or one of another library, which
/// [`CudaContext::wrap_borrowed_stream`](cudarc::driver::CudaContext::wrap_borrowed_stream) wraps without owning it. Threads
/// may share a handle: the steps of one operation stay together, and operations run in the order in which they were enqueued.
/// Handles on several streams run side by side.
///
/// Forward, backward and delta return when their work has been enqueued. An update that uses a record or asks for a
/// report waits for the device, because the result is on the host.
///
/// # Memory
/// The handle owns scratch memory that grows to what the largest operation needs, and 32 MiB for cuBLASLt. Nothing
/// else is allocated, except the codes of restore records. On the host, the forward and backward of a layer allocate nothing
/// once a layer of that shape was there.
///
/// # Capturing graphs
/// Once an operation has run with the same shapes and addresses, it can be captured into a CUDA graph. Before that, it
/// may have to allocate or to load a kernel, and returns an error in a capture. Keep the handle as long as the graph,
/// which uses its scratch memory, and do not let operations of the handle and replays of the graph overlap. Slices that
/// are captured must be allocated without cudarc's event tracking: see
/// [`CudaContext::disable_event_tracking`](cudarc::driver::CudaContext::disable_event_tracking).
#[derive(Debug)]
pub struct Cuda {
    stream: Arc<CudaStream>,
    engine: Mutex<Engine<DriverExecutor>>,
}

impl Cuda {
    /// A handle that enqueues on `stream`. With candle, that is `device.cuda_stream()`.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] if the device is too old, cuBLASLt is missing, or the crate was built without kernels.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        let executor = DriverExecutor::new(stream.clone())?;
        Ok(Cuda { stream, engine: Mutex::new(Engine::new(executor)) })
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
        &self.stream
    }

    /// Chooses how `f32` matrices are multiplied; true `f32` at first.
    pub fn set_f32_math(&self, math: F32Math) {
        self.engine().set_f32_math(math);
    }

    /// The engine, locked for one operation: its steps must not mix with those of another.
    pub(super) fn engine(&self) -> MutexGuard<'_, Engine<DriverExecutor>> {
        // What an operation leaves behind when it panics is scratch memory, which the next one overwrites.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frozen_named(&self, op: Frozen<'_, DeviceMemory>, names: [&'static str; 2]) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.frozen(op, names)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().frozen(op) }
    }

    fn update_with_record(
        &self,
        op: WeightUpdate<'_, DeviceMemory, DeviceCodes>,
        codes: Option<(&mut DeviceCodes, &mut RestoreRecord<RawCodes>)>,
    ) -> Result<Option<MergeReport>> {
        let mut borrows = Borrows::new(&self.stream);
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
                let (address, guard) = memory.device_ptr_mut(&self.stream);
                borrows.keep(guard);
                record.codes = RawCodes { address, bytes };
            }
            update.record = Some(record);
        }
        // SAFETY: the views and the codes are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().update_weights(update) }
    }
}

impl Backend for Cuda {
    type Memory = DeviceMemory;
    type Codes = DeviceCodes;

    fn forward(&self, op: Forward<'_, DeviceMemory>) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.forward(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().forward(op) }
    }

    fn backward(&self, op: Backward<'_, DeviceMemory>) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.backward(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().backward(op) }
    }

    fn forward_siblings(&self, op: ForwardSiblings<'_, DeviceMemory>) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.forward_siblings(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().forward_siblings(op) }
    }

    fn backward_siblings(&self, op: BackwardSiblings<'_, DeviceMemory>) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.backward_siblings(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().backward_siblings(op) }
    }

    fn frozen(&self, op: Frozen<'_, DeviceMemory>) -> Result<()> {
        self.frozen_named(op, ["x", "y"])
    }

    fn frozen_backward(&self, op: FrozenBackward<'_, DeviceMemory>) -> Result<()> {
        op.check()?;
        self.frozen_named(op.into(), ["dy", "dx"])
    }

    fn update_weights(
        &self,
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

    fn delta(&self, op: Delta<'_, DeviceMemory>) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.delta(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().delta(op) }
    }

    fn convert(&self, op: Conversion<'_, DeviceMemory>) -> Result<()> {
        let mut borrows = Borrows::new(&self.stream);
        let op = borrows.conversion(op)?;
        // SAFETY: the views are cudarc's live slices, borrowed exclusively where they are written.
        unsafe { self.engine().convert(op) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_can_share_a_handle() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Cuda>();
    }

    #[test]
    fn without_a_gpu_opening_a_device_is_a_typed_error() {
        if let Err(error) = Cuda::on_device(1 << 20) {
            assert!(matches!(error, Error::CudaUnavailable(_) | Error::Cuda { .. }), "{error}");
        }
    }
}

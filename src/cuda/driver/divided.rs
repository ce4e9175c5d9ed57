//! One slice that several views write.

use super::slices::DeviceBufferMut;
use crate::DType;
use cudarc::driver::{CudaStream, SyncOnDrop};
use std::sync::Arc;

/// A slice that was taken apart: its address, and its borrow until the last part is gone.
///
/// cudarc orders uses of a slice by its exclusive borrow, which several parts cannot have. So the division borrows it once, on
/// the stream that the slice was allocated on, and each use of a part on another stream is ordered with that one.
pub struct Divided<'a> {
    // Dropped before the stream that it borrows.
    _written: SyncOnDrop<'a>,
    address: u64,
    dtype: DType,
    stream: Arc<CudaStream>,
}

/// Makes the slice's own stream wait for the stream of an operation, when the operation has been enqueued.
pub struct Join<'a> {
    own: Arc<CudaStream>,
    operation: &'a CudaStream,
}

impl<'a> Divided<'a> {
    /// Borrows the slice on its own stream.
    pub fn new(slice: &'a mut (dyn DeviceBufferMut + 'a)) -> Self {
        let (dtype, stream) = (slice.dtype(), slice.cuda_stream().clone());
        // SAFETY: the stream is kept alive by this value, which drops the borrow first and never gives it out.
        let borrowed: &'a CudaStream = unsafe { &*Arc::as_ptr(&stream) };
        let (address, written) = slice.write(borrowed);
        Divided { _written: written, address, dtype, stream }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The address of the whole slice, after making `stream` wait for the slice's own; and what makes that one wait in turn.
    pub fn use_on<'b>(&self, stream: &'b CudaStream) -> (u64, Option<Join<'b>>) {
        let context = self.stream.context();
        if stream.cu_stream() == self.stream.cu_stream() || !context.is_managing_stream_synchronization() {
            return (self.address, None);
        }
        context.record_err(stream.join(&self.stream));
        (self.address, Some(Join { own: self.stream.clone(), operation: stream }))
    }
}

impl Drop for Join<'_> {
    fn drop(&mut self) {
        self.own.context().record_err(self.own.join(self.operation));
    }
}

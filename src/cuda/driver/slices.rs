//! The slices of cudarc's that can be borrowed.

use crate::{DType, Element};
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop,
};
use std::sync::Arc;

mod sealed {
    pub trait Sealed {}
}

/// A slice of cudarc's that can be read. Only cudarc's own types are, because the address is trusted.
pub trait DeviceBuffer: sealed::Sealed {
    /// The element type.
    fn dtype(&self) -> DType;
    /// The number of elements.
    fn elements(&self) -> usize;
    /// The stream that the memory was allocated on.
    fn cuda_stream(&self) -> &Arc<CudaStream>;
    /// The address, after making `stream` wait for what other streams write. What comes with it tells cudarc, when it
    /// is dropped, that all reads have been enqueued.
    fn read<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>);
}

/// A slice of cudarc's that can be written.
pub trait DeviceBufferMut: DeviceBuffer {
    /// The address, after making `stream` wait for what other streams read and write. What comes with it tells cudarc,
    /// when it is dropped, that all writes have been enqueued.
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>);
}

macro_rules! device_buffer {
    ($($slice:ty),*) => {$(
        impl<T: Element> sealed::Sealed for $slice {}

        impl<T: Element> DeviceBuffer for $slice {
            fn dtype(&self) -> DType {
                T::DTYPE
            }
            fn elements(&self) -> usize {
                self.len()
            }
            fn cuda_stream(&self) -> &Arc<CudaStream> {
                DeviceSlice::stream(self)
            }
            fn read<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
                self.device_ptr(stream)
            }
        }
    )*};
}

macro_rules! device_buffer_mut {
    ($($slice:ty),*) => {$(
        impl<T: Element> DeviceBufferMut for $slice {
            fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
                self.device_ptr_mut(stream)
            }
        }
    )*};
}

device_buffer!(CudaSlice<T>, CudaView<'_, T>, CudaViewMut<'_, T>);
device_buffer_mut!(CudaSlice<T>, CudaViewMut<'_, T>);

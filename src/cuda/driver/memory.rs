//! Views of cudarc's device slices.

use crate::memory::Memory;
use crate::{DType, Element, Layout, MatrixMut, MatrixRef, Result};
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice,
    SyncOnDrop,
};
use std::fmt;
use std::sync::Arc;

/// Device memory owned by cudarc: [`CudaSlice`], [`CudaView`] and [`CudaViewMut`] of any [`Element`].
///
/// ```no_run
/// use cudarc::driver::CudaContext;
/// use lora_kernels::{Adapter, Backend, Forward, MatrixMut, MatrixRef, cuda::Cuda};
///
/// let stream = CudaContext::new(0)?.default_stream();
/// let mut cuda = Cuda::new(stream.clone())?;
/// let (x, w) = (stream.clone_htod(&[1.0f32; 2 * 3])?, stream.clone_htod(&[1.0f32; 3 * 4])?);
/// let (a, b) = (stream.clone_htod(&[1.0f32; 3])?, stream.clone_htod(&[1.0f32; 4])?);
/// let mut y = stream.alloc_zeros::<f32>(2 * 4)?;
/// cuda.forward(Forward {
///     x: MatrixRef::from_cuda(&x, 2, 3)?,
///     w: MatrixRef::from_cuda(&w, 3, 4)?,
///     adapter: Adapter {
///         a: MatrixRef::from_cuda(&a, 3, 1)?,
///         b: MatrixRef::from_cuda(&b, 1, 4)?,
///         scale: 2.0,
///     },
///     bias: None,
///     dropout: None,
///     y: MatrixMut::from_cuda(&mut y, 2, 4)?,
///     s: None,
/// })?;
/// assert_eq!(stream.clone_dtoh(&y)?, [9.0; 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum DeviceMemory {}

/// A shared borrow of a slice of any element type.
#[derive(Clone, Copy)]
pub struct DeviceRef<'a>(pub(super) &'a (dyn DeviceBuffer + 'a));

/// An exclusive borrow of a slice of any element type.
pub struct DeviceMut<'a>(pub(super) &'a mut (dyn DeviceBufferMut + 'a));

mod sealed {
    pub trait Sealed {}
}

/// A slice of cudarc's that can be read. Only cudarc's own types are, because the address is trusted.
pub trait DeviceBuffer: sealed::Sealed {
    /// The element type.
    fn dtype(&self) -> DType;
    /// The number of elements.
    fn elements(&self) -> usize;
    /// The context in which the memory was allocated.
    fn cuda_context(&self) -> &Arc<CudaContext>;
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
            fn cuda_context(&self) -> &Arc<CudaContext> {
                DeviceSlice::stream(self).context()
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

fn describe(f: &mut fmt::Formatter<'_>, name: &str, buffer: &dyn DeviceBuffer) -> fmt::Result {
    f.debug_struct(name)
        .field("dtype", &buffer.dtype())
        .field("elements", &buffer.elements())
        .field("device", &buffer.cuda_context().ordinal())
        .finish()
}

impl fmt::Debug for DeviceRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "DeviceRef", self.0)
    }
}

impl fmt::Debug for DeviceMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "DeviceMut", self.0)
    }
}

impl Memory for DeviceMemory {
    type Ref<'a> = DeviceRef<'a>;
    type Mut<'a> = DeviceMut<'a>;

    fn dtype(buffer: DeviceRef<'_>) -> DType {
        buffer.0.dtype()
    }
    fn len(buffer: DeviceRef<'_>) -> usize {
        buffer.0.elements()
    }
    fn share<'b>(buffer: &'b DeviceMut<'_>) -> DeviceRef<'b> {
        DeviceRef(buffer.0)
    }
    fn shorten<'short, 'long: 'short>(buffer: DeviceRef<'long>) -> DeviceRef<'short> {
        buffer
    }
    unsafe fn extend(buffer: DeviceRef<'_>) -> DeviceRef<'static> {
        // SAFETY: only the lifetime changes, and the caller keeps to the old one.
        unsafe { std::mem::transmute::<DeviceRef<'_>, DeviceRef<'static>>(buffer) }
    }
    fn reborrow<'b>(buffer: &'b mut DeviceMut<'_>) -> DeviceMut<'b> {
        DeviceMut(buffer.0)
    }
}

impl<'a> MatrixRef<'a, DeviceMemory> {
    /// A row-major `rows` × `cols` view of the start of a device slice.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) if the slice is too short.
    pub fn from_cuda(slice: &'a impl DeviceBuffer, rows: usize, cols: usize) -> Result<Self> {
        Self::from_cuda_strided(slice, rows, cols, cols)
    }

    /// A view of a device slice whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) or
    /// [`Error::InvalidStride`](crate::Error::InvalidStride).
    pub fn from_cuda_strided(
        slice: &'a impl DeviceBuffer,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Result<Self> {
        Self::from_buffer(DeviceRef(slice), Layout::strided(rows, cols, stride)?)
    }

    /// A device slice as a matrix of one row: how biases are given.
    ///
    /// # Errors
    /// None: the view fits its slice.
    pub fn from_cuda_row(slice: &'a impl DeviceBuffer) -> Result<Self> {
        Self::from_cuda(slice, 1, slice.elements())
    }
}

impl<'a> MatrixMut<'a, DeviceMemory> {
    /// A row-major `rows` × `cols` view of the start of a device slice.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) if the slice is too short.
    pub fn from_cuda(slice: &'a mut impl DeviceBufferMut, rows: usize, cols: usize) -> Result<Self> {
        Self::from_cuda_strided(slice, rows, cols, cols)
    }

    /// A view of a device slice whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) or
    /// [`Error::InvalidStride`](crate::Error::InvalidStride).
    pub fn from_cuda_strided(
        slice: &'a mut impl DeviceBufferMut,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Result<Self> {
        Self::from_buffer(DeviceMut(slice), Layout::strided(rows, cols, stride)?)
    }

    /// A device slice as a matrix of one row: how bias gradients are given.
    ///
    /// # Errors
    /// None: the view fits its slice.
    pub fn from_cuda_row(slice: &'a mut impl DeviceBufferMut) -> Result<Self> {
        let elements = slice.elements();
        Self::from_cuda(slice, 1, elements)
    }
}

//! Views of cudarc's device slices.

use super::divided::Divided;
use super::slices::{DeviceBuffer, DeviceBufferMut};
use crate::memory::Memory;
use crate::{DType, Layout, MatrixMut, MatrixRef, Result};
use cudarc::driver::{CudaContext, CudaStream, SyncOnDrop};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Device memory owned by cudarc: [`CudaSlice`](cudarc::driver::CudaSlice), [`CudaView`](cudarc::driver::CudaView) and
/// [`CudaViewMut`](cudarc::driver::CudaViewMut) of any [`Element`](crate::Element).
///
/// ```no_run
/// use cudarc::driver::CudaContext;
/// use lora_kernels::{Adapter, Backend, Forward, MatrixMut, MatrixRef, cuda::Cuda};
///
/// let stream = CudaContext::new(0)?.default_stream();
/// let cuda = Cuda::new(stream.clone())?;
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

/// A shared borrow of elements of a slice of any element type.
#[derive(Clone, Copy)]
pub struct DeviceRef<'a> {
    source: Source<'a>,
    window: Window,
}

/// An exclusive borrow of elements of a slice of any element type.
pub struct DeviceMut<'a> {
    target: Target<'a>,
    window: Window,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Slice(&'a (dyn DeviceBuffer + 'a)),
    Divided(&'a Divided<'a>),
}

enum Target<'a> {
    Slice(&'a mut (dyn DeviceBufferMut + 'a)),
    Divided(Rc<Divided<'a>>),
}

/// Which elements of a slice are borrowed.
#[derive(Clone, Copy)]
struct Window {
    start: usize,
    len: usize,
}

/// Orders streams when it is dropped, after steps have been enqueued.
pub enum Guard<'a> {
    /// cudarc's own for a slice.
    Slice { _sync: SyncOnDrop<'a> },
    /// For a slice whose first use the division has ordered.
    Divided { _divided: Option<Rc<Divided<'a>>>, _join: Option<super::divided::Join<'a>> },
}

impl Window {
    fn after(self, elements: usize) -> Self {
        let skipped = elements.min(self.len);
        Window { start: self.start + skipped, len: self.len - skipped }
    }

    fn first(self, elements: usize) -> Self {
        Window { len: self.len.min(elements), ..self }
    }

    /// The address of the window's first element in a slice that starts at `slice`.
    fn address(self, slice: u64, dtype: DType) -> u64 {
        slice + self.start as u64 * dtype.size() as u64
    }
}

impl<'a> DeviceRef<'a> {
    /// All elements of a slice.
    pub fn new(slice: &'a impl DeviceBuffer) -> Self {
        DeviceRef { source: Source::Slice(slice), window: Window { start: 0, len: slice.elements() } }
    }

    /// No more than the first `elements` elements.
    pub(super) fn first(self, elements: usize) -> Self {
        DeviceRef { window: self.window.first(elements), ..self }
    }

    pub(super) fn context(self) -> &'a Arc<CudaContext> {
        match self.source {
            Source::Slice(slice) => slice.cuda_stream().context(),
            Source::Divided(divided) => divided.stream().context(),
        }
    }

    /// The address, after making `stream` wait for what other streams write.
    pub(super) fn read<'b>(self, stream: &'b CudaStream) -> (u64, Guard<'b>)
    where
        'a: 'b,
    {
        let dtype = DeviceMemory::dtype(self);
        let (start, guard) = match self.source {
            Source::Slice(slice) => {
                let (start, sync) = slice.read(stream);
                (start, Guard::Slice { _sync: sync })
            }
            Source::Divided(divided) => {
                let (start, join) = divided.use_on(stream);
                (start, Guard::Divided { _divided: None, _join: join })
            }
        };
        (self.window.address(start, dtype), guard)
    }
}

impl<'a> DeviceMut<'a> {
    /// All elements of a slice.
    pub fn new(slice: &'a mut impl DeviceBufferMut) -> Self {
        let window = Window { start: 0, len: slice.elements() };
        DeviceMut { target: Target::Slice(slice), window }
    }

    /// No more than the first `elements` elements.
    pub(super) fn first(self, elements: usize) -> Self {
        DeviceMut { window: self.window.first(elements), ..self }
    }

    /// The address, after making `stream` wait for what other streams read and write.
    pub(super) fn write<'b>(self, stream: &'b CudaStream) -> (u64, Guard<'b>)
    where
        'a: 'b,
    {
        let dtype = DeviceMemory::dtype(DeviceMemory::share(&self));
        let (start, guard) = match self.target {
            Target::Slice(slice) => {
                let slice: &'b mut _ = slice;
                let (start, sync) = slice.write(stream);
                (start, Guard::Slice { _sync: sync })
            }
            Target::Divided(divided) => {
                let (start, join) = divided.use_on(stream);
                (start, Guard::Divided { _divided: Some(divided), _join: join })
            }
        };
        (self.window.address(start, dtype), guard)
    }
}

fn describe(f: &mut fmt::Formatter<'_>, name: &str, buffer: DeviceRef<'_>) -> fmt::Result {
    f.debug_struct(name)
        .field("dtype", &DeviceMemory::dtype(buffer))
        .field("elements", &buffer.window.len)
        .field("device", &buffer.context().ordinal())
        .finish()
}

impl fmt::Debug for DeviceRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "DeviceRef", *self)
    }
}

impl fmt::Debug for DeviceMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "DeviceMut", DeviceMemory::share(self))
    }
}

impl Memory for DeviceMemory {
    type Ref<'a> = DeviceRef<'a>;
    type Mut<'a> = DeviceMut<'a>;

    fn dtype(buffer: DeviceRef<'_>) -> DType {
        match buffer.source {
            Source::Slice(slice) => slice.dtype(),
            Source::Divided(divided) => divided.dtype(),
        }
    }
    fn len(buffer: DeviceRef<'_>) -> usize {
        buffer.window.len
    }
    fn after(buffer: Self::Ref<'_>, elements: usize) -> Self::Ref<'_> {
        DeviceRef { window: buffer.window.after(elements), ..buffer }
    }
    fn after_mut(buffer: Self::Mut<'_>, elements: usize) -> Self::Mut<'_> {
        DeviceMut { window: buffer.window.after(elements), ..buffer }
    }
    fn share<'b>(buffer: &'b DeviceMut<'_>) -> DeviceRef<'b> {
        let source = match &buffer.target {
            Target::Slice(slice) => Source::Slice(*slice),
            Target::Divided(divided) => Source::Divided(divided),
        };
        DeviceRef { source, window: buffer.window }
    }
    fn shorten<'short, 'long: 'short>(buffer: DeviceRef<'long>) -> DeviceRef<'short> {
        buffer
    }
    unsafe fn extend(buffer: DeviceRef<'_>) -> DeviceRef<'static> {
        // SAFETY: only the lifetime changes, and the caller keeps to the old one.
        unsafe { std::mem::transmute::<DeviceRef<'_>, DeviceRef<'static>>(buffer) }
    }
    fn reborrow<'b>(buffer: &'b mut DeviceMut<'_>) -> DeviceMut<'b> {
        let target = match &mut buffer.target {
            Target::Slice(slice) => Target::Slice(*slice),
            Target::Divided(divided) => Target::Divided(divided.clone()),
        };
        DeviceMut { target, window: buffer.window }
    }
    unsafe fn twice(buffer: Self::Mut<'_>) -> [Self::Mut<'_>; 2] {
        let DeviceMut { target, window } = buffer;
        let divided = match target {
            Target::Slice(slice) => Rc::new(Divided::new(slice)),
            Target::Divided(divided) => divided,
        };
        [divided.clone(), divided].map(|divided| DeviceMut { target: Target::Divided(divided), window })
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
        Self::from_cuda_at(slice, 0, Layout::strided(rows, cols, stride)?)
    }

    /// A view of any layout that starts at element `first` of a device slice.
    ///
    /// ```no_run
    /// use cudarc::driver::CudaContext;
    /// use lora_kernels::{Layout, MatrixRef, cuda::DeviceMemory};
    ///
    /// let stream = CudaContext::new(0)?.default_stream();
    /// // One allocation that holds a weight [out, in] = [6, 4] behind 100 other elements.
    /// let all = stream.alloc_zeros::<f32>(124)?;
    /// let w: MatrixRef<DeviceMemory> = MatrixRef::from_cuda_at(&all, 100, Layout::packed(6, 4)?)?.t();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) or
    /// [`Error::InvalidStride`](crate::Error::InvalidStride).
    pub fn from_cuda_at(slice: &'a impl DeviceBuffer, first: usize, layout: Layout) -> Result<Self> {
        Self::from_buffer_at(DeviceRef::new(slice), first, layout)
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
        Self::from_cuda_at(slice, 0, Layout::strided(rows, cols, stride)?)
    }

    /// A view of any layout that starts at element `first` of a device slice.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) or
    /// [`Error::InvalidStride`](crate::Error::InvalidStride).
    pub fn from_cuda_at(slice: &'a mut impl DeviceBufferMut, first: usize, layout: Layout) -> Result<Self> {
        Self::from_buffer_at(DeviceMut::new(slice), first, layout)
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

//! Backends with memory of their own.

use crate::memory::{HostMut, HostRef, Memory};
use crate::restore::RestoreRecord;
use crate::{Backend, DType, Error, Layout, MatrixMut, MatrixRef, Result};

/// A backend that also owns buffers: allocates them, copies to and from them, and gives out views.
///
/// The CPU, a GPU and an emulated GPU are devices, so that code that holds matrices can be written once for all. Who brings
/// memory of a framework's needs [`Backend`] only.
///
/// ```
/// use lora_kernels::memory::{HostMut, HostRef};
/// use lora_kernels::ops::Output;
/// use lora_kernels::{DType, Device, Frozen, Layout, Result, cpu::Cpu};
///
/// fn doubled<D: Device>(device: &D, values: &mut [f32]) -> Result<()> {
///     let count = values.len();
///     let x = device.upload(HostRef::new(values))?;
///     let two = device.upload(HostRef::new(&[2.0f32]))?;
///     let mut y = device.allocate(DType::F32, count)?;
///     device.frozen(Frozen {
///         x: D::view(&x, 0, Layout::packed(count, 1)?)?,
///         w: D::view(&two, 0, Layout::packed(1, 1)?)?,
///         bias: None,
///         y: Output::overwrite(D::view_mut(&mut y, 0, Layout::packed(count, 1)?)?),
///     })?;
///     device.download(&y, 0, HostMut::new(values))
/// }
///
/// let mut values = [1.0, 2.5];
/// doubled(&Cpu::new(), &mut values)?;
/// assert_eq!(values, [2.0, 5.0]);
/// # Ok::<(), lora_kernels::Error>(())
/// ```
pub trait Device: Backend {
    /// Elements of one type in the device's memory, freed when it is dropped.
    type Buffer: std::fmt::Debug;

    /// A buffer of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or the device failed.
    fn allocate(&self, dtype: DType, elements: usize) -> Result<Self::Buffer>;

    /// A buffer with a copy of these elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or the copy failed.
    fn upload(&self, elements: HostRef<'_>) -> Result<Self::Buffer>;

    /// Copies elements into a buffer, to its element `first` and the following.
    ///
    /// # Errors
    /// Another element type, elements that do not fit into the buffer, or the copy failed.
    fn write(&self, buffer: &mut Self::Buffer, first: usize, elements: HostRef<'_>) -> Result<()>;

    /// Copies elements out of a buffer, from its element `first` on, and waits for that.
    ///
    /// # Errors
    /// Another element type, more elements than the buffer has, or the copy, or what was to be computed before, failed.
    fn download(&self, buffer: &Self::Buffer, first: usize, elements: HostMut<'_>) -> Result<()>;

    /// Whether `elements` elements of this type can be copied to or from element `first` of a buffer and the following.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] or [`Error::BufferTooShort`].
    fn check_copy(buffer: &Self::Buffer, first: usize, dtype: DType, elements: usize) -> Result<()> {
        let whole = Self::whole(buffer);
        let found = Self::Memory::dtype(whole);
        if found != dtype {
            return Err(Error::DTypeMismatch { argument: "buffer", found, expected: dtype.to_string() });
        }
        Layout::packed(1, elements)?.check_buffer(first, Self::Memory::len(whole), dtype)
    }

    /// A borrow of the whole buffer.
    fn whole(buffer: &Self::Buffer) -> <Self::Memory as Memory>::Ref<'_>;

    /// An exclusive borrow of the whole buffer.
    fn whole_mut(buffer: &mut Self::Buffer) -> <Self::Memory as Memory>::Mut<'_>;

    /// A matrix that starts at element `first` of a buffer.
    ///
    /// # Errors
    /// The layout reaches past the buffer.
    fn view(buffer: &Self::Buffer, first: usize, layout: Layout) -> Result<MatrixRef<'_, Self::Memory>> {
        MatrixRef::from_buffer_at(Self::whole(buffer), first, layout)
    }

    /// A matrix to write that starts at element `first` of a buffer.
    ///
    /// # Errors
    /// The layout reaches past the buffer or repeats elements.
    fn view_mut(
        buffer: &mut Self::Buffer,
        first: usize,
        layout: Layout,
    ) -> Result<MatrixMut<'_, Self::Memory>> {
        MatrixMut::from_buffer_at(Self::whole_mut(buffer), first, layout)
    }

    /// Copies a restore record to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or the copy failed.
    fn upload_record(&self, record: &RestoreRecord) -> Result<RestoreRecord<Self::Codes>>;

    /// Copies a restore record to the host, where it can be stored.
    ///
    /// # Errors
    /// The copy failed.
    fn download_record(&self, record: &RestoreRecord<Self::Codes>) -> Result<RestoreRecord>;
}

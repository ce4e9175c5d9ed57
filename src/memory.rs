//! Where buffers live: host slices, or bare device addresses.

use crate::{DType, Element};
use half::{bf16, f16};

/// A kind of memory, with the type of a shared and of an exclusive borrow of a buffer in it.
///
/// Views and operations are generic over it, so that host and device buffers cannot be mixed by accident.
pub trait Memory: std::fmt::Debug + Sized + 'static {
    /// A shared borrow of a buffer.
    type Ref<'a>: Copy + std::fmt::Debug;
    /// An exclusive borrow of a buffer.
    type Mut<'a>: std::fmt::Debug;

    /// The element type of the buffer.
    fn dtype(buffer: Self::Ref<'_>) -> DType;
    /// The number of elements in the buffer.
    fn len(buffer: Self::Ref<'_>) -> usize;
    /// A shared borrow of an exclusively borrowed buffer.
    fn share<'b>(buffer: &'b Self::Mut<'_>) -> Self::Ref<'b>;
    /// The same borrow for a shorter time: shared borrows are covariant, which a trait cannot say of its types.
    fn shorten<'short, 'long: 'short>(buffer: Self::Ref<'long>) -> Self::Ref<'short>;
    /// The same borrow without its end, so that a view can keep it and still be covariant.
    ///
    /// # Safety
    /// The result must not be used after the end of `buffer`'s borrow.
    unsafe fn extend(buffer: Self::Ref<'_>) -> Self::Ref<'static>;
    /// A shorter exclusive borrow.
    fn reborrow<'b>(buffer: &'b mut Self::Mut<'_>) -> Self::Mut<'b>;
}

/// Host memory: ordinary slices.
#[derive(Clone, Copy, Debug)]
pub enum Host {}

/// A borrowed host slice of any element type.
#[derive(Clone, Copy, Debug)]
pub enum HostRef<'a> {
    /// `f32` elements.
    F32(&'a [f32]),
    /// `f16` elements.
    F16(&'a [f16]),
    /// `bf16` elements.
    Bf16(&'a [bf16]),
}

/// An exclusively borrowed host slice of any element type.
#[derive(Debug)]
pub enum HostMut<'a> {
    /// `f32` elements.
    F32(&'a mut [f32]),
    /// `f16` elements.
    F16(&'a mut [f16]),
    /// `bf16` elements.
    Bf16(&'a mut [bf16]),
}

impl<'a> HostRef<'a> {
    /// Wraps a typed slice.
    pub fn new<T: Element>(slice: &'a [T]) -> Self {
        match T::DTYPE {
            DType::F32 => HostRef::F32(bytemuck::cast_slice(slice)),
            DType::F16 => HostRef::F16(bytemuck::cast_slice(slice)),
            DType::Bf16 => HostRef::Bf16(bytemuck::cast_slice(slice)),
        }
    }

    /// The slice, if it holds `T`.
    pub fn typed<T: Element>(self) -> Option<&'a [T]> {
        match self {
            HostRef::F32(s) if T::DTYPE == DType::F32 => Some(bytemuck::cast_slice(s)),
            HostRef::F16(s) if T::DTYPE == DType::F16 => Some(bytemuck::cast_slice(s)),
            HostRef::Bf16(s) if T::DTYPE == DType::Bf16 => Some(bytemuck::cast_slice(s)),
            _ => None,
        }
    }
}

impl<'a> HostMut<'a> {
    /// Wraps a typed slice.
    pub fn new<T: Element>(slice: &'a mut [T]) -> Self {
        match T::DTYPE {
            DType::F32 => HostMut::F32(bytemuck::cast_slice_mut(slice)),
            DType::F16 => HostMut::F16(bytemuck::cast_slice_mut(slice)),
            DType::Bf16 => HostMut::Bf16(bytemuck::cast_slice_mut(slice)),
        }
    }

    /// The slice, if it holds `T`.
    pub fn typed<T: Element>(self) -> Option<&'a mut [T]> {
        match self {
            HostMut::F32(s) if T::DTYPE == DType::F32 => Some(bytemuck::cast_slice_mut(s)),
            HostMut::F16(s) if T::DTYPE == DType::F16 => Some(bytemuck::cast_slice_mut(s)),
            HostMut::Bf16(s) if T::DTYPE == DType::Bf16 => Some(bytemuck::cast_slice_mut(s)),
            _ => None,
        }
    }
}

impl Memory for Host {
    type Ref<'a> = HostRef<'a>;
    type Mut<'a> = HostMut<'a>;

    fn dtype(buffer: HostRef<'_>) -> DType {
        match buffer {
            HostRef::F32(_) => DType::F32,
            HostRef::F16(_) => DType::F16,
            HostRef::Bf16(_) => DType::Bf16,
        }
    }

    fn len(buffer: HostRef<'_>) -> usize {
        match buffer {
            HostRef::F32(s) => s.len(),
            HostRef::F16(s) => s.len(),
            HostRef::Bf16(s) => s.len(),
        }
    }

    fn share<'b>(buffer: &'b HostMut<'_>) -> HostRef<'b> {
        match buffer {
            HostMut::F32(s) => HostRef::F32(s),
            HostMut::F16(s) => HostRef::F16(s),
            HostMut::Bf16(s) => HostRef::Bf16(s),
        }
    }

    fn shorten<'short, 'long: 'short>(buffer: HostRef<'long>) -> HostRef<'short> {
        buffer
    }

    unsafe fn extend(buffer: HostRef<'_>) -> HostRef<'static> {
        // SAFETY: only the lifetime changes, and the caller keeps to the old one.
        unsafe { std::mem::transmute::<HostRef<'_>, HostRef<'static>>(buffer) }
    }

    fn reborrow<'b>(buffer: &'b mut HostMut<'_>) -> HostMut<'b> {
        match buffer {
            HostMut::F32(s) => HostMut::F32(s),
            HostMut::F16(s) => HostMut::F16(s),
            HostMut::Bf16(s) => HostMut::Bf16(s),
        }
    }
}

/// Device memory named by bare addresses: what planners and executors work with.
///
/// Nothing ties an address to a live allocation, so operations on it are for the `unsafe` raw layer and for executors.
#[derive(Clone, Copy, Debug)]
pub enum Raw {}

/// A run of elements in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBuffer {
    /// Address of the first element.
    pub address: u64,
    /// Number of elements.
    pub len: usize,
    /// Element type.
    pub dtype: DType,
}

impl Memory for Raw {
    type Ref<'a> = RawBuffer;
    type Mut<'a> = RawBuffer;

    fn dtype(buffer: RawBuffer) -> DType {
        buffer.dtype
    }
    fn len(buffer: RawBuffer) -> usize {
        buffer.len
    }
    fn share(buffer: &RawBuffer) -> RawBuffer {
        *buffer
    }
    fn shorten<'short, 'long: 'short>(buffer: RawBuffer) -> RawBuffer {
        buffer
    }
    unsafe fn extend(buffer: RawBuffer) -> RawBuffer {
        buffer
    }
    fn reborrow(buffer: &mut RawBuffer) -> RawBuffer {
        *buffer
    }
}

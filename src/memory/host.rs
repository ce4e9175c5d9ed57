//! Host memory.

use super::Memory;
use crate::{DType, Element, Error, Result};
use half::{bf16, f16};
use std::fmt;
use std::marker::PhantomData;

/// Host memory: ordinary slices.
#[derive(Clone, Copy, Debug)]
pub enum Host {}

/// A borrowed host slice of any element type.
#[derive(Clone, Copy)]
pub struct HostRef<'a> {
    elements: Elements,
    borrow: PhantomData<&'a [u8]>,
}

/// An exclusively borrowed host slice of any element type.
pub struct HostMut<'a> {
    elements: Elements,
    borrow: PhantomData<&'a mut [u8]>,
}

/// A run of elements. It was made from a slice of the type that `dtype` names.
#[derive(Clone, Copy)]
struct Elements {
    start: *mut u8,
    len: usize,
    dtype: DType,
    /// Whether another view writes some of the elements, so that there may be no slice of them.
    divided: bool,
}

// SAFETY: a shared borrow of elements that are plain numbers.
unsafe impl Send for HostRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for HostRef<'_> {}
// SAFETY: an exclusive borrow of elements that are plain numbers, or of those that a view reaches.
unsafe impl Send for HostMut<'_> {}
// SAFETY: nothing is changed through a shared reference.
unsafe impl Sync for HostMut<'_> {}

impl Elements {
    fn slice_start<T: Element>(self) -> Result<*mut T> {
        if self.dtype != T::DTYPE {
            let expected = T::DTYPE.to_string();
            return Err(Error::DTypeMismatch { argument: "elements", found: self.dtype, expected });
        }
        if self.divided {
            return Err(Error::Unsupported("a slice of elements that several matrices share".into()));
        }
        Ok(self.start.cast())
    }

    fn after(self, elements: usize) -> Self {
        let skipped = elements.min(self.len);
        Elements {
            start: self.start.wrapping_add(skipped * self.dtype.size()),
            len: self.len - skipped,
            ..self
        }
    }

    fn first(self, elements: usize) -> Self {
        Elements { len: self.len.min(elements), ..self }
    }

    fn describe(self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        f.debug_struct(name).field("dtype", &self.dtype).field("elements", &self.len).finish()
    }
}

impl<'a> HostRef<'a> {
    /// Wraps a typed slice.
    pub fn new<T: Element>(slice: &'a [T]) -> Self {
        let start = slice.as_ptr().cast_mut().cast();
        let elements = Elements { start, len: slice.len(), dtype: T::DTYPE, divided: false };
        HostRef { elements, borrow: PhantomData }
    }

    /// The slice.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] if it holds something else; [`Error::Unsupported`] if another view writes a part of it: see
    /// [`MatrixMut::split_cols`](crate::MatrixMut::split_cols).
    pub fn slice<T: Element>(self) -> Result<&'a [T]> {
        let start = self.elements.slice_start::<T>()?;
        // SAFETY: the run was made from a slice of this type and length, borrowed for 'a, and nobody writes it.
        Ok(unsafe { std::slice::from_raw_parts(start, self.elements.len) })
    }

    /// The bytes of the slice, little-endian elements.
    ///
    /// # Errors
    /// As [`slice`](Self::slice), but for the type.
    pub fn bytes(self) -> Result<&'a [u8]> {
        match self.dtype() {
            DType::F32 => self.slice::<f32>().map(bytemuck::cast_slice),
            DType::F16 => self.slice::<f16>().map(bytemuck::cast_slice),
            DType::Bf16 => self.slice::<bf16>().map(bytemuck::cast_slice),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.elements.dtype
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.elements.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.elements.len == 0
    }

    /// The first elements as a slice, unless other views write some of them.
    pub(crate) fn undivided(self, elements: usize) -> Option<Self> {
        (!self.elements.divided).then_some(HostRef { elements: self.elements.first(elements), ..self })
    }

    /// The first element, of the type that `dtype` names.
    pub(crate) fn pointer(self) -> *const u8 {
        self.elements.start
    }
}

impl<'a> HostMut<'a> {
    /// Wraps a typed slice.
    pub fn new<T: Element>(slice: &'a mut [T]) -> Self {
        let len = slice.len();
        let start = slice.as_mut_ptr().cast();
        HostMut { elements: Elements { start, len, dtype: T::DTYPE, divided: false }, borrow: PhantomData }
    }

    /// The slice.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] if it holds something else; [`Error::Unsupported`] if another view reaches a part of it: see
    /// [`MatrixMut::split_cols`](crate::MatrixMut::split_cols).
    pub fn slice<T: Element>(self) -> Result<&'a mut [T]> {
        let start = self.elements.slice_start::<T>()?;
        // SAFETY: the run was made from a slice of this type and length, borrowed exclusively for 'a.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, self.elements.len) })
    }

    /// The bytes of the slice, little-endian elements.
    ///
    /// # Errors
    /// As [`slice`](Self::slice), but for the type.
    pub fn bytes(self) -> Result<&'a mut [u8]> {
        match self.dtype() {
            DType::F32 => self.slice::<f32>().map(bytemuck::cast_slice_mut),
            DType::F16 => self.slice::<f16>().map(bytemuck::cast_slice_mut),
            DType::Bf16 => self.slice::<bf16>().map(bytemuck::cast_slice_mut),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.elements.dtype
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.elements.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.elements.len == 0
    }

    /// The first elements as a slice, unless other views reach some of them.
    pub(crate) fn undivided(self, elements: usize) -> Option<Self> {
        (!self.elements.divided).then_some(HostMut { elements: self.elements.first(elements), ..self })
    }

    /// The first element, of the type that `dtype` names.
    pub(crate) fn pointer(self) -> *mut u8 {
        self.elements.start
    }
}

impl fmt::Debug for HostRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.elements.describe(f, "HostRef")
    }
}

impl fmt::Debug for HostMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.elements.describe(f, "HostMut")
    }
}

impl Memory for Host {
    type Ref<'a> = HostRef<'a>;
    type Mut<'a> = HostMut<'a>;

    fn dtype(buffer: HostRef<'_>) -> DType {
        buffer.dtype()
    }
    fn len(buffer: HostRef<'_>) -> usize {
        buffer.len()
    }
    fn after(buffer: Self::Ref<'_>, elements: usize) -> Self::Ref<'_> {
        HostRef { elements: buffer.elements.after(elements), ..buffer }
    }
    fn after_mut(buffer: Self::Mut<'_>, elements: usize) -> Self::Mut<'_> {
        HostMut { elements: buffer.elements.after(elements), ..buffer }
    }
    fn share<'b>(buffer: &'b HostMut<'_>) -> HostRef<'b> {
        HostRef { elements: buffer.elements, borrow: PhantomData }
    }
    fn shorten<'short, 'long: 'short>(buffer: HostRef<'long>) -> HostRef<'short> {
        buffer
    }
    unsafe fn extend(buffer: HostRef<'_>) -> HostRef<'static> {
        HostRef { elements: buffer.elements, borrow: PhantomData }
    }
    fn reborrow<'b>(buffer: &'b mut HostMut<'_>) -> HostMut<'b> {
        HostMut { elements: buffer.elements, borrow: PhantomData }
    }
    unsafe fn twice(buffer: Self::Mut<'_>) -> [Self::Mut<'_>; 2] {
        let elements = Elements { divided: true, ..buffer.elements };
        [elements; 2].map(|elements| HostMut { elements, borrow: PhantomData })
    }
}

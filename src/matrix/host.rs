//! Views of host slices.

use super::{MatrixMut, MatrixRef};
use crate::memory::{Host, HostMut, HostRef};
use crate::{Element, Layout, Result};

impl<'a> MatrixRef<'a, Host> {
    /// A row-major `rows` × `cols` view of the start of a slice.
    ///
    /// ```
    /// use lora_kernels::MatrixRef;
    /// let w = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    /// let view = MatrixRef::new(&w, 2, 3)?;
    /// assert_eq!(view.t().shape(), lora_kernels::Shape::new(3, 2));
    /// assert!(MatrixRef::new(&w, 2, 4).is_err());
    /// # Ok::<(), lora_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) if the slice is too short.
    pub fn new<T: Element>(slice: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Self::strided(slice, rows, cols, cols)
    }

    /// A view whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) or [`Error::InvalidStride`](crate::Error::InvalidStride).
    pub fn strided<T: Element>(slice: &'a [T], rows: usize, cols: usize, stride: usize) -> Result<Self> {
        Self::from_buffer(HostRef::new(slice), Layout::strided(rows, cols, stride)?)
    }

    /// A vector as a matrix of one row: how biases are given.
    pub fn row<T: Element>(slice: &'a [T]) -> Self {
        MatrixRef::unchecked(HostRef::new(slice), Layout::row(slice.len()))
    }

    /// The elements in the order in which they are stored, if they lie without gaps.
    pub fn contiguous(&self) -> Option<HostRef<'a>> {
        self.layout.is_contiguous().then(|| self.buffer().undivided(self.layout.span()))?
    }
}

impl<'a> MatrixMut<'a, Host> {
    /// A row-major `rows` × `cols` view of the start of a slice.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) if the slice is too short.
    pub fn new<T: Element>(slice: &'a mut [T], rows: usize, cols: usize) -> Result<Self> {
        Self::strided(slice, rows, cols, cols)
    }

    /// A view whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) or [`Error::InvalidStride`](crate::Error::InvalidStride).
    pub fn strided<T: Element>(slice: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Result<Self> {
        Self::from_buffer(HostMut::new(slice), Layout::strided(rows, cols, stride)?)
    }

    /// A vector as a matrix of one row: how bias gradients are given.
    pub fn row<T: Element>(slice: &'a mut [T]) -> Self {
        let layout = Layout::row(slice.len());
        MatrixMut { buffer: HostMut::new(slice), layout }
    }

    /// The elements in the order in which they are stored, if they lie without gaps.
    pub fn contiguous_mut(&mut self) -> Option<HostMut<'_>> {
        let span = self.layout.span();
        self.layout.is_contiguous().then(|| self.reborrow().into_buffer().undivided(span))?
    }
}

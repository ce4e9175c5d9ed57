//! Matrix views: a borrowed buffer and a layout.

mod host;

use crate::memory::{Host, Memory};
use crate::{DType, Layout, Result, Shape};
use std::marker::PhantomData;

/// A matrix that an operation reads.
#[derive(Debug)]
pub struct MatrixRef<'a, D: Memory = Host> {
    /// Borrowed for `'a`, and given out as such only.
    buffer: D::Ref<'static>,
    layout: Layout,
    borrow: PhantomData<&'a ()>,
}

impl<D: Memory> Clone for MatrixRef<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Memory> Copy for MatrixRef<'_, D> {}

/// A matrix that an operation writes.
#[derive(Debug)]
pub struct MatrixMut<'a, D: Memory = Host> {
    buffer: D::Mut<'a>,
    layout: Layout,
}

impl<'a, D: Memory> MatrixRef<'a, D> {
    /// A view of `buffer` with the given layout.
    ///
    /// # Errors
    /// As [`from_buffer_at`](Self::from_buffer_at).
    pub fn from_buffer(buffer: D::Ref<'a>, layout: Layout) -> Result<Self> {
        Self::from_buffer_at(buffer, 0, layout)
    }

    /// A view that starts at element `first` of `buffer`.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) if the layout reaches past the buffer;
    /// [`Error::InvalidStride`](crate::Error::InvalidStride) if it spans more than `isize::MAX` bytes.
    pub fn from_buffer_at(buffer: D::Ref<'a>, first: usize, layout: Layout) -> Result<Self> {
        layout.check_buffer(first, D::len(buffer), D::dtype(buffer))?;
        Ok(MatrixRef::unchecked(D::after(buffer, first), layout))
    }

    /// The first `at` columns, and the others.
    ///
    /// # Errors
    /// [`Error::InvalidValue`](crate::Error::InvalidValue) if there are fewer columns.
    pub fn split_cols(self, at: usize) -> Result<[Self; 2]> {
        let (left, right, skipped) = self.layout.split_cols(at)?;
        let buffer = self.buffer();
        Ok([Self::unchecked(buffer, left), Self::unchecked(D::after(buffer, skipped), right)])
    }

    fn unchecked(buffer: D::Ref<'a>, layout: Layout) -> Self {
        // SAFETY: the view ends with 'a, and `buffer` gives the borrow back with that lifetime.
        let buffer = unsafe { D::extend(buffer) };
        MatrixRef { buffer, layout, borrow: PhantomData }
    }

    /// The transposed view; nothing is copied.
    #[must_use]
    pub fn t(self) -> Self {
        MatrixRef { layout: self.layout.t(), ..self }
    }

    /// The borrowed buffer, from the first element of the matrix on.
    pub(crate) fn buffer(&self) -> D::Ref<'a> {
        D::shorten(self.buffer)
    }

    /// How the elements lie in the buffer.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows × columns.
    pub fn shape(&self) -> Shape {
        self.layout.shape()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.layout.rows()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.layout.cols()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        D::dtype(self.buffer())
    }
}

impl<'a, D: Memory> MatrixMut<'a, D> {
    /// A view of `buffer` with the given layout.
    ///
    /// # Errors
    /// As [`from_buffer_at`](Self::from_buffer_at).
    pub fn from_buffer(buffer: D::Mut<'a>, layout: Layout) -> Result<Self> {
        Self::from_buffer_at(buffer, 0, layout)
    }

    /// A view that starts at element `first` of `buffer`.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`](crate::Error::BufferTooShort) if the layout reaches past the buffer;
    /// [`Error::InvalidStride`](crate::Error::InvalidStride) if it spans more than `isize::MAX` bytes or repeats elements.
    pub fn from_buffer_at(buffer: D::Mut<'a>, first: usize, layout: Layout) -> Result<Self> {
        layout.check_buffer(first, D::len(D::share(&buffer)), D::dtype(D::share(&buffer)))?;
        layout.check_writable()?;
        Ok(MatrixMut { buffer: D::after_mut(buffer, first), layout })
    }

    /// The first `at` columns and the others, as two matrices that can be written at once: the query, key and value
    /// projections, say, that write to one buffer.
    ///
    /// ```
    /// use lora_kernels::MatrixMut;
    /// let mut fused = [0.0f32; 2 * 6];
    /// let [query, rest] = MatrixMut::new(&mut fused, 2, 6)?.split_cols(2)?;
    /// let [key, value] = rest.split_cols(2)?;
    /// assert_eq!([query.cols(), key.cols(), value.cols()], [2, 2, 2]);
    /// # Ok::<(), lora_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidValue`](crate::Error::InvalidValue) if there are fewer columns.
    pub fn split_cols(self, at: usize) -> Result<[Self; 2]> {
        let (left, right, skipped) = self.layout.split_cols(at)?;
        // SAFETY: the two layouts have no element in common, and a view of a divided buffer reaches no others.
        let [first, second] = unsafe { D::twice(self.buffer) };
        Ok([
            MatrixMut { buffer: first, layout: left },
            MatrixMut { buffer: D::after_mut(second, skipped), layout: right },
        ])
    }

    /// The transposed view; nothing is copied.
    #[must_use]
    pub fn t(self) -> Self {
        MatrixMut { layout: self.layout.t(), ..self }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_, D> {
        MatrixMut { buffer: D::reborrow(&mut self.buffer), layout: self.layout }
    }

    /// A view for reading.
    pub fn as_ref(&self) -> MatrixRef<'_, D> {
        MatrixRef::unchecked(D::share(&self.buffer), self.layout)
    }

    /// Gives up the view for the buffer, from the first element of the matrix on.
    pub(crate) fn into_buffer(self) -> D::Mut<'a> {
        self.buffer
    }

    /// How the elements lie in the buffer.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows × columns.
    pub fn shape(&self) -> Shape {
        self.layout.shape()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.layout.rows()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.layout.cols()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        D::dtype(D::share(&self.buffer))
    }
}

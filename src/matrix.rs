//! Matrix views: a borrowed buffer, a shape and a row stride.

use crate::memory::{Host, HostMut, HostRef, Memory};
use crate::{DType, Element, Error, Result, Shape};
use std::marker::PhantomData;

/// More elements than any buffer has: the smallest take two bytes.
const MAX_ELEMENTS: usize = isize::MAX as usize / 2;

/// How the elements of a matrix lie in its buffer. One of the two strides is always 1.
///
/// Rows, columns, the stride, their product and the span of a layout are at most `isize::MAX / 2`, whatever the layout
/// was made from, so that arithmetic with the numbers of one layout does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    stored: Shape,
    stride: usize,
    transposed: bool,
}

impl Layout {
    /// Rows stored one after the other without gaps.
    ///
    /// # Errors
    /// [`Error::InvalidStride`] if the matrix would be larger than memory.
    pub fn packed(rows: usize, cols: usize) -> Result<Self> {
        Self::strided(rows, cols, cols)
    }

    /// Rows stored `stride` elements apart. The stride of a single row says nothing and becomes its length.
    ///
    /// # Errors
    /// [`Error::InvalidStride`] if rows would overlap, or if the view would be larger than memory.
    pub fn strided(rows: usize, cols: usize, stride: usize) -> Result<Self> {
        let stored = Shape::new(rows, cols);
        let invalid = |reason| Error::InvalidStride { shape: stored, stride, reason };
        if rows > 1 && stride < cols {
            return Err(invalid("rows would overlap"));
        }
        let used_stride = if rows > 1 { stride } else { cols };
        let span = rows.saturating_sub(1).checked_mul(used_stride).and_then(|n| n.checked_add(cols));
        // Without columns or rows the span says nothing about the other dimension.
        let largest = span.map(|span| span.max(rows).max(cols));
        match largest {
            Some(largest) if largest <= MAX_ELEMENTS => {
                Ok(Layout { stored, stride: used_stride, transposed: false })
            }
            _ => Err(invalid("the view would be larger than memory")),
        }
    }

    /// One row of as many elements as a slice has, which are never too many.
    fn row(len: usize) -> Self {
        Layout { stored: Shape::new(1, len), stride: len, transposed: false }
    }

    /// The transposed view of the same elements.
    #[must_use]
    pub fn t(self) -> Self {
        Layout { transposed: !self.transposed, ..self }
    }

    /// Rows and columns as seen by the operation.
    pub fn shape(&self) -> Shape {
        if self.transposed { Shape::new(self.stored.cols, self.stored.rows) } else { self.stored }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape().rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.shape().cols
    }

    /// Elements from one row to the next.
    pub fn row_stride(&self) -> usize {
        if self.transposed { 1 } else { self.stride }
    }

    /// Elements from one column to the next.
    pub fn col_stride(&self) -> usize {
        if self.transposed { self.stride } else { 1 }
    }

    /// Elements between the starts of two stored rows: the leading dimension. The length of the row where there is one.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Whether the columns, not the rows, are contiguous.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// Elements from the first to the last, both included; 0 for an empty matrix.
    pub fn span(&self) -> usize {
        if self.stored.rows == 0 || self.stored.cols == 0 {
            0
        } else {
            (self.stored.rows - 1) * self.stride + self.stored.cols
        }
    }

    fn check_buffer(&self, available: usize, dtype: DType) -> Result<()> {
        let (shape, stride, needed) = (self.stored, self.stride, self.span());
        if needed > available {
            return Err(Error::BufferTooShort { shape, stride, needed, available });
        }
        // Buffers named by bare addresses have any length.
        if needed > isize::MAX as usize / dtype.size() {
            let reason = "the view would be larger than memory";
            return Err(Error::InvalidStride { shape, stride, reason });
        }
        Ok(())
    }
}

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
    /// [`Error::BufferTooShort`] if the layout reaches past the buffer; [`Error::InvalidStride`] if it spans more than
    /// `isize::MAX` bytes.
    pub fn from_buffer(buffer: D::Ref<'a>, layout: Layout) -> Result<Self> {
        layout.check_buffer(D::len(buffer), D::dtype(buffer))?;
        Ok(MatrixRef::unchecked(buffer, layout))
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

    /// The borrowed buffer.
    pub fn buffer(&self) -> D::Ref<'a> {
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
    /// [`Error::BufferTooShort`] if the layout reaches past the buffer; [`Error::InvalidStride`] if it spans more than
    /// `isize::MAX` bytes.
    pub fn from_buffer(buffer: D::Mut<'a>, layout: Layout) -> Result<Self> {
        layout.check_buffer(D::len(D::share(&buffer)), D::dtype(D::share(&buffer)))?;
        Ok(MatrixMut { buffer, layout })
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

    /// Gives up the view for the buffer.
    pub fn into_buffer(self) -> D::Mut<'a> {
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
    /// [`Error::BufferTooShort`] if the slice is too short.
    pub fn new<T: Element>(slice: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Self::strided(slice, rows, cols, cols)
    }

    /// A view whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] or [`Error::InvalidStride`].
    pub fn strided<T: Element>(slice: &'a [T], rows: usize, cols: usize, stride: usize) -> Result<Self> {
        Self::from_buffer(HostRef::new(slice), Layout::strided(rows, cols, stride)?)
    }

    /// A vector as a matrix of one row: how biases are given.
    pub fn row<T: Element>(slice: &'a [T]) -> Self {
        MatrixRef::unchecked(HostRef::new(slice), Layout::row(slice.len()))
    }
}

impl<'a> MatrixMut<'a, Host> {
    /// A row-major `rows` × `cols` view of the start of a slice.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] if the slice is too short.
    pub fn new<T: Element>(slice: &'a mut [T], rows: usize, cols: usize) -> Result<Self> {
        Self::strided(slice, rows, cols, cols)
    }

    /// A view whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] or [`Error::InvalidStride`].
    pub fn strided<T: Element>(slice: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Result<Self> {
        Self::from_buffer(HostMut::new(slice), Layout::strided(rows, cols, stride)?)
    }

    /// A vector as a matrix of one row: how bias gradients are given.
    pub fn row<T: Element>(slice: &'a mut [T]) -> Self {
        let layout = Layout::row(slice.len());
        MatrixMut { buffer: HostMut::new(slice), layout }
    }
}

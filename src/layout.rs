//! How a matrix lies in a buffer: shape, stride, and which way round.

use crate::{DType, Error, Result, Shape};

/// More elements than any buffer has: the smallest take two bytes.
const MAX_ELEMENTS: usize = isize::MAX as usize / 2;

const LARGER_THAN_MEMORY: &str = "the view would be larger than memory";

/// How the elements of a matrix lie in its buffer. One of the two strides is always 1; the other is 0 where one row, or one
/// column, is repeated, which only a matrix that is read can be.
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
            _ => Err(invalid(LARGER_THAN_MEMORY)),
        }
    }

    /// One row of `cols` elements, `rows` times: stride 0. For matrices that are read.
    ///
    /// ```
    /// use lora_kernels::memory::{Host, HostRef};
    /// use lora_kernels::{Layout, MatrixRef};
    /// let row = [1.0f32, 2.0, 3.0];
    /// let x = MatrixRef::<Host>::from_buffer(HostRef::new(&row), Layout::repeated(1000, 3)?)?;
    /// assert_eq!((x.rows(), x.layout().row_stride()), (1000, 0));
    /// # Ok::<(), lora_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidStride`] if a matrix of this shape would be larger than memory.
    pub fn repeated(rows: usize, cols: usize) -> Result<Self> {
        let packed = Self::packed(rows, cols)?;
        Ok(if rows > 1 { Layout { stride: 0, ..packed } } else { packed })
    }

    /// The matrix that a tensor of any number of dimensions is: its last dimension makes the columns, all others together the
    /// rows. So a tensor \[batch, tokens, features\] becomes a matrix \[batch · tokens, features\]. Strides are in elements;
    /// those of dimensions of length 1 say nothing. A stride of 0 repeats a row or a column.
    ///
    /// ```
    /// use lora_kernels::{Layout, Shape};
    /// let activations = Layout::from_strides(&[2, 128, 64], &[128 * 64, 64, 1])?;
    /// assert_eq!(activations, Layout::packed(256, 64)?);
    /// let transposed_weight = Layout::from_strides(&[64, 32], &[1, 64])?;
    /// assert_eq!(transposed_weight, Layout::packed(32, 64)?.t());
    /// let one_bias_for_all = Layout::from_strides(&[2, 128, 64], &[0, 0, 1])?;
    /// assert_eq!(one_bias_for_all.shape(), Shape::new(256, 64));
    /// assert!(Layout::from_strides(&[2, 128, 64], &[64, 2 * 64, 1]).is_err(), "rows in another order");
    /// # Ok::<(), lora_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotAMatrix`] if no such matrix lies as the tensor does: the tensor must be copied first.
    /// [`Error::InvalidStride`] if its rows overlap, or if it would be larger than memory.
    pub fn from_strides(dims: &[usize], strides: &[usize]) -> Result<Self> {
        let refuse = |reason| Error::NotAMatrix { dims: dims.to_vec(), strides: strides.to_vec(), reason };
        if dims.len() != strides.len() {
            return Err(refuse("each dimension needs a stride"));
        }
        let (&cols, leading) = dims.split_last().unwrap_or((&1, &[]));
        let col_stride = strides.last().copied().unwrap_or(1);
        let rows = leading.iter().fold(1usize, |rows, &dim| rows.saturating_mul(dim));
        if rows == 0 || leading.contains(&0) {
            return Self::packed(0, cols);
        }
        if cols == 0 {
            return Self::packed(rows, 0);
        }
        let mut combined: Option<(usize, usize)> = None;
        for (&dim, &stride) in leading.iter().zip(strides).rev().filter(|(dim, _)| **dim != 1) {
            combined = Some(match combined {
                None => (dim, stride),
                Some((rows, row_stride)) if rows.checked_mul(row_stride) == Some(stride) => {
                    (rows.saturating_mul(dim), row_stride)
                }
                Some(_) => return Err(refuse("its leading dimensions do not lie one after the other")),
            });
        }
        let (rows, row_stride) = combined.unwrap_or((1, cols));
        if cols == 1 || col_stride == 1 {
            Self::rows_apart(rows, cols, row_stride)
        } else if rows == 1 || row_stride == 1 {
            Self::rows_apart(cols, rows, col_stride).map(Layout::t)
        } else {
            Err(refuse("neither its rows nor its columns are contiguous"))
        }
    }

    fn rows_apart(rows: usize, cols: usize, stride: usize) -> Result<Self> {
        if stride == 0 { Self::repeated(rows, cols) } else { Self::strided(rows, cols, stride) }
    }

    /// One row of as many elements as a slice has, which are never too many.
    pub(crate) fn row(len: usize) -> Self {
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

    /// Elements between the starts of two stored rows: the leading dimension. The length of the row where there is one; 0
    /// where a row is repeated.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Whether the columns, not the rows, are contiguous.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// Whether the elements lie without gaps, each once.
    pub fn is_contiguous(&self) -> bool {
        self.span() == self.stored.rows * self.stored.cols
    }

    /// Whether one stored row is repeated: its elements are several elements of the matrix.
    pub fn is_repeated(&self) -> bool {
        self.stride == 0 && self.stored.rows > 1 && self.stored.cols > 0
    }

    /// The layout of the first `at` columns, that of the others, and how far behind the first element those start.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if there are fewer columns.
    pub(crate) fn split_cols(self, at: usize) -> Result<(Self, Self, usize)> {
        let Some(rest) = self.cols().checked_sub(at) else {
            return Err(Error::InvalidValue {
                argument: "at",
                value: at.to_string(),
                expected: "at most the number of columns",
            });
        };
        let part = |cols| match self.transposed {
            true => Self::rows_apart(cols, self.stored.cols, self.stride).map(Layout::t),
            false => Self::rows_apart(self.stored.rows, cols, self.stride),
        };
        Ok((part(at)?, part(rest)?, at * self.col_stride()))
    }

    /// Elements from the first to the last, both included; 0 for an empty matrix.
    pub fn span(&self) -> usize {
        if self.stored.rows == 0 || self.stored.cols == 0 {
            0
        } else {
            (self.stored.rows - 1) * self.stride + self.stored.cols
        }
    }

    /// Starting `first` elements into a buffer of `available` elements, no element may lie outside.
    pub(crate) fn check_buffer(&self, first: usize, available: usize, dtype: DType) -> Result<()> {
        let (shape, stride, needed) = (self.stored, self.stride, self.span().saturating_add(first));
        if needed > available {
            return Err(Error::BufferTooShort { shape, stride, needed, available });
        }
        // Buffers named by bare addresses have any length.
        if needed > isize::MAX as usize / dtype.size() {
            return Err(Error::InvalidStride { shape, stride, reason: LARGER_THAN_MEMORY });
        }
        Ok(())
    }

    /// Elements that are written must not be repeated.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_repeated() {
            let reason = "rows that are written must not overlap";
            return Err(Error::InvalidStride { shape: self.stored, stride: 0, reason });
        }
        Ok(())
    }
}

//! Strided views of host matrices that can be cut into tiles for parallel work.

use crate::memory::Host;
use crate::{DType, Element, Error, MatrixMut, MatrixRef, Result};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;

/// A matrix that is read: element (i, j) lies at `i * row_stride + j * col_stride`.
///
/// Invariant: every element inside `rows` × `cols` is valid for reads during `'a`. Several may lie at one address.
pub(super) struct View<'a, T> {
    start: *const T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    borrow: PhantomData<&'a [T]>,
}

/// A matrix that is written.
///
/// Invariant: every element inside `rows` × `cols` is valid for reads and writes during `'a`, lies at its own address,
/// and is reached through this view only.
pub(super) struct ViewMut<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

// SAFETY: a view is a shared borrow of its elements.
unsafe impl<T: Sync> Send for View<'_, T> {}
// SAFETY: a view is a shared borrow of its elements.
unsafe impl<T: Sync> Sync for View<'_, T> {}
// SAFETY: a mutable view is an exclusive borrow of its elements.
unsafe impl<T: Send> Send for ViewMut<'_, T> {}

/// A matrix of any element type that is read.
#[derive(Clone, Copy)]
pub(super) enum AnyView<'a> {
    F32(View<'a, f32>),
    F16(View<'a, f16>),
    Bf16(View<'a, bf16>),
}

impl<'a> AnyView<'a> {
    /// A view of a matrix argument.
    pub fn new(matrix: MatrixRef<'a, Host>) -> Self {
        match matrix.dtype() {
            DType::F32 => AnyView::F32(View::of_its_type(matrix)),
            DType::F16 => AnyView::F16(View::of_its_type(matrix)),
            DType::Bf16 => AnyView::Bf16(View::of_its_type(matrix)),
        }
    }
}

fn wrong_dtype<T: Element>(found: DType) -> Error {
    Error::DTypeMismatch { argument: "matrix", found, expected: T::DTYPE.to_string() }
}

impl<'a, T: Element> View<'a, T> {
    /// A view of a checked matrix argument.
    pub fn new(matrix: MatrixRef<'a, Host>) -> Result<Self> {
        if matrix.dtype() != T::DTYPE {
            return Err(wrong_dtype::<T>(matrix.dtype()));
        }
        Ok(Self::of_its_type(matrix))
    }

    fn of_its_type(matrix: MatrixRef<'a, Host>) -> Self {
        let (layout, buffer) = (matrix.layout(), matrix.buffer());
        // A MatrixRef cannot be made with a layout that reaches past its buffer.
        assert!(layout.span() <= buffer.len() && matrix.dtype() == T::DTYPE);
        View {
            start: buffer.pointer().cast(),
            rows: layout.rows(),
            cols: layout.cols(),
            row_stride: layout.row_stride(),
            col_stride: layout.col_stride(),
            borrow: PhantomData,
        }
    }

    /// A view of rows stored one after the other.
    pub fn packed(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert!(rows.checked_mul(cols).is_some_and(|elements| elements <= data.len()));
        View { start: data.as_ptr(), rows, cols, row_stride: cols, col_stride: 1, borrow: PhantomData }
    }

    /// The same view, if `T` is `f32`.
    pub fn as_f32(self) -> Option<View<'a, f32>> {
        (T::DTYPE == DType::F32).then_some(View {
            start: self.start.cast(),
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
            borrow: PhantomData,
        })
    }
}

impl<'a, T> View<'a, T> {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub fn col_stride(&self) -> usize {
        self.col_stride
    }

    pub fn as_ptr(&self) -> *const T {
        self.start
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        View {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The part inside `rows` × `cols`.
    pub fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols);
        View {
            start: self.start.wrapping_add(rows.start * self.row_stride + cols.start * self.col_stride),
            rows: rows.len(),
            cols: cols.len(),
            ..self
        }
    }

    /// Element (i, j).
    pub fn get(&self, i: usize, j: usize) -> T
    where
        T: Copy,
    {
        assert!(i < self.rows && j < self.cols);
        // SAFETY: by the invariant the element is readable.
        unsafe { *self.start.add(i * self.row_stride + j * self.col_stride) }
    }

    /// Row `i`, if its elements are neighbours.
    pub fn row(self, i: usize) -> Option<&'a [T]> {
        assert!(i < self.rows);
        if self.col_stride != 1 && self.cols > 1 {
            return None;
        }
        // SAFETY: by the invariant these elements are readable during 'a; they are contiguous.
        Some(unsafe { std::slice::from_raw_parts(self.start.add(i * self.row_stride), self.cols) })
    }
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// A view of a checked matrix argument.
    pub fn new(matrix: MatrixMut<'a, Host>) -> Result<Self> {
        if matrix.dtype() != T::DTYPE {
            return Err(wrong_dtype::<T>(matrix.dtype()));
        }
        let layout = matrix.layout();
        let buffer = matrix.into_buffer();
        // A MatrixMut cannot be made with a layout that reaches past its buffer, or whose rows overlap.
        assert!(layout.span() <= buffer.len() && !layout.is_repeated());
        Ok(ViewMut {
            start: buffer.pointer().cast(),
            rows: layout.rows(),
            cols: layout.cols(),
            row_stride: layout.row_stride(),
            col_stride: layout.col_stride(),
            borrow: PhantomData,
        })
    }

    /// A view of rows stored one after the other.
    pub fn packed(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert!(rows.checked_mul(cols).is_some_and(|elements| elements <= data.len()));
        ViewMut { start: data.as_mut_ptr(), rows, cols, row_stride: cols, col_stride: 1, borrow: PhantomData }
    }

    /// The same view, if `T` is `f32`.
    pub fn as_f32(&mut self) -> Option<ViewMut<'_, f32>> {
        (T::DTYPE == DType::F32).then_some(ViewMut {
            start: self.start.cast(),
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
            borrow: PhantomData,
        })
    }
}

impl<'a, T> ViewMut<'a, T> {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub fn col_stride(&self) -> usize {
        self.col_stride
    }

    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.start
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        ViewMut {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { ..*self }
    }

    /// The view for reading.
    pub fn as_view(&self) -> View<'_, T> {
        View {
            start: self.start,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
            borrow: PhantomData,
        }
    }

    /// Row `i`, if its elements are neighbours.
    pub fn row(&mut self, i: usize) -> Option<&mut [T]> {
        assert!(i < self.rows);
        if self.col_stride != 1 && self.cols > 1 {
            return None;
        }
        // SAFETY: by the invariant these elements are ours during the borrow; they are contiguous.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.row_stride), self.cols) })
    }

    /// Sets element (i, j).
    pub fn set(&mut self, i: usize, j: usize, value: T)
    where
        T: Copy,
    {
        assert!(i < self.rows && j < self.cols);
        // SAFETY: by the invariant the element is ours during the borrow.
        unsafe { *self.start.add(i * self.row_stride + j * self.col_stride) = value };
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T)
    where
        T: Copy,
    {
        for i in 0..self.rows {
            for j in 0..self.cols {
                self.set(i, j, value);
            }
        }
    }

    /// The part inside `rows` × `cols`.
    pub fn block(&mut self, rows: Range<usize>, cols: Range<usize>) -> ViewMut<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols);
        ViewMut {
            start: self.start.wrapping_add(rows.start * self.row_stride + cols.start * self.col_stride),
            rows: rows.len(),
            cols: cols.len(),
            ..*self
        }
    }

    /// Cuts the view into tiles of at most `height` × `width`, which together are all of it and do not overlap.
    pub fn tiles(self, height: usize, width: usize) -> Vec<Tile<'a, T>> {
        let mut tiles = Vec::with_capacity(self.rows.div_ceil(height) * self.cols.div_ceil(width));
        for row in (0..self.rows).step_by(height) {
            for col in (0..self.cols).step_by(width) {
                // Distinct elements of a view have distinct addresses, so the tiles are disjoint.
                let view = ViewMut {
                    start: self.start.wrapping_add(row * self.row_stride + col * self.col_stride),
                    rows: height.min(self.rows - row),
                    cols: width.min(self.cols - col),
                    ..self
                };
                tiles.push(Tile { row, col, view });
            }
        }
        tiles
    }
}

/// A part of a matrix, and where it begins.
pub(super) struct Tile<'a, T> {
    pub row: usize,
    pub col: usize,
    pub view: ViewMut<'a, T>,
}

impl<T> Tile<'_, T> {
    pub fn rows(&self) -> Range<usize> {
        self.row..self.row + self.view.rows
    }

    pub fn cols(&self) -> Range<usize> {
        self.col..self.col + self.view.cols
    }
}

/// `0..len` in pieces of at most `size`.
pub(super) fn chunks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..len.min(start + size))
}

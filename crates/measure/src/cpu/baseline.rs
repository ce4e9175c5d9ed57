//! The parts of the unfused baselines: whole-matrix products and separate elementwise passes, on all cores.

use lora_kernels::cpu::Cpu;
use lora_kernels::ops::Output;
use lora_kernels::{Backend, DType, Element, Frozen, MatrixMut, MatrixRef, Result};
use rayon::prelude::*;

/// Rows × columns, and whether the matrix is used transposed.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a, T> Operand<'a, T> {
    /// A matrix stored row by row.
    ///
    /// # Panics
    /// It has fewer elements.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols);
        Operand { data, rows, cols, transposed: false }
    }

    /// Transposed.
    pub fn t(self) -> Self {
        Operand { transposed: !self.transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// Strides of rows and columns.
    fn strides(&self) -> (isize, isize) {
        let stride = self.cols as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }
}

impl<'a, T: Element> Operand<'a, T> {
    fn as_f32(self) -> Operand<'a, f32> {
        let Operand { data, rows, cols, transposed } = self;
        Operand { data: bytemuck::cast_slice(data), rows, cols, transposed }
    }

    fn view(self) -> Result<MatrixRef<'a>> {
        let view = MatrixRef::new(self.data, self.rows, self.cols)?;
        Ok(if self.transposed { view.t() } else { view })
    }
}

/// to = keep · to + factor · left · right, with the GEMM crate on all threads.
///
/// # Panics
/// The shapes do not fit.
pub fn gemm(to: &mut [f32], keep: bool, factor: f32, left: Operand<'_, f32>, right: Operand<'_, f32>) {
    let ((m, k), (depth, n)) = (left.shape(), right.shape());
    assert_eq!(k, depth);
    assert!(to.len() >= m * n);
    let ((left_rows, left_cols), (right_rows, right_cols)) = (left.strides(), right.strides());
    // SAFETY: operands hold rows * cols elements and `to` m * n, as asserted here and in `Operand::new`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.as_mut_ptr(),
            1,
            n as isize,
            keep,
            left.data.as_ptr(),
            left_cols,
            left_rows,
            right.data.as_ptr(),
            right_cols,
            right_rows,
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

/// to = left · right: the GEMM crate in f32; this crate's frozen product for 16-bit types, which the GEMM crate lacks.
///
/// # Errors
/// As the frozen product.
///
/// # Panics
/// The shapes do not fit.
pub fn product<T: Element>(
    cpu: &Cpu,
    to: &mut [T],
    left: Operand<'_, T>,
    right: Operand<'_, T>,
) -> Result<()> {
    if T::DTYPE == DType::F32 {
        gemm(bytemuck::cast_slice_mut(to), false, 1.0, left.as_f32(), right.as_f32());
        return Ok(());
    }
    let (rows, cols) = (left.shape().0, right.shape().1);
    let y = Output::overwrite(MatrixMut::new(to, rows, cols)?);
    cpu.frozen(Frozen { x: left.view()?, w: right.view()?, bias: None, y })
}

const CHUNK: usize = 1 << 14;

/// values *= factor
pub fn scale<T: Element>(values: &mut [T], factor: f32) {
    values.par_chunks_mut(CHUNK).for_each(|chunk| {
        for value in chunk {
            *value = T::from_f32(value.to_f32() * factor);
        }
    });
}

/// to = from · factor
pub fn scaled<T: Element>(to: &mut [T], from: &[T], factor: f32) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::from_f32(from.to_f32() * factor);
        }
    });
}

/// to += from
pub fn add<T: Element>(to: &mut [T], from: &[T]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::from_f32(to.to_f32() + from.to_f32());
        }
    });
}

/// values = values · mask / (1 − p)
pub fn apply_mask<T: Element>(values: &mut [T], mask: &[u8], probability: f32) {
    let factor = 1.0 / (1.0 - probability);
    values.par_chunks_mut(CHUNK).zip(mask.par_chunks(CHUNK)).for_each(|(values, mask)| {
        for (value, &keep) in values.iter_mut().zip(mask) {
            *value = T::from_f32(value.to_f32() * factor * f32::from(keep));
        }
    });
}

/// A stored mask of one byte an element, from a cheap generator (splitmix64, four draws a word).
pub fn draw_mask(mask: &mut [u8], probability: f32, seed: u64) {
    let threshold = (probability * 65536.0) as u16;
    mask.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
        let mut state = seed ^ (index as u64).wrapping_mul(0xD134_2543_DE82_EF95);
        for bytes in chunk.chunks_mut(4) {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^= word >> 31;
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from((word >> (16 * i)) as u16 >= threshold);
            }
        }
    });
}

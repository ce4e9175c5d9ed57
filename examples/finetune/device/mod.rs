//! Where matrices live, and who computes with them: the example's code is the same for all devices.

mod cpu;

pub use cpu::CpuDevice;

use anyhow::Result;
use lora_kernels::memory::Memory;
use lora_kernels::{Backend, DType, Layout, MatrixMut, MatrixRef};

/// A device: buffers, and this crate's operations on them.
///
/// Numbers travel as `f32`, which holds every f16 and bf16 exactly.
pub trait Device {
    /// The memory of its buffers.
    type Memory: Memory;
    /// Where restore records keep their codes.
    type Codes: Default;
    /// Computes the operations.
    type Backend: Backend<Memory = Self::Memory, Codes = Self::Codes>;
    /// Owned memory.
    type Buffer;

    /// Its name for people.
    fn name(&self) -> String;

    /// The operations.
    fn backend(&mut self) -> &mut Self::Backend;

    /// A buffer of zeros.
    fn allocate(&mut self, elements: usize, dtype: DType) -> Result<Self::Buffer>;

    /// Writes the start of a buffer, rounding to its element type.
    fn write(&mut self, buffer: &mut Self::Buffer, values: &[f32]) -> Result<()>;

    /// Reads the start of a buffer.
    fn read(&mut self, buffer: &Self::Buffer, elements: usize) -> Result<Vec<f32>>;

    /// Borrows a buffer for reading.
    fn share(buffer: &Self::Buffer) -> <Self::Memory as Memory>::Ref<'_>;

    /// Borrows a buffer for writing.
    fn borrow(buffer: &mut Self::Buffer) -> <Self::Memory as Memory>::Mut<'_>;
}

/// An owned matrix, stored row by row.
pub struct Matrix<D: Device> {
    buffer: D::Buffer,
    rows: usize,
    cols: usize,
    dtype: DType,
}

impl<D: Device> Matrix<D> {
    /// A matrix of zeros.
    pub fn zeros(device: &mut D, rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        Ok(Matrix { buffer: device.allocate(rows * cols, dtype)?, rows, cols, dtype })
    }

    /// A matrix of zeros of the same shape and element type.
    pub fn zeros_like(device: &mut D, other: &Self) -> Result<Self> {
        Self::zeros(device, other.rows, other.cols, other.dtype)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A matrix of these values, rounded to `dtype`.
    pub fn from_values(
        device: &mut D,
        rows: usize,
        cols: usize,
        dtype: DType,
        values: &[f32],
    ) -> Result<Self> {
        let mut matrix = Self::zeros(device, rows, cols, dtype)?;
        matrix.write(device, values)?;
        Ok(matrix)
    }

    /// The whole matrix, for reading.
    pub fn view(&self) -> lora_kernels::Result<MatrixRef<'_, D::Memory>> {
        self.top(self.rows)
    }

    /// The whole matrix, for writing.
    pub fn view_mut(&mut self) -> lora_kernels::Result<MatrixMut<'_, D::Memory>> {
        self.top_mut(self.rows)
    }

    /// The first rows, for reading.
    pub fn top(&self, rows: usize) -> lora_kernels::Result<MatrixRef<'_, D::Memory>> {
        MatrixRef::from_buffer(D::share(&self.buffer), Layout::packed(rows, self.cols))
    }

    /// The first rows, for writing.
    pub fn top_mut(&mut self, rows: usize) -> lora_kernels::Result<MatrixMut<'_, D::Memory>> {
        MatrixMut::from_buffer(D::borrow(&mut self.buffer), Layout::packed(rows, self.cols))
    }

    /// Writes the first rows.
    pub fn write(&mut self, device: &mut D, values: &[f32]) -> Result<()> {
        device.write(&mut self.buffer, values)
    }

    /// Reads the first rows.
    pub fn read_top(&self, device: &mut D, rows: usize) -> Result<Vec<f32>> {
        device.read(&self.buffer, rows * self.cols)
    }

    /// Reads the whole matrix.
    pub fn read(&self, device: &mut D) -> Result<Vec<f32>> {
        self.read_top(device, self.rows)
    }
}

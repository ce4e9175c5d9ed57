//! Where matrices live, and who computes with them: the example's code is the same for all devices.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

pub use cpu::CpuDevice;
#[cfg(feature = "cuda")]
pub use cuda::CudaDevice;

use anyhow::Result;
use lora_kernels::memory::Memory;
use lora_kernels::{Backend, DType, Element, MatrixMut, MatrixRef};

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

    /// The start of a buffer as a matrix, for reading.
    fn view(
        buffer: &Self::Buffer,
        rows: usize,
        cols: usize,
    ) -> lora_kernels::Result<MatrixRef<'_, Self::Memory>>;

    /// The start of a buffer as a matrix, for writing.
    fn view_mut(
        buffer: &mut Self::Buffer,
        rows: usize,
        cols: usize,
    ) -> lora_kernels::Result<MatrixMut<'_, Self::Memory>>;
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
        D::view(&self.buffer, rows, self.cols)
    }

    /// The first rows, for writing.
    pub fn top_mut(&mut self, rows: usize) -> lora_kernels::Result<MatrixMut<'_, D::Memory>> {
        D::view_mut(&mut self.buffer, rows, self.cols)
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

/// The nearest numbers of another type.
fn rounded<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

/// The same numbers as `f32`.
fn widened<T: Element>(elements: &[T]) -> Vec<f32> {
    elements.iter().map(|element| element.to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_and_read<D: Device>(device: &mut D) {
        let values = [1.0, -0.5, 1.0 + 1.0 / 4096.0, 0.0, -0.0, 65504.0];
        for (dtype, third) in [(DType::F32, values[2]), (DType::F16, 1.0), (DType::Bf16, 1.0)] {
            let mut matrix = Matrix::zeros(device, 4, 2, dtype).unwrap();
            matrix.write(device, &values).unwrap();
            let read = matrix.read(device).unwrap();
            assert_eq!(read[..2], values[..2]);
            assert_eq!((read[2], read[4].to_bits(), &read[6..]), (third, (-0f32).to_bits(), &[0.0; 2][..]));
            assert_eq!(matrix.read_top(device, 1).unwrap(), values[..2]);
            assert_eq!(matrix.view().unwrap().dtype(), dtype);
            assert_eq!(matrix.top_mut(3).unwrap().rows(), 3);
            assert!(matrix.top(5).is_err());
            assert!(matrix.read_top(device, 5).is_err());
            assert!(matrix.write(device, &[0.0; 9]).is_err());
        }
    }

    mod cpu {
        #[test]
        fn numbers_come_back() {
            super::write_and_read(&mut crate::device::CpuDevice::default());
        }
    }

    #[cfg(feature = "cuda")]
    mod gpu {
        #[test]
        fn numbers_come_back() {
            match crate::device::CudaDevice::new() {
                Ok(mut device) => super::write_and_read(&mut device),
                Err(reason) if std::env::var("LORA_KERNELS_REQUIRE_GPU").is_ok_and(|value| value == "1") => {
                    panic!("{reason}")
                }
                Err(reason) => eprintln!("SKIPPED: {reason}"),
            }
        }
    }
}

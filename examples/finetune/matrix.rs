//! Matrices in a device's memory.

use anyhow::Result;
use half::{bf16, f16};
use lora_kernels::memory::{HostMut, HostRef};
use lora_kernels::{Backend, DType, Device, Element, Layout, MatrixMut, MatrixRef};

type Memory<D> = <D as Backend>::Memory;

/// An owned matrix, stored row by row. Numbers travel as `f32`, which holds every f16 and bf16 exactly.
pub struct Matrix<D: Device> {
    buffer: D::Buffer,
    rows: usize,
    cols: usize,
    dtype: DType,
}

impl<D: Device> Matrix<D> {
    /// A matrix of zeros.
    pub fn zeros(device: &D, rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        Ok(Matrix { buffer: device.allocate(dtype, rows * cols)?, rows, cols, dtype })
    }

    /// A matrix of zeros of the same shape and element type.
    pub fn zeros_like(device: &D, other: &Self) -> Result<Self> {
        Self::zeros(device, other.rows, other.cols, other.dtype)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A matrix of these values, rounded to `dtype`.
    pub fn from_values(device: &D, rows: usize, cols: usize, dtype: DType, values: &[f32]) -> Result<Self> {
        let mut matrix = Self::zeros(device, rows, cols, dtype)?;
        matrix.write(device, values)?;
        Ok(matrix)
    }

    /// The whole matrix, for reading.
    pub fn view(&self) -> lora_kernels::Result<MatrixRef<'_, Memory<D>>> {
        self.top(self.rows)
    }

    /// The whole matrix, for writing.
    pub fn view_mut(&mut self) -> lora_kernels::Result<MatrixMut<'_, Memory<D>>> {
        self.top_mut(self.rows)
    }

    /// The first rows, for reading.
    pub fn top(&self, rows: usize) -> lora_kernels::Result<MatrixRef<'_, Memory<D>>> {
        D::view(&self.buffer, 0, Layout::packed(rows, self.cols)?)
    }

    /// The first rows, for writing.
    pub fn top_mut(&mut self, rows: usize) -> lora_kernels::Result<MatrixMut<'_, Memory<D>>> {
        D::view_mut(&mut self.buffer, 0, Layout::packed(rows, self.cols)?)
    }

    /// Writes the first rows.
    pub fn write(&mut self, device: &D, values: &[f32]) -> Result<()> {
        match self.dtype {
            DType::F32 => device.write(&mut self.buffer, 0, HostRef::new(values)),
            DType::F16 => device.write(&mut self.buffer, 0, HostRef::new(&rounded::<f16>(values))),
            DType::Bf16 => device.write(&mut self.buffer, 0, HostRef::new(&rounded::<bf16>(values))),
        }?;
        Ok(())
    }

    /// Reads the first rows.
    pub fn read_top(&self, device: &D, rows: usize) -> Result<Vec<f32>> {
        match self.dtype {
            DType::F32 => self.read_as::<f32>(device, rows),
            DType::F16 => self.read_as::<f16>(device, rows),
            DType::Bf16 => self.read_as::<bf16>(device, rows),
        }
    }

    fn read_as<T: Element>(&self, device: &D, rows: usize) -> Result<Vec<f32>> {
        let mut elements = vec![T::from_f32(0.0); rows * self.cols];
        device.download(&self.buffer, 0, HostMut::new(&mut elements))?;
        Ok(elements.iter().map(|element| element.to_f32()).collect())
    }

    /// Reads the whole matrix.
    pub fn read(&self, device: &D) -> Result<Vec<f32>> {
        self.read_top(device, self.rows)
    }
}

/// The nearest numbers of another type.
fn rounded<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_and_read<D: Device>(device: &D) {
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
            super::write_and_read(&lora_kernels::cpu::Cpu::new());
        }
    }

    #[cfg(feature = "cuda")]
    mod gpu {
        #[test]
        fn numbers_come_back() {
            match lora_kernels::cuda::Cuda::on_device(0) {
                Ok(device) => super::write_and_read(&device),
                Err(reason) if std::env::var("LORA_KERNELS_REQUIRE_GPU").is_ok_and(|value| value == "1") => {
                    panic!("{reason}")
                }
                Err(reason) => eprintln!("SKIPPED: {reason}"),
            }
        }
    }
}

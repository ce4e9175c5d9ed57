//! An NVIDIA GPU: buffers are cudarc's slices.

use super::{Device, rounded, widened};
use anyhow::{Context, Result};
use cudarc::driver::{CudaSlice, DeviceRepr};
use half::{bf16, f16};
use lora_kernels::cuda::{Cuda, DeviceCodes, DeviceMemory};
use lora_kernels::{DType, Element, MatrixMut, MatrixRef};

/// The first GPU that the driver lists.
#[derive(Debug)]
pub struct CudaDevice {
    backend: Cuda,
}

/// A device slice of any element type.
#[derive(Debug)]
pub enum DeviceBuffer {
    F32(CudaSlice<f32>),
    F16(CudaSlice<f16>),
    Bf16(CudaSlice<bf16>),
}

impl CudaDevice {
    /// Opens the GPU, or says what is missing.
    pub fn new() -> lora_kernels::Result<Self> {
        Ok(CudaDevice { backend: Cuda::on_device(0)? })
    }

    fn write<T: Element + DeviceRepr>(&self, buffer: &mut CudaSlice<T>, values: &[f32]) -> Result<()> {
        let space = buffer.len();
        let mut start = buffer
            .try_slice_mut(..values.len())
            .with_context(|| format!("{} values do not fit into {space} elements", values.len()))?;
        Ok(self.backend.stream().memcpy_htod(&rounded::<T>(values), &mut start)?)
    }

    fn read<T: Element + DeviceRepr>(&self, buffer: &CudaSlice<T>, elements: usize) -> Result<Vec<f32>> {
        let start = buffer
            .try_slice(..elements)
            .with_context(|| format!("{elements} elements asked of a buffer of {}", buffer.len()))?;
        Ok(widened(&self.backend.stream().clone_dtoh(&start)?))
    }
}

impl Device for CudaDevice {
    type Memory = DeviceMemory;
    type Codes = DeviceCodes;
    type Backend = Cuda;
    type Buffer = DeviceBuffer;

    fn name(&self) -> String {
        self.backend.stream().context().name().unwrap_or_else(|_| "GPU without a name".into())
    }

    fn backend(&mut self) -> &mut Cuda {
        &mut self.backend
    }

    fn allocate(&mut self, elements: usize, dtype: DType) -> Result<DeviceBuffer> {
        let stream = self.backend.stream();
        Ok(match dtype {
            DType::F32 => DeviceBuffer::F32(stream.alloc_zeros(elements)?),
            DType::F16 => DeviceBuffer::F16(stream.alloc_zeros(elements)?),
            DType::Bf16 => DeviceBuffer::Bf16(stream.alloc_zeros(elements)?),
        })
    }

    fn write(&mut self, buffer: &mut DeviceBuffer, values: &[f32]) -> Result<()> {
        match buffer {
            DeviceBuffer::F32(buffer) => CudaDevice::write(self, buffer, values),
            DeviceBuffer::F16(buffer) => CudaDevice::write(self, buffer, values),
            DeviceBuffer::Bf16(buffer) => CudaDevice::write(self, buffer, values),
        }
    }

    fn read(&mut self, buffer: &DeviceBuffer, elements: usize) -> Result<Vec<f32>> {
        match buffer {
            DeviceBuffer::F32(buffer) => CudaDevice::read(self, buffer, elements),
            DeviceBuffer::F16(buffer) => CudaDevice::read(self, buffer, elements),
            DeviceBuffer::Bf16(buffer) => CudaDevice::read(self, buffer, elements),
        }
    }

    fn view(
        buffer: &DeviceBuffer,
        rows: usize,
        cols: usize,
    ) -> lora_kernels::Result<MatrixRef<'_, DeviceMemory>> {
        match buffer {
            DeviceBuffer::F32(buffer) => MatrixRef::from_cuda(buffer, rows, cols),
            DeviceBuffer::F16(buffer) => MatrixRef::from_cuda(buffer, rows, cols),
            DeviceBuffer::Bf16(buffer) => MatrixRef::from_cuda(buffer, rows, cols),
        }
    }

    fn view_mut(
        buffer: &mut DeviceBuffer,
        rows: usize,
        cols: usize,
    ) -> lora_kernels::Result<MatrixMut<'_, DeviceMemory>> {
        match buffer {
            DeviceBuffer::F32(buffer) => MatrixMut::from_cuda(buffer, rows, cols),
            DeviceBuffer::F16(buffer) => MatrixMut::from_cuda(buffer, rows, cols),
            DeviceBuffer::Bf16(buffer) => MatrixMut::from_cuda(buffer, rows, cols),
        }
    }
}

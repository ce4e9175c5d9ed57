//! NVIDIA GPUs as devices to stage on.

use super::{Device, Staged};
use half::{bf16, f16};
use lora_kernels::cuda::cudarc::driver::sys::CUresult;
use lora_kernels::cuda::cudarc::driver::{CudaSlice, DriverError};
use lora_kernels::cuda::{Cuda, DeviceMemory};
use lora_kernels::memory::{HostMut, HostRef};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Backend, Error, Layout, MatrixMut, MatrixRef, Result};

/// A buffer on a GPU.
#[derive(Debug)]
pub enum CudaBuffer {
    /// `f32` elements.
    F32(CudaSlice<f32>),
    /// `f16` elements.
    F16(CudaSlice<f16>),
    /// `bf16` elements.
    Bf16(CudaSlice<bf16>),
}

impl Staged<Cuda> {
    /// Stages on a GPU, counted from 0.
    ///
    /// # Errors
    /// As [`Cuda::on_device`].
    pub fn on_gpu(ordinal: usize) -> Result<Self> {
        Ok(Staged::new(Cuda::on_device(ordinal)?))
    }
}

impl Device for Cuda {
    type Buffer = CudaBuffer;

    fn upload(&mut self, elements: HostRef<'_>) -> Result<CudaBuffer> {
        let stream = self.stream();
        match elements {
            HostRef::F32(values) => {
                stream.clone_htod(values).map(CudaBuffer::F32).map_err(failure(4 * values.len()))
            }
            HostRef::F16(values) => {
                stream.clone_htod(values).map(CudaBuffer::F16).map_err(failure(2 * values.len()))
            }
            HostRef::Bf16(values) => {
                stream.clone_htod(values).map(CudaBuffer::Bf16).map_err(failure(2 * values.len()))
            }
        }
    }

    fn download(&mut self, buffer: &CudaBuffer, elements: HostMut<'_>) -> Result<()> {
        let stream = self.stream();
        match (buffer, elements) {
            (CudaBuffer::F32(from), HostMut::F32(to)) => stream.memcpy_dtoh(from, to),
            (CudaBuffer::F16(from), HostMut::F16(to)) => stream.memcpy_dtoh(from, to),
            (CudaBuffer::Bf16(from), HostMut::Bf16(to)) => stream.memcpy_dtoh(from, to),
            _ => return Err(Error::Unsupported("copying between different element types".into())),
        }
        .and_then(|()| stream.synchronize())
        .map_err(failure(0))
    }

    fn view(buffer: &CudaBuffer, layout: Layout) -> Result<MatrixRef<'_, DeviceMemory>> {
        let stored = if layout.is_transposed() { layout.t() } else { layout };
        let (rows, cols, stride) = (stored.rows(), stored.cols(), stored.stride());
        let view = match buffer {
            CudaBuffer::F32(slice) => MatrixRef::from_cuda_strided(slice, rows, cols, stride)?,
            CudaBuffer::F16(slice) => MatrixRef::from_cuda_strided(slice, rows, cols, stride)?,
            CudaBuffer::Bf16(slice) => MatrixRef::from_cuda_strided(slice, rows, cols, stride)?,
        };
        Ok(if layout.is_transposed() { view.t() } else { view })
    }

    fn view_mut(buffer: &mut CudaBuffer, layout: Layout) -> Result<MatrixMut<'_, DeviceMemory>> {
        let stored = if layout.is_transposed() { layout.t() } else { layout };
        let (rows, cols, stride) = (stored.rows(), stored.cols(), stored.stride());
        let view = match buffer {
            CudaBuffer::F32(slice) => MatrixMut::from_cuda_strided(slice, rows, cols, stride)?,
            CudaBuffer::F16(slice) => MatrixMut::from_cuda_strided(slice, rows, cols, stride)?,
            CudaBuffer::Bf16(slice) => MatrixMut::from_cuda_strided(slice, rows, cols, stride)?,
        };
        Ok(if layout.is_transposed() { view.t() } else { view })
    }

    fn upload_record(&mut self, record: &RestoreRecord) -> Result<RestoreRecord<<Cuda as Backend>::Codes>> {
        Cuda::upload_record(self, record)
    }

    fn download_record(&mut self, record: &RestoreRecord<<Cuda as Backend>::Codes>) -> Result<RestoreRecord> {
        Cuda::download_record(self, record)
    }
}

fn failure(needed: usize) -> impl Fn(DriverError) -> Error + Copy {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { needed, purpose: "a matrix" },
        _ => Error::Cuda { call: "copying a matrix", message: error.to_string() },
    }
}

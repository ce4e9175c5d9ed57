//! The CUDA backend on GPU 0.

use super::device::{Roundings, Size, TestDevice};
use super::matrix::Data;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use half::{bf16, f16};
use lora_kernels::cuda::{Cuda, DeviceCodes, DeviceMemory};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Layout, MatrixMut, MatrixRef, Result};
use std::mem::ManuallyDrop;
use std::sync::Arc;

pub struct Gpu {
    cuda: Cuda,
    stream: Arc<CudaStream>,
}

/// A slice, and the part of it that a view starts with.
pub struct Placed<T> {
    all: CudaSlice<T>,
    part: ManuallyDrop<CudaSlice<T>>,
}

/// A slice of any element type.
pub enum Buffer {
    F32(Placed<f32>),
    F16(Placed<f16>),
    Bf16(Placed<bf16>),
}

impl<T: DeviceRepr> Placed<T> {
    fn new(stream: &Arc<CudaStream>, values: &[T], offset: usize) -> Self {
        let all = stream.clone_htod(values).expect("the upload succeeds");
        let address = all.device_ptr(stream).0 + (offset * size_of::<T>()) as u64;
        // SAFETY: the part lies within `all`, which outlives it, and is never dropped, so that nothing is freed twice.
        let part = ManuallyDrop::new(unsafe { stream.upgrade_device_ptr(address, values.len() - offset) });
        Placed { all, part }
    }
}

impl TestDevice for Gpu {
    const NAME: &'static str = "GPU";
    const SIZE: Size = Size::Full;
    const ROUNDINGS: Roundings = Roundings { adapters: true, partial_sums: true };
    type Memory = DeviceMemory;
    type Codes = DeviceCodes;
    type Backend = Cuda;
    type Buffer = Buffer;

    fn open() -> Result<Self, String> {
        let cuda = Cuda::on_device(0).map_err(|error| error.to_string())?;
        let stream = cuda.stream().clone();
        Ok(Gpu { cuda, stream })
    }

    fn backend(&mut self) -> &mut Cuda {
        &mut self.cuda
    }

    fn upload(&mut self, data: &Data, offset: usize) -> Buffer {
        match data {
            Data::F32(values) => Buffer::F32(Placed::new(&self.stream, values, offset)),
            Data::F16(values) => Buffer::F16(Placed::new(&self.stream, values, offset)),
            Data::Bf16(values) => Buffer::Bf16(Placed::new(&self.stream, values, offset)),
        }
    }

    fn download(&mut self, buffer: &Buffer) -> Data {
        let stream = &self.stream;
        stream.synchronize().expect("earlier work succeeds");
        match buffer {
            Buffer::F32(placed) => Data::F32(stream.clone_dtoh(&placed.all).expect("the download succeeds")),
            Buffer::F16(placed) => Data::F16(stream.clone_dtoh(&placed.all).expect("the download succeeds")),
            Buffer::Bf16(placed) => {
                Data::Bf16(stream.clone_dtoh(&placed.all).expect("the download succeeds"))
            }
        }
    }

    /// Dropping is enough.
    fn free(&mut self, _buffer: Buffer) {}

    fn upload_record(&mut self, record: &RestoreRecord) -> RestoreRecord<DeviceCodes> {
        self.cuda.upload_record(record).expect("the upload succeeds")
    }

    fn download_record(&mut self, record: &RestoreRecord<DeviceCodes>) -> RestoreRecord {
        self.cuda.download_record(record).expect("the download succeeds")
    }

    fn view(buffer: &Buffer, layout: Layout) -> Result<MatrixRef<'_, DeviceMemory>> {
        let (rows, cols, stride) = stored(layout);
        let view = match buffer {
            Buffer::F32(placed) => MatrixRef::from_cuda_strided(&*placed.part, rows, cols, stride),
            Buffer::F16(placed) => MatrixRef::from_cuda_strided(&*placed.part, rows, cols, stride),
            Buffer::Bf16(placed) => MatrixRef::from_cuda_strided(&*placed.part, rows, cols, stride),
        }?;
        Ok(if layout.is_transposed() { view.t() } else { view })
    }

    fn view_mut(buffer: &mut Buffer, layout: Layout) -> Result<MatrixMut<'_, DeviceMemory>> {
        let (rows, cols, stride) = stored(layout);
        let view = match buffer {
            Buffer::F32(placed) => MatrixMut::from_cuda_strided(&mut *placed.part, rows, cols, stride),
            Buffer::F16(placed) => MatrixMut::from_cuda_strided(&mut *placed.part, rows, cols, stride),
            Buffer::Bf16(placed) => MatrixMut::from_cuda_strided(&mut *placed.part, rows, cols, stride),
        }?;
        Ok(if layout.is_transposed() { view.t() } else { view })
    }
}

/// Rows, columns and stride as stored.
fn stored(layout: Layout) -> (usize, usize, usize) {
    let stored = if layout.is_transposed() { layout.t() } else { layout };
    (stored.rows(), stored.cols(), stored.stride())
}

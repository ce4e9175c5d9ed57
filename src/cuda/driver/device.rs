//! Buffers on a GPU.

use super::Cuda;
use super::borrow::Borrows;
use super::codes::DeviceCodes;
use super::failure;
use super::memory::{DeviceMut, DeviceRef};
use crate::memory::{HostMut, HostRef};
use crate::restore::RestoreRecord;
use crate::{DType, Device, Element, Error, Result};
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};
use std::sync::Arc;

/// A buffer on a GPU: cudarc's slice of any element type.
#[derive(Debug)]
pub struct CudaBuffer {
    slice: Slice,
    /// The slice has one element where there are none: the driver allocates no empty memory.
    elements: usize,
}

#[derive(Debug)]
enum Slice {
    F32(CudaSlice<f32>),
    F16(CudaSlice<f16>),
    Bf16(CudaSlice<bf16>),
}

impl Device for Cuda {
    type Buffer = CudaBuffer;

    fn allocate(&self, dtype: DType, elements: usize) -> Result<CudaBuffer> {
        let stream = self.stream();
        let slice = match dtype {
            DType::F32 => Slice::F32(zeros(stream, elements)?),
            DType::F16 => Slice::F16(zeros(stream, elements)?),
            DType::Bf16 => Slice::Bf16(zeros(stream, elements)?),
        };
        Ok(CudaBuffer { slice, elements })
    }

    fn upload(&self, elements: HostRef<'_>) -> Result<CudaBuffer> {
        let mut buffer = self.allocate(elements.dtype(), elements.len())?;
        self.write(&mut buffer, 0, elements)?;
        Ok(buffer)
    }

    fn write(&self, buffer: &mut CudaBuffer, first: usize, elements: HostRef<'_>) -> Result<()> {
        Self::check_copy(buffer, first, elements.dtype(), elements.len())?;
        Borrows::new(self.stream()).check_context("buffer", Self::whole(buffer).context())?;
        match &mut buffer.slice {
            Slice::F32(slice) => write(self.stream(), slice, first, elements),
            Slice::F16(slice) => write(self.stream(), slice, first, elements),
            Slice::Bf16(slice) => write(self.stream(), slice, first, elements),
        }
    }

    fn download(&self, buffer: &CudaBuffer, first: usize, elements: HostMut<'_>) -> Result<()> {
        Self::check_copy(buffer, first, elements.dtype(), elements.len())?;
        Borrows::new(self.stream()).check_context("buffer", Self::whole(buffer).context())?;
        match &buffer.slice {
            Slice::F32(slice) => read(self.stream(), slice, first, elements),
            Slice::F16(slice) => read(self.stream(), slice, first, elements),
            Slice::Bf16(slice) => read(self.stream(), slice, first, elements),
        }
    }

    fn whole(buffer: &CudaBuffer) -> DeviceRef<'_> {
        match &buffer.slice {
            Slice::F32(slice) => DeviceRef::new(slice),
            Slice::F16(slice) => DeviceRef::new(slice),
            Slice::Bf16(slice) => DeviceRef::new(slice),
        }
        .first(buffer.elements)
    }

    fn whole_mut(buffer: &mut CudaBuffer) -> DeviceMut<'_> {
        match &mut buffer.slice {
            Slice::F32(slice) => DeviceMut::new(slice),
            Slice::F16(slice) => DeviceMut::new(slice),
            Slice::Bf16(slice) => DeviceMut::new(slice),
        }
        .first(buffer.elements)
    }

    fn upload_record(&self, record: &RestoreRecord) -> Result<RestoreRecord<DeviceCodes>> {
        let Some(recorded) = record.recorded() else { return Ok(RestoreRecord::new(record.method())) };
        let stream = self.stream();
        let codes = stream
            .clone_htod(record.codes())
            .map_err(failure::allocation(record.codes().len(), "a restore record"))?;
        // The host's copy may be dropped as soon as this returns.
        stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))?;
        let codes = DeviceCodes(Some(codes));
        Ok(RestoreRecord::from_parts(record.method(), *recorded, codes, record.escapes().to_vec()))
    }

    fn download_record(&self, record: &RestoreRecord<DeviceCodes>) -> Result<RestoreRecord> {
        let Some(recorded) = record.recorded() else { return Ok(RestoreRecord::new(record.method())) };
        let stream = self.stream();
        let mut bytes = Vec::new();
        if let Some(codes) = &record.codes.0 {
            Borrows::new(stream).check_context("record", codes.context())?;
            bytes = stream.clone_dtoh(codes).map_err(failure::driver("copying a restore record"))?;
            stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))?;
        }
        Ok(RestoreRecord::from_parts(record.method(), *recorded, bytes, record.escapes().to_vec()))
    }
}

fn zeros<T: DeviceRepr + ValidAsZeroBits>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>> {
    let bytes = elements.saturating_mul(size_of::<T>());
    if isize::try_from(bytes).is_err() {
        return Err(Error::OutOfMemory { needed: bytes, purpose: "a matrix" });
    }
    stream.alloc_zeros(elements.max(1)).map_err(failure::allocation(bytes, "a matrix"))
}

/// Copies to elements that were checked to exist.
fn write<T: Element + DeviceRepr>(
    stream: &Arc<CudaStream>,
    slice: &mut CudaSlice<T>,
    first: usize,
    elements: HostRef<'_>,
) -> Result<()> {
    let values = elements.slice::<T>()?;
    if values.is_empty() {
        return Ok(());
    }
    let mut part = slice.slice_mut(first..first + values.len());
    stream.memcpy_htod(values, &mut part).map_err(failure::driver("cuMemcpyHtoDAsync"))?;
    // The host's memory may be pinned, and be changed as soon as this returns.
    stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))
}

/// Copies from elements that were checked to exist.
fn read<T: Element + DeviceRepr>(
    stream: &Arc<CudaStream>,
    slice: &CudaSlice<T>,
    first: usize,
    elements: HostMut<'_>,
) -> Result<()> {
    let values = elements.slice::<T>()?;
    if values.is_empty() {
        return Ok(());
    }
    let part = slice.slice(first..first + values.len());
    stream.memcpy_dtoh(&part, values).map_err(failure::driver("cuMemcpyDtoHAsync"))?;
    stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))
}

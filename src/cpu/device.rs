//! Buffers in host memory.

use super::Cpu;
use crate::memory::{HostMut, HostRef};
use crate::restore::RestoreRecord;
use crate::{DType, Device, Element, Error, Result};
use half::{bf16, f16};

/// A vector of any element type.
#[derive(Clone, Debug, PartialEq)]
pub enum HostBuffer {
    /// `f32` elements.
    F32(Vec<f32>),
    /// `f16` elements.
    F16(Vec<f16>),
    /// `bf16` elements.
    Bf16(Vec<bf16>),
}

impl Device for Cpu {
    type Buffer = HostBuffer;

    fn allocate(&self, dtype: DType, elements: usize) -> Result<HostBuffer> {
        Ok(match dtype {
            DType::F32 => HostBuffer::F32(zeros(elements)?),
            DType::F16 => HostBuffer::F16(zeros(elements)?),
            DType::Bf16 => HostBuffer::Bf16(zeros(elements)?),
        })
    }

    fn upload(&self, elements: HostRef<'_>) -> Result<HostBuffer> {
        let mut buffer = self.allocate(elements.dtype(), elements.len())?;
        self.write(&mut buffer, 0, elements)?;
        Ok(buffer)
    }

    fn write(&self, buffer: &mut HostBuffer, first: usize, elements: HostRef<'_>) -> Result<()> {
        Self::check_copy(buffer, first, elements.dtype(), elements.len())?;
        match buffer {
            HostBuffer::F32(to) => copy(elements.slice()?, &mut to[first..]),
            HostBuffer::F16(to) => copy(elements.slice()?, &mut to[first..]),
            HostBuffer::Bf16(to) => copy(elements.slice()?, &mut to[first..]),
        }
        Ok(())
    }

    fn download(&self, buffer: &HostBuffer, first: usize, elements: HostMut<'_>) -> Result<()> {
        Self::check_copy(buffer, first, elements.dtype(), elements.len())?;
        match buffer {
            HostBuffer::F32(from) => copy(&from[first..], elements.slice()?),
            HostBuffer::F16(from) => copy(&from[first..], elements.slice()?),
            HostBuffer::Bf16(from) => copy(&from[first..], elements.slice()?),
        }
        Ok(())
    }

    fn whole(buffer: &HostBuffer) -> HostRef<'_> {
        match buffer {
            HostBuffer::F32(values) => HostRef::new(values),
            HostBuffer::F16(values) => HostRef::new(values),
            HostBuffer::Bf16(values) => HostRef::new(values),
        }
    }

    fn whole_mut(buffer: &mut HostBuffer) -> HostMut<'_> {
        match buffer {
            HostBuffer::F32(values) => HostMut::new(values),
            HostBuffer::F16(values) => HostMut::new(values),
            HostBuffer::Bf16(values) => HostMut::new(values),
        }
    }

    fn upload_record(&self, record: &RestoreRecord) -> Result<RestoreRecord> {
        Ok(record.clone())
    }

    fn download_record(&self, record: &RestoreRecord) -> Result<RestoreRecord> {
        Ok(record.clone())
    }
}

fn zeros<T: Element>(elements: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(elements).map_err(|_| Error::OutOfMemory {
        needed: elements.saturating_mul(size_of::<T>()),
        purpose: "a matrix",
    })?;
    values.resize(elements, T::zeroed());
    Ok(values)
}

/// As many elements as the shorter side has, which the caller has checked to be the intended ones.
fn copy<T: Element>(from: &[T], to: &mut [T]) {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
}

//! The CPU: buffers are vectors.

use super::Device;
use anyhow::{Result, ensure};
use half::{bf16, f16};
use lora_kernels::cpu::Cpu;
use lora_kernels::memory::{Host, HostMut, HostRef};
use lora_kernels::{DType, Element};

/// This machine's processor.
#[derive(Debug, Default)]
pub struct CpuDevice {
    backend: Cpu,
}

/// A vector of any element type.
#[derive(Debug)]
pub enum HostBuffer {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Device for CpuDevice {
    type Memory = Host;
    type Codes = Vec<u8>;
    type Backend = Cpu;
    type Buffer = HostBuffer;

    fn name(&self) -> String {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        format!("CPU ({threads} threads)")
    }

    fn backend(&mut self) -> &mut Cpu {
        &mut self.backend
    }

    fn allocate(&mut self, elements: usize, dtype: DType) -> Result<HostBuffer> {
        Ok(match dtype {
            DType::F32 => HostBuffer::F32(vec![0.0; elements]),
            DType::F16 => HostBuffer::F16(vec![f16::ZERO; elements]),
            DType::Bf16 => HostBuffer::Bf16(vec![bf16::ZERO; elements]),
        })
    }

    fn write(&mut self, buffer: &mut HostBuffer, values: &[f32]) -> Result<()> {
        match buffer {
            HostBuffer::F32(buffer) => round_into(buffer, values),
            HostBuffer::F16(buffer) => round_into(buffer, values),
            HostBuffer::Bf16(buffer) => round_into(buffer, values),
        }
    }

    fn read(&mut self, buffer: &HostBuffer, elements: usize) -> Result<Vec<f32>> {
        match buffer {
            HostBuffer::F32(buffer) => widened(buffer, elements),
            HostBuffer::F16(buffer) => widened(buffer, elements),
            HostBuffer::Bf16(buffer) => widened(buffer, elements),
        }
    }

    fn share(buffer: &HostBuffer) -> HostRef<'_> {
        match buffer {
            HostBuffer::F32(buffer) => HostRef::new(buffer.as_slice()),
            HostBuffer::F16(buffer) => HostRef::new(buffer.as_slice()),
            HostBuffer::Bf16(buffer) => HostRef::new(buffer.as_slice()),
        }
    }

    fn borrow(buffer: &mut HostBuffer) -> HostMut<'_> {
        match buffer {
            HostBuffer::F32(buffer) => HostMut::new(buffer.as_mut_slice()),
            HostBuffer::F16(buffer) => HostMut::new(buffer.as_mut_slice()),
            HostBuffer::Bf16(buffer) => HostMut::new(buffer.as_mut_slice()),
        }
    }
}

fn round_into<T: Element>(buffer: &mut [T], values: &[f32]) -> Result<()> {
    ensure!(values.len() <= buffer.len(), "{} values do not fit {} elements", values.len(), buffer.len());
    for (element, &value) in buffer.iter_mut().zip(values) {
        *element = T::from_f32(value);
    }
    Ok(())
}

fn widened<T: Element>(buffer: &[T], elements: usize) -> Result<Vec<f32>> {
    ensure!(elements <= buffer.len(), "{elements} elements of a buffer of {}", buffer.len());
    Ok(buffer[..elements].iter().map(|element| element.to_f32()).collect())
}

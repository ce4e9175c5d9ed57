//! The CPU: buffers are vectors.

use super::{Device, rounded, widened};
use anyhow::{Context, Result};
use half::{bf16, f16};
use lora_kernels::cpu::Cpu;
use lora_kernels::memory::Host;
use lora_kernels::{DType, Element, MatrixMut, MatrixRef};

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
            HostBuffer::F32(buffer) => write(buffer, values),
            HostBuffer::F16(buffer) => write(buffer, values),
            HostBuffer::Bf16(buffer) => write(buffer, values),
        }
    }

    fn read(&mut self, buffer: &HostBuffer, elements: usize) -> Result<Vec<f32>> {
        match buffer {
            HostBuffer::F32(buffer) => read(buffer, elements),
            HostBuffer::F16(buffer) => read(buffer, elements),
            HostBuffer::Bf16(buffer) => read(buffer, elements),
        }
    }

    fn view(buffer: &HostBuffer, rows: usize, cols: usize) -> lora_kernels::Result<MatrixRef<'_>> {
        match buffer {
            HostBuffer::F32(buffer) => MatrixRef::new(buffer, rows, cols),
            HostBuffer::F16(buffer) => MatrixRef::new(buffer, rows, cols),
            HostBuffer::Bf16(buffer) => MatrixRef::new(buffer, rows, cols),
        }
    }

    fn view_mut(buffer: &mut HostBuffer, rows: usize, cols: usize) -> lora_kernels::Result<MatrixMut<'_>> {
        match buffer {
            HostBuffer::F32(buffer) => MatrixMut::new(buffer, rows, cols),
            HostBuffer::F16(buffer) => MatrixMut::new(buffer, rows, cols),
            HostBuffer::Bf16(buffer) => MatrixMut::new(buffer, rows, cols),
        }
    }
}

fn write<T: Element>(buffer: &mut [T], values: &[f32]) -> Result<()> {
    let space = buffer.len();
    let start = buffer
        .get_mut(..values.len())
        .with_context(|| format!("{} values do not fit into {space} elements", values.len()))?;
    start.copy_from_slice(&rounded(values));
    Ok(())
}

fn read<T: Element>(buffer: &[T], elements: usize) -> Result<Vec<f32>> {
    let start = buffer
        .get(..elements)
        .with_context(|| format!("{elements} elements asked of a buffer of {}", buffer.len()))?;
    Ok(widened(start))
}

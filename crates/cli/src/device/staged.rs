//! A GPU for weights in host memory: operands are copied there, results back.

use half::{bf16, f16};
use lora_kernels::cpu::Cpu;
use lora_kernels::cuda::cudarc::driver::sys::CUresult;
use lora_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use lora_kernels::cuda::{Cuda, DeviceMemory};
use lora_kernels::memory::{Host, HostMut, HostRef};
use lora_kernels::ops::{BackwardSiblings, Delta, ForwardSiblings};
use lora_kernels::{
    Adapter, Backend, Error, Layout, MatrixMut, MatrixRef, MergeReport, Result, WeightUpdate,
};
use std::sync::Arc;

/// Changes weights on a GPU. What its memory or its records have no room for, the CPU does, with the same bits.
#[derive(Debug)]
pub struct StagedCuda {
    cuda: Cuda,
    cpu: Cpu,
}

impl StagedCuda {
    pub fn open(ordinal: usize) -> Result<Self> {
        Ok(StagedCuda { cuda: Cuda::on_device(ordinal)?, cpu: Cpu::new() })
    }

    fn update_on_device(&mut self, op: &mut WeightUpdate<'_>) -> Result<Option<MergeReport>> {
        let stream = self.cuda.stream().clone();
        let mut w = Staged::upload(&stream, op.w.as_ref())?;
        let stage = |adapter: Option<Adapter<'_>>| {
            adapter.map(|adapter| StagedAdapter::upload(&stream, adapter)).transpose()
        };
        let (remove, add) = (stage(op.remove)?, stage(op.add)?);
        let mut record = op.record.as_deref().map(|record| self.cuda.upload_record(record)).transpose()?;
        let report = self.cuda.update_weights(WeightUpdate {
            w: w.view_mut()?,
            remove: remove.as_ref().map(StagedAdapter::view).transpose()?,
            add: add.as_ref().map(StagedAdapter::view).transpose()?,
            rounding: op.rounding,
            record: record.as_mut(),
            report: op.report,
        })?;
        if let (Some(device), Some(host)) = (&record, &mut op.record) {
            **host = self.cuda.download_record(device)?;
        }
        w.download(&stream, op.w.reborrow())?;
        Ok(report)
    }

    fn delta_on_device(&mut self, op: &mut Delta<'_>) -> Result<()> {
        let stream = self.cuda.stream().clone();
        let adapter = StagedAdapter::upload(&stream, op.adapter)?;
        let mut delta = Staged::upload(&stream, op.delta.as_ref())?;
        self.cuda.delta(Delta { adapter: adapter.view()?, delta: delta.view_mut()? })?;
        delta.download(&stream, op.delta.reborrow())
    }
}

impl Backend for StagedCuda {
    type Memory = Host;
    type Codes = Vec<u8>;

    /// On the CPU: activations that start in host memory are not worth the way.
    fn forward_siblings(&mut self, op: ForwardSiblings<'_>) -> Result<()> {
        self.cpu.forward_siblings(op)
    }

    /// On the CPU, as the forward.
    fn backward_siblings(&mut self, op: BackwardSiblings<'_>) -> Result<()> {
        self.cpu.backward_siblings(op)
    }

    fn update_weights(&mut self, mut op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
        op.check()?;
        match self.update_on_device(&mut op) {
            Err(Error::TooManyEscapes { .. } | Error::OutOfMemory { .. }) => self.cpu.update_weights(op),
            result => result,
        }
    }

    fn delta(&mut self, mut op: Delta<'_>) -> Result<()> {
        op.check()?;
        match self.delta_on_device(&mut op) {
            Err(Error::OutOfMemory { .. }) => self.cpu.delta(op),
            result => result,
        }
    }
}

#[derive(Debug)]
enum Buffer {
    F32(CudaSlice<f32>),
    F16(CudaSlice<f16>),
    Bf16(CudaSlice<bf16>),
}

/// A copy of a host matrix.
#[derive(Debug)]
struct Staged {
    buffer: Buffer,
    layout: Layout,
}

impl Staged {
    fn upload(stream: &Arc<CudaStream>, matrix: MatrixRef<'_>) -> Result<Self> {
        let layout = matrix.layout();
        let span = layout.span();
        let failed = failure(span * matrix.dtype().size());
        let buffer = match matrix.buffer() {
            HostRef::F32(values) => Buffer::F32(stream.clone_htod(&values[..span]).map_err(failed)?),
            HostRef::F16(values) => Buffer::F16(stream.clone_htod(&values[..span]).map_err(failed)?),
            HostRef::Bf16(values) => Buffer::Bf16(stream.clone_htod(&values[..span]).map_err(failed)?),
        };
        Ok(Staged { buffer, layout })
    }

    fn download(&self, stream: &Arc<CudaStream>, matrix: MatrixMut<'_>) -> Result<()> {
        let span = self.layout.span();
        match (&self.buffer, matrix.into_buffer()) {
            (Buffer::F32(from), HostMut::F32(to)) => stream.memcpy_dtoh(from, &mut to[..span]),
            (Buffer::F16(from), HostMut::F16(to)) => stream.memcpy_dtoh(from, &mut to[..span]),
            (Buffer::Bf16(from), HostMut::Bf16(to)) => stream.memcpy_dtoh(from, &mut to[..span]),
            _ => return Err(Error::Unsupported("copying between different element types".into())),
        }
        .and_then(|()| stream.synchronize())
        .map_err(failure(0))
    }

    /// Rows, columns and stride as they are stored.
    fn stored(&self) -> (usize, usize, usize) {
        let layout = if self.layout.is_transposed() { self.layout.t() } else { self.layout };
        (layout.rows(), layout.cols(), layout.stride())
    }

    fn view(&self) -> Result<MatrixRef<'_, DeviceMemory>> {
        let (rows, cols, stride) = self.stored();
        let view = match &self.buffer {
            Buffer::F32(slice) => MatrixRef::from_cuda_strided(slice, rows, cols, stride)?,
            Buffer::F16(slice) => MatrixRef::from_cuda_strided(slice, rows, cols, stride)?,
            Buffer::Bf16(slice) => MatrixRef::from_cuda_strided(slice, rows, cols, stride)?,
        };
        Ok(if self.layout.is_transposed() { view.t() } else { view })
    }

    fn view_mut(&mut self) -> Result<MatrixMut<'_, DeviceMemory>> {
        let (rows, cols, stride) = self.stored();
        let view = match &mut self.buffer {
            Buffer::F32(slice) => MatrixMut::from_cuda_strided(slice, rows, cols, stride)?,
            Buffer::F16(slice) => MatrixMut::from_cuda_strided(slice, rows, cols, stride)?,
            Buffer::Bf16(slice) => MatrixMut::from_cuda_strided(slice, rows, cols, stride)?,
        };
        Ok(if self.layout.is_transposed() { view.t() } else { view })
    }
}

#[derive(Debug)]
struct StagedAdapter {
    a: Staged,
    b: Staged,
    scale: f32,
}

impl StagedAdapter {
    fn upload(stream: &Arc<CudaStream>, adapter: Adapter<'_>) -> Result<Self> {
        let (a, b) = (Staged::upload(stream, adapter.a)?, Staged::upload(stream, adapter.b)?);
        Ok(StagedAdapter { a, b, scale: adapter.scale })
    }

    fn view(&self) -> Result<Adapter<'_, DeviceMemory>> {
        Ok(Adapter { a: self.a.view()?, b: self.b.view()?, scale: self.scale })
    }
}

fn failure(needed: usize) -> impl Fn(DriverError) -> Error + Copy {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { needed, purpose: "a weight" },
        _ => Error::Cuda { call: "copying a weight", message: error.to_string() },
    }
}

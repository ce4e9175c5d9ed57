//! A device for matrices in host memory: operands are copied there, results back.
//!
//! [`LoraModel`](crate::LoraModel) and [`Edit`](crate::Edit) keep their tensors in host memory; with a [`Staged`]
//! backend they compute on a GPU. Every call copies all its operands, the frozen weight among them: right for merging,
//! which touches each weight once, and slow for training, where tensors belong on the device and `lora-kernels` is called directly.

mod products;

use lora_kernels::cpu::{Cpu, HostBuffer};
use lora_kernels::memory::Host;
use lora_kernels::ops::{BackwardSiblings, Conversion, Delta, ForwardSiblings};
use lora_kernels::{
    Adapter, Backend, DType, Device, Error, Frozen, Layout, MatrixMut, MatrixRef, MergeReport, Result,
    WeightUpdate,
};

/// A device for matrices in host memory.
///
/// Updates and deltas that the device has no room for are computed on the CPU, with the same bits. Forwards and
/// backwards are not: there the two differ in the last digits.
#[derive(Debug)]
pub struct Staged<D> {
    device: D,
    cpu: Cpu,
}

impl<D: Device> Staged<D> {
    /// Stages on a device.
    pub fn new(device: D) -> Self {
        Staged { device, cpu: Cpu::new() }
    }

    fn upload(&self, matrix: MatrixRef<'_>) -> Result<Copied<D>> {
        // Only the matrix itself is copied: what lies between its rows may be another matrix.
        let transposed = matrix.layout().is_transposed();
        let stored = if transposed { matrix.t() } else { matrix };
        let layout = Layout::packed(stored.rows(), stored.cols())?;
        let buffer = match stored.contiguous() {
            Some(elements) => self.device.upload(elements)?,
            None => {
                let mut packed = packed(stored.dtype(), layout)?;
                Cpu::view_mut(&mut packed, 0, layout)?.copy_from(stored)?;
                self.device.upload(Cpu::whole(&packed))?
            }
        };
        Ok(Copied { buffer, layout: if transposed { layout.t() } else { layout } })
    }

    fn upload_adapter(&self, adapter: Adapter<'_>) -> Result<CopiedAdapter<D>> {
        Ok(CopiedAdapter { a: self.upload(adapter.a)?, b: self.upload(adapter.b)?, scale: adapter.scale })
    }

    fn download(&self, copied: &Copied<D>, mut matrix: MatrixMut<'_>) -> Result<()> {
        if let Some(elements) = matrix.contiguous_mut() {
            return self.device.download(&copied.buffer, 0, elements);
        }
        let mut packed = packed(matrix.dtype(), copied.layout)?;
        self.device.download(&copied.buffer, 0, Cpu::whole_mut(&mut packed))?;
        matrix.copy_from(Cpu::view(&packed, 0, copied.layout)?)
    }

    fn update_on_device(&self, op: &mut WeightUpdate<'_>) -> Result<Option<MergeReport>> {
        let mut w = self.upload(op.w.as_ref())?;
        let remove = op.remove.map(|adapter| self.upload_adapter(adapter)).transpose()?;
        let add = op.add.map(|adapter| self.upload_adapter(adapter)).transpose()?;
        let mut record = op.record.as_deref().map(|record| self.device.upload_record(record)).transpose()?;
        let report = self.device.update_weights(WeightUpdate {
            w: w.view_mut()?,
            remove: remove.as_ref().map(CopiedAdapter::view).transpose()?,
            add: add.as_ref().map(CopiedAdapter::view).transpose()?,
            rounding: op.rounding,
            record: record.as_mut(),
            report: op.report,
        })?;
        if let (Some(device), Some(host)) = (&record, &mut op.record) {
            **host = self.device.download_record(device)?;
        }
        self.download(&w, op.w.reborrow())?;
        Ok(report)
    }

    fn delta_on_device(&self, op: &mut Delta<'_>) -> Result<()> {
        let adapter = self.upload_adapter(op.adapter)?;
        let mut delta = self.upload(op.delta.as_ref())?;
        self.device.delta(Delta { adapter: adapter.view()?, delta: delta.view_mut()? })?;
        self.download(&delta, op.delta.reborrow())
    }
}

impl<D: Device> Backend for Staged<D> {
    type Memory = Host;
    type Codes = Vec<u8>;

    fn forward_siblings(&self, op: ForwardSiblings<'_>) -> Result<()> {
        op.check()?;
        self.forward_on_device(op)
    }

    fn backward_siblings(&self, op: BackwardSiblings<'_>) -> Result<()> {
        op.check()?;
        self.backward_on_device(op)
    }

    fn frozen(&self, op: Frozen<'_>) -> Result<()> {
        op.check()?;
        self.frozen_on_device(op)
    }

    fn update_weights(&self, mut op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
        op.check()?;
        match self.update_on_device(&mut op) {
            Err(Error::TooManyEscapes { .. } | Error::OutOfMemory { .. }) => self.cpu.update_weights(op),
            result => result,
        }
    }

    fn delta(&self, mut op: Delta<'_>) -> Result<()> {
        op.check()?;
        match self.delta_on_device(&mut op) {
            Err(Error::OutOfMemory { .. }) => self.cpu.delta(op),
            result => result,
        }
    }

    /// Host memory to host memory: a device would be a detour.
    fn convert(&self, op: Conversion<'_>) -> Result<()> {
        self.cpu.convert(op)
    }
}

/// Room for the elements of a matrix.
fn packed(dtype: DType, layout: Layout) -> Result<HostBuffer> {
    Cpu::new().allocate(dtype, layout.rows() * layout.cols())
}

/// A copy of a host matrix on the device, without gaps between its rows.
#[derive(Debug)]
struct Copied<D: Device> {
    buffer: D::Buffer,
    layout: Layout,
}

impl<D: Device> Copied<D> {
    fn view(&self) -> Result<MatrixRef<'_, D::Memory>> {
        D::view(&self.buffer, 0, self.layout)
    }

    fn view_mut(&mut self) -> Result<MatrixMut<'_, D::Memory>> {
        D::view_mut(&mut self.buffer, 0, self.layout)
    }
}

#[cfg(feature = "cuda")]
impl Staged<lora_kernels::cuda::Cuda> {
    /// Stages on a GPU, counted from 0.
    ///
    /// # Errors
    /// As [`Cuda::on_device`](lora_kernels::cuda::Cuda::on_device).
    pub fn on_gpu(ordinal: usize) -> Result<Self> {
        Ok(Staged::new(lora_kernels::cuda::Cuda::on_device(ordinal)?))
    }
}

#[derive(Debug)]
struct CopiedAdapter<D: Device> {
    a: Copied<D>,
    b: Copied<D>,
    scale: f32,
}

impl<D: Device> CopiedAdapter<D> {
    fn view(&self) -> Result<Adapter<'_, D::Memory>> {
        Ok(Adapter { a: self.a.view()?, b: self.b.view()?, scale: self.scale })
    }
}

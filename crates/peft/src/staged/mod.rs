//! A device for matrices in host memory: operands are copied there, results back.
//!
//! [`LoraModel`](crate::LoraModel) and [`Edit`](crate::Edit) keep their tensors in host memory; with a [`Staged`]
//! backend they compute on a GPU. Every call copies all its operands, the frozen weight among them: right for merging,
//! which touches each weight once, and slow for training, where tensors belong on the device and `lora-kernels` is called directly.

#[cfg(feature = "cuda")]
mod cuda;
mod products;

use lora_kernels::cpu::Cpu;
use lora_kernels::memory::{Host, HostMut, HostRef};
use lora_kernels::ops::{BackwardSiblings, Delta, ForwardSiblings};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{
    Adapter, Backend, Error, Layout, MatrixMut, MatrixRef, MergeReport, Result, WeightUpdate,
};

/// A backend whose memory can be copied to and from.
pub trait Device: Backend {
    /// A buffer in the device's memory.
    type Buffer: std::fmt::Debug;

    /// Copies elements to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or the copy failed.
    fn upload(&mut self, elements: HostRef<'_>) -> Result<Self::Buffer>;

    /// Copies a buffer back into as many elements of the same type, and waits for that.
    ///
    /// # Errors
    /// The copy, or what was to be computed before, failed.
    fn download(&mut self, buffer: &Self::Buffer, elements: HostMut<'_>) -> Result<()>;

    /// A view of a buffer.
    ///
    /// # Errors
    /// The layout reaches beyond the buffer.
    fn view(buffer: &Self::Buffer, layout: Layout) -> Result<MatrixRef<'_, Self::Memory>>;

    /// A changeable view of a buffer.
    ///
    /// # Errors
    /// The layout reaches beyond the buffer.
    fn view_mut(buffer: &mut Self::Buffer, layout: Layout) -> Result<MatrixMut<'_, Self::Memory>>;

    /// Copies a restore record to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or the copy failed.
    fn upload_record(&mut self, record: &RestoreRecord) -> Result<RestoreRecord<Self::Codes>>;

    /// Copies a restore record back.
    ///
    /// # Errors
    /// The copy failed.
    fn download_record(&mut self, record: &RestoreRecord<Self::Codes>) -> Result<RestoreRecord>;
}

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

    fn upload(&mut self, matrix: MatrixRef<'_>) -> Result<Copied<D>> {
        let layout = matrix.layout();
        let elements = match matrix.buffer() {
            HostRef::F32(values) => HostRef::F32(&values[..layout.span()]),
            HostRef::F16(values) => HostRef::F16(&values[..layout.span()]),
            HostRef::Bf16(values) => HostRef::Bf16(&values[..layout.span()]),
        };
        Ok(Copied { buffer: self.device.upload(elements)?, layout })
    }

    fn upload_adapter(&mut self, adapter: Adapter<'_>) -> Result<CopiedAdapter<D>> {
        Ok(CopiedAdapter { a: self.upload(adapter.a)?, b: self.upload(adapter.b)?, scale: adapter.scale })
    }

    fn download(&mut self, copied: &Copied<D>, matrix: MatrixMut<'_>) -> Result<()> {
        let span = copied.layout.span();
        let elements = match matrix.into_buffer() {
            HostMut::F32(values) => HostMut::F32(&mut values[..span]),
            HostMut::F16(values) => HostMut::F16(&mut values[..span]),
            HostMut::Bf16(values) => HostMut::Bf16(&mut values[..span]),
        };
        self.device.download(&copied.buffer, elements)
    }

    fn update_on_device(&mut self, op: &mut WeightUpdate<'_>) -> Result<Option<MergeReport>> {
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

    fn delta_on_device(&mut self, op: &mut Delta<'_>) -> Result<()> {
        let adapter = self.upload_adapter(op.adapter)?;
        let mut delta = self.upload(op.delta.as_ref())?;
        self.device.delta(Delta { adapter: adapter.view()?, delta: delta.view_mut()? })?;
        self.download(&delta, op.delta.reborrow())
    }
}

impl<D: Device> Backend for Staged<D> {
    type Memory = Host;
    type Codes = Vec<u8>;

    fn forward_siblings(&mut self, op: ForwardSiblings<'_>) -> Result<()> {
        op.check()?;
        self.forward_on_device(op)
    }

    fn backward_siblings(&mut self, op: BackwardSiblings<'_>) -> Result<()> {
        op.check()?;
        self.backward_on_device(op)
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

/// A copy of a host matrix on the device, gaps between its rows included.
#[derive(Debug)]
struct Copied<D: Device> {
    buffer: D::Buffer,
    layout: Layout,
}

impl<D: Device> Copied<D> {
    fn view(&self) -> Result<MatrixRef<'_, D::Memory>> {
        D::view(&self.buffer, self.layout)
    }

    fn view_mut(&mut self) -> Result<MatrixMut<'_, D::Memory>> {
        D::view_mut(&mut self.buffer, self.layout)
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

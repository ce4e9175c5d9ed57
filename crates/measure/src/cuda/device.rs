//! The GPU: how to open it, to fill its memory and to time it.

use super::blas::Blas;
use super::drivers;
use super::elementwise::Elementwise;
use crate::inputs::uniform;
use anyhow::{Result, bail};
use lora_kernels::Element;
use lora_kernels::cuda::Cuda;
use lora_kernels::cuda::cudarc::driver::sys::{
    CUDA_VERSION, CUdevice_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode, cuDriverGetVersion,
};
use lora_kernels::cuda::cudarc::driver::{
    CudaContext, CudaGraph, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits,
};
use std::sync::Arc;

/// Element types that both this crate and cudarc know.
pub trait Scalar: Element + DeviceRepr + ValidAsZeroBits {}

impl<T: Element + DeviceRepr + ValidAsZeroBits> Scalar for T {}

/// A GPU with the backend of lora-kernels and cuBLAS on one stream.
#[derive(Debug)]
pub struct Device {
    /// lora-kernels.
    pub cuda: Cuda,
    /// The library.
    pub blas: Blas,
    /// What the unfused baseline has beside it.
    pub elementwise: Elementwise,
    /// Of both.
    pub stream: Arc<CudaStream>,
    /// The GPU's name.
    pub name: String,
    /// Of the last-level cache.
    pub cache_bytes: usize,
    /// Domain, bus and device, as `nvidia-smi` takes it.
    pub pci_address: String,
}

impl Device {
    /// GPU 0, to be timed with events. `None`, said loudly, without a GPU; an error instead with
    /// `LORA_KERNELS_REQUIRE_GPU=1`.
    ///
    /// # Errors
    /// The GPU, its driver or cuBLAS cannot be used.
    pub fn open() -> Result<Option<Self>> {
        if let Err(reason) = lora_kernels::cuda::availability() {
            if std::env::var("LORA_KERNELS_REQUIRE_GPU").is_ok_and(|value| value == "1") {
                bail!("a GPU is required, but: {reason}");
            }
            eprintln!("SKIPPED all CUDA benchmarks: {reason}");
            return Ok(None);
        }
        has_event_times()?;
        Ok(Some(Self::on(0)?))
    }

    /// The GPU of this number.
    ///
    /// # Errors
    /// There is none, or the GPU or cuBLAS cannot be used.
    pub fn on(ordinal: usize) -> Result<Self> {
        lora_kernels::cuda::availability()?;
        let context = CudaContext::new(ordinal)?;
        let stream = context.new_stream()?;
        // SAFETY: all work is on this one stream. Tracking would put events between the kernels that are timed.
        unsafe { context.disable_event_tracking() };
        let cache_bytes = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let [domain, bus, number] = [
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        ]
        .map(|which| context.attribute(which).unwrap_or_default());
        Ok(Device {
            cuda: Cuda::new(stream.clone())?,
            blas: Blas::new(stream.clone())?,
            elementwise: Elementwise::new(&context, stream.clone())?,
            name: context.name()?,
            cache_bytes: usize::try_from(cache_bytes)?,
            pci_address: format!("{domain:08x}:{bus:02x}:{number:02x}.0"),
            stream,
        })
    }

    /// Random elements, uniform in (-1, 1). `start` tells matrices apart; the values repeat after some millions.
    ///
    /// # Errors
    /// There is no memory, or the copy failed.
    pub fn random<T: Scalar>(&self, pool: &Pool<T>, start: usize, len: usize) -> Result<CudaSlice<T>> {
        let mut slice = self.zeros(len)?;
        let period = Pool::<T>::PERIOD;
        for first in (0..len).step_by(period) {
            let count = period.min(len - first);
            let start = start % Pool::<T>::STARTS;
            self.stream
                .memcpy_htod(&pool.0[start..start + count], &mut slice.slice_mut(first..first + count))?;
        }
        Ok(slice)
    }

    /// Zeros. Never empty, because the driver refuses that.
    ///
    /// # Errors
    /// There is no memory.
    pub fn zeros<T: Scalar>(&self, len: usize) -> Result<CudaSlice<T>> {
        Ok(self.stream.alloc_zeros(len.max(1))?)
    }

    /// What `enqueue` puts on the stream, as a graph that can be launched again and again.
    ///
    /// # Errors
    /// The capture or `enqueue` failed, or nothing was put there.
    pub fn capture(stream: &Arc<CudaStream>, enqueue: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        enqueue()?;
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        match stream.end_capture(flags)? {
            Some(graph) => Ok(graph),
            None => bail!("the capture recorded nothing"),
        }
    }
}

/// Times between events come from `cuEventElapsedTime_v2` where this was built for CUDA 13, and cudarc panics where a
/// driver lacks it: those before CUDA 12.8.
fn has_event_times() -> Result<()> {
    let mut version = 0;
    // SAFETY: writes the version; needs no context. The driver is there, because `availability` found it.
    unsafe { cuDriverGetVersion(&raw mut version) }.result()?;
    if !drivers::has_event_times(CUDA_VERSION, version) {
        bail!(
            "the NVIDIA driver is for CUDA {}, but timing needs one for CUDA 12.8 (version 570) or later: update the driver",
            drivers::readable(version)
        );
    }
    Ok(())
}

/// Random numbers in host memory, made once, from which all matrices are filled.
#[derive(Debug)]
pub struct Pool<T>(Vec<T>);

impl<T: Element> Pool<T> {
    const PERIOD: usize = 1 << 22;
    const STARTS: usize = 1 << 10;

    /// Makes them.
    #[allow(clippy::new_without_default, reason = "making millions of numbers is no default")]
    pub fn new() -> Self {
        Pool(uniform(Self::PERIOD + Self::STARTS, 1))
    }
}

/// The driver's version: from `LORA_DRIVER`, else from the kernel module.
pub fn driver_version() -> String {
    std::env::var("LORA_DRIVER").unwrap_or_else(|_| {
        let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
        text.split_whitespace().find(is_version).unwrap_or_default().to_string()
    })
}

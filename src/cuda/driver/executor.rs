//! Runs steps on a stream of a real device.

use super::cublaslt::CublasLt;
use super::failure;
use super::kernels::Kernels;
use super::probe;
use super::workspace::Workspace;
use crate::Result;
use crate::cuda::executor::Executor;
use crate::cuda::step::{Step, Zero};
use crate::cuda::target::Target;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaStream, result};
use std::sync::Arc;

/// Runs steps on the caller's stream.
///
/// It owns scratch memory, the loaded kernels and cuBLASLt's plans. All of them are set up when they are first needed;
/// from then on a step is one asynchronous call that a graph capture can record.
#[derive(Debug)]
pub struct DriverExecutor {
    // Fields are dropped in this order: the stream must outlive what was set up on it.
    cublaslt: Option<CublasLt>,
    kernels: Kernels,
    workspace: Workspace,
    target: Target,
    stream: Arc<CudaStream>,
}

impl DriverExecutor {
    /// An executor on `stream`.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`](crate::Error::CudaUnavailable) if the device is too old, cuBLASLt is missing or the
    /// crate was built without kernels.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        let attribute = |which| {
            stream
                .context()
                .attribute(which)
                .map(i32::unsigned_abs)
                .map_err(failure::driver("cuDeviceGetAttribute"))
        };
        let target = Target {
            compute_capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            shared_bytes_per_block: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        };
        probe::recent_enough(target.compute_capability)?;
        probe::libraries_and_kernels()?;
        Ok(DriverExecutor {
            cublaslt: None,
            kernels: Kernels::new(target),
            workspace: Workspace::default(),
            target,
            stream,
        })
    }

    /// The stream that steps run on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes the device's context the thread's, and reports what earlier frees and events failed with.
    fn bind(&self) -> Result<()> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(failure::driver("an earlier call, or cuCtxSetCurrent,"))
    }

    fn zero(&self, zero: Zero) -> Result<()> {
        if zero.bytes == 0 {
            return Ok(());
        }
        // SAFETY: that the address is live is what the callers of the engine vouch for.
        unsafe { result::memset_d8_async(zero.address, 0, zero.bytes as usize, self.stream.cu_stream()) }
            .map_err(failure::driver("cuMemsetD8Async"))
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failure::driver("cuStreamSynchronize"))
    }
}

impl Executor for DriverExecutor {
    fn target(&self) -> Target {
        self.target
    }

    fn workspace(&mut self, bytes: usize) -> Result<u64> {
        self.bind()?;
        self.workspace.address(&self.stream, bytes)
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        self.bind()?;
        match step {
            Step::Launch(launch) => self.kernels.launch(&self.stream, launch),
            Step::Zero(zero) => self.zero(*zero),
            Step::Product(product) => {
                let cublaslt = match &mut self.cublaslt {
                    Some(cublaslt) => cublaslt,
                    empty => empty.insert(CublasLt::new(&self.stream)?),
                };
                cublaslt.run(&self.stream, product)
            }
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: that the address is live is what the callers of the engine vouch for; `bytes` outlives the copy,
        // because the stream is waited for.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
            .map_err(failure::driver("cuMemcpyHtoDAsync"))?;
        self.synchronize()
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: as in `write`.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(failure::driver("cuMemcpyDtoHAsync"))?;
        self.synchronize()
    }
}

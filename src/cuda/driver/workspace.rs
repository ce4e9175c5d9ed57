//! Scratch memory on the device.

use super::failure;
use crate::{Error, Result};
use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, result};
use std::sync::Arc;

/// Memory that grows to the largest size asked for.
#[derive(Debug, Default)]
pub struct Workspace {
    current: Option<Scratch>,
    /// Whether a graph was captured with the current address.
    captured: bool,
    /// Graphs hold these addresses, so they live as long as the handle.
    outgrown: Vec<Scratch>,
}

/// An allocation and its address.
///
/// The address is asked for once: asking cudarc again would make the stream wait for events, which fails in a capture.
#[derive(Debug)]
pub struct Scratch {
    _memory: CudaSlice<u8>,
    address: u64,
    bytes: usize,
}

impl Scratch {
    /// Allocates bytes with any contents, aligned to 256.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize, purpose: &'static str) -> Result<Self> {
        refuse_while_capturing(stream, purpose)?;
        let mut memory = allocate(stream, bytes, purpose)?;
        let address = memory.device_ptr_mut(stream).0;
        Ok(Scratch { _memory: memory, address, bytes })
    }

    /// The first byte.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Workspace {
    /// The address of at least `bytes` bytes, aligned to 256.
    pub fn address(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> Result<u64> {
        if bytes > self.current.as_ref().map_or(0, |scratch| scratch.bytes) {
            let grown = Scratch::new(stream, bytes, "the workspace")?;
            let outgrown = self.current.replace(grown);
            if std::mem::take(&mut self.captured) {
                self.outgrown.extend(outgrown);
            }
        }
        self.captured |= is_capturing(stream)?;
        Ok(self.current.as_ref().map_or(0, Scratch::address))
    }
}

/// Allocates bytes with any contents.
pub fn allocate(stream: &Arc<CudaStream>, bytes: usize, purpose: &'static str) -> Result<CudaSlice<u8>> {
    // SAFETY: every bit pattern is a byte, and nothing reads these before a kernel has written them.
    unsafe { stream.alloc::<u8>(bytes) }.map_err(failure::allocation(bytes, purpose))
}

/// An error if a graph is being captured from the stream: it cannot contain an allocation or a module load.
pub fn refuse_while_capturing(stream: &CudaStream, needed: &str) -> Result<()> {
    if is_capturing(stream)? {
        return Err(Error::Unsupported(format!(
            "setting up {needed} while a graph is being captured; run the operation once with the same shapes before"
        )));
    }
    Ok(())
}

fn is_capturing(stream: &CudaStream) -> Result<bool> {
    // SAFETY: the stream is alive as long as its owner.
    let status = unsafe { result::stream::is_capturing(stream.cu_stream()) }
        .map_err(failure::driver("cuStreamIsCapturing"))?;
    Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

//! What a program with candle does: it hands candle's stream and slices to lora-kernels.

use cudarc::driver::{CudaSlice, CudaStream};
use lora_kernels::cuda::{Cuda, DeviceMemory};
use lora_kernels::{MatrixRef, Result};
use std::sync::Arc;

/// A handle on the stream that candle's `device.cuda_stream()` gives.
pub fn handle(stream: Arc<CudaStream>) -> Result<Cuda> {
    Cuda::new(stream)
}

/// A view of the slice that candle's `storage.as_cuda_slice()` gives.
pub fn view(slice: &CudaSlice<f32>, rows: usize, cols: usize) -> Result<MatrixRef<'_, DeviceMemory>> {
    MatrixRef::from_cuda(slice, rows, cols)
}

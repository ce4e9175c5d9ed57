//! The CUDA backend on a real device, through cudarc.

mod borrow;
mod codes;
mod column_major;
mod cublaslt;
mod device;
mod divided;
mod executor;
mod failure;
mod handle;
mod kernels;
mod launch;
mod memory;
mod probe;
mod raw;
mod slices;
mod workspace;

pub use codes::DeviceCodes;
pub use device::CudaBuffer;
pub use executor::DriverExecutor;
pub use handle::Cuda;
pub use memory::{DeviceMemory, DeviceMut, DeviceRef};
pub(super) use probe::availability;
pub use slices::{DeviceBuffer, DeviceBufferMut};

//! The CUDA backend.
//!
//! [`plan`] turns a checked operation into [`step`]s: kernel launches, library products, fills. It is pure: no driver,
//! no GPU. What it may know of a card is a [`target`], what it launches are [`kernel`]s, whose numbers are
//! [`constants`]. An [`executor::Executor`] runs steps; the [`engine::Engine`] puts both together and is what a GPU
//! and an emulator share. The driver's executor and the safe handle `Cuda` are in `driver`, with the feature `cuda`.

pub mod arguments;
pub mod constants;
#[cfg(feature = "cuda")]
pub mod driver;
pub mod engine;
pub mod executor;
pub mod kernel;
pub mod plan;
pub mod step;
pub mod target;
pub mod tensor_map;

/// The version of cudarc whose streams and slices this backend takes.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "cuda")]
pub use driver::{Cuda, DeviceCodes, DeviceMemory};
pub use step::F32Math;

use crate::Result;

/// Whether operations can run on GPU 0; if not, the error says what is missing and how to get it.
///
/// ```
/// match lora_kernels::cuda::availability() {
///     Ok(()) => println!("on the GPU"),
///     Err(reason) => println!("on the CPU: {reason}"),
/// }
/// ```
///
/// # Errors
/// [`Error::CudaUnavailable`](crate::Error::CudaUnavailable): no driver, no GPU, a GPU before compute capability 8.0,
/// no cuBLASLt, or a crate built without kernels or without its `cuda` feature.
pub fn availability() -> Result<()> {
    #[cfg(feature = "cuda")]
    return driver::availability();
    #[cfg(not(feature = "cuda"))]
    Err(crate::Error::CudaUnavailable("lora-kernels was built without its `cuda` feature".into()))
}

//! The CUDA backend: [`Cuda`], on cudarc's slices and the caller's stream.
//!
//! Inside, `plan` turns a checked operation into `step`s: kernel launches, library products, fills. It is pure: no driver,
//! no GPU. What it may know of a card is a `target`, what it launches are `kernel`s, whose numbers are `crate::constants`. An
//! `executor` runs steps; the `engine` puts both together and is what a GPU and an emulator share. The driver's executor and
//! the safe handle are in `driver`, with the feature `cuda`. These modules are public for this repository's emulator and
//! benchmarks only, and change without notice.

#[doc(hidden)]
pub mod arguments;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub mod driver;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod executor;
#[doc(hidden)]
pub mod kernel;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod step;
#[doc(hidden)]
pub mod target;
#[doc(hidden)]
pub mod tensor_map;

/// The version of cudarc whose streams and slices this backend takes.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "cuda")]
pub use driver::{
    Cuda, CudaBuffer, DeviceBuffer, DeviceBufferMut, DeviceCodes, DeviceMemory, DeviceMut, DeviceRef,
};
pub use engine::RawCodes;
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

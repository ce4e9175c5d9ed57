//! Whether everything the backend needs is there, found out without a panic.
//!
//! cudarc panics where the driver or cuBLASLt cannot be loaded, so their libraries are looked for first.

use super::{failure, kernels};
use crate::{Error, Result};
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUDA_VERSION, CUdevice_attribute as Attribute};
use libloading::Library;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::sync::OnceLock;

/// Ampere: the kernels need its asynchronous copies and its bf16 tensor cores.
const OLDEST: (u32, u32) = (8, 0);

fn unavailable(reason: impl Into<String>) -> Error {
    Error::CudaUnavailable(reason.into())
}

/// Everything is there for device 0.
pub fn availability() -> Result<()> {
    driver()?;
    let count = CudaContext::device_count().map_err(no_device)?;
    if count == 0 {
        return Err(unavailable(NO_GPU));
    }
    let device = cudarc::driver::result::device::get(0).map_err(no_device)?;
    let attribute = |which| {
        // SAFETY: the handle came from the driver just now.
        unsafe { cudarc::driver::result::device::get_attribute(device, which) }.map_err(no_device)
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    recent_enough((major.unsigned_abs(), minor.unsigned_abs()))?;
    libraries_and_kernels()
}

const NO_GPU: &str =
    "the NVIDIA driver is installed but sees no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES";

fn no_device(error: cudarc::driver::DriverError) -> Error {
    use cudarc::driver::sys::CUresult::{CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY};
    match error.0 {
        CUDA_ERROR_NO_DEVICE => unavailable(NO_GPU),
        CUDA_ERROR_STUB_LIBRARY => {
            unavailable("the library path leads to the toolkit's stub of libcuda; install NVIDIA's driver")
        }
        _ => failure::driver("initialising the NVIDIA driver")(error),
    }
}

/// The driver's library can be loaded. To be called before anything of cudarc.
pub fn driver() -> Result<()> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    if *FOUND.get_or_init(|| loadable(&library_names("cuda")) || loadable(&["nvcuda.dll".into()])) {
        return Ok(());
    }
    Err(unavailable(
        "libcuda was not found; install NVIDIA's driver (https://www.nvidia.com/drivers), \
         and give a container access to the GPU",
    ))
}

/// cuBLASLt can be loaded, and kernels were compiled into the crate.
pub fn libraries_and_kernels() -> Result<()> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    if !*FOUND.get_or_init(|| loadable(&library_names("cublasLt"))) {
        return Err(unavailable(format!(
            "cuBLASLt was not found; install it (`pip install nvidia-cublas`, or package libcublas-{0} of NVIDIA's \
             repository, or the CUDA {0} toolkit) and put its folder on the library path (LD_LIBRARY_PATH)",
            CUDA_VERSION / 1000
        )));
    }
    if kernels::IMAGES.is_empty() {
        return Err(unavailable(format!(
            "lora-kernels was built without its GPU kernels: {}; then build again",
            kernels::MISSING
        )));
    }
    Ok(())
}

/// The kernels run on devices of this compute capability.
pub fn recent_enough(found: (u32, u32)) -> Result<()> {
    if found >= OLDEST {
        return Ok(());
    }
    Err(unavailable(format!(
        "the GPU has compute capability {}.{}, but the kernels need {}.{} (Ampere) or later",
        found.0, found.1, OLDEST.0, OLDEST.1
    )))
}

/// The names cudarc looks under, as far as libraries of this century have them.
fn library_names(library: &str) -> Vec<String> {
    let versions = [CUDA_VERSION / 1000, 12, 11, 1];
    let mut names = vec![format!("{DLL_PREFIX}{library}{DLL_SUFFIX}")];
    names.extend(versions.map(|version| {
        if cfg!(windows) {
            format!("{library}64_{version}{DLL_SUFFIX}")
        } else {
            format!("{DLL_PREFIX}{library}{DLL_SUFFIX}.{version}")
        }
    }));
    names
}

/// Whether one of the names can be loaded. It stays loaded: the driver takes long to load twice.
fn loadable(names: &[String]) -> bool {
    names.iter().any(|name| {
        // SAFETY: the initialisers of NVIDIA's libraries, which cudarc would run anyway, have no preconditions.
        match unsafe { Library::new(name) } {
            Ok(library) => {
                std::mem::forget(library);
                true
            }
            Err(_) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_before_ampere_is_refused_with_its_capability() {
        assert!(recent_enough((8, 0)).is_ok());
        assert!(recent_enough((12, 1)).is_ok());
        let message = recent_enough((7, 5)).unwrap_err().to_string();
        assert!(message.contains("7.5") && message.contains("8.0"), "{message}");
    }

    #[test]
    fn a_missing_library_is_no_panic() {
        assert!(!loadable(&library_names("no_such_library_of_lora_kernels")));
    }

    #[test]
    fn a_missing_backend_is_a_typed_error_with_a_remedy() {
        match availability() {
            Ok(()) => eprintln!("there is a GPU: the missing backend is not tested"),
            Err(Error::CudaUnavailable(reason)) => {
                assert!(reason.contains("install") || reason.contains("check"), "{reason}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

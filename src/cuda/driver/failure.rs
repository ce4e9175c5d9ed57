//! From the driver's and cuBLASLt's error codes to this crate's errors.

use crate::Error;
use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// For `map_err` after a driver call. Only to be used once the driver library is known to be there: cudarc asks it for
/// the text of an error, and panics if it cannot.
pub fn driver(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { call, message: error.to_string() }
}

/// For `map_err` after an allocation.
pub fn allocation(needed: usize, purpose: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { needed, purpose },
        _ => driver("allocating device memory")(error),
    }
}

/// For `map_err` after a call of cuBLASLt.
pub fn cublaslt(call: &'static str) -> impl Fn(CublasError) -> Error {
    move |error| Error::Cuda { call, message: format!("{:?}", error.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::cublaslt::sys::cublasStatus_t;

    #[test]
    fn running_out_of_memory_is_told_apart() {
        let error = allocation(7, "scratch")(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        assert!(matches!(error, Error::OutOfMemory { needed: 7, purpose: "scratch" }));
    }

    #[test]
    fn cublaslt_failures_name_the_call_and_the_status() {
        let error = cublaslt("cublasLtMatmul")(CublasError(cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        assert_eq!(error.to_string(), "cublasLtMatmul failed: CUBLAS_STATUS_NOT_SUPPORTED");
    }
}

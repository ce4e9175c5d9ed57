//! cuBLAS called directly: the library that the baselines are made of.

use anyhow::Result;
use lora_kernels::DType;
use lora_kernels::cuda::cudarc::cublas::sys::{
    self, cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType,
};
use lora_kernels::cuda::cudarc::cublas::{CudaBlas, result};
use lora_kernels::cuda::cudarc::driver::CudaStream;
use std::sync::Arc;

/// A matrix in device memory, rows stored one after the other, and whether it is used transposed.
#[derive(Clone, Copy)]
pub struct Operand {
    pub address: u64,
    pub rows: usize,
    pub cols: usize,
    pub transposed: bool,
}

impl Operand {
    pub fn t(self) -> Self {
        Operand { transposed: !self.transposed, ..self }
    }

    fn shape(self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// cuBLAS counts columns first, so that it sees every matrix transposed and is asked for (left · right)ᵀ.
    fn operation(self) -> cublasOperation_t {
        if self.transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
    }
}

/// cuBLAS on one stream, for one element type at a time. Sums and factors are f32.
pub struct Blas(CudaBlas);

impl Blas {
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        Ok(Blas(CudaBlas::new(stream)?))
    }

    /// to = keep · to + factor · left · right, as `torch.addmm` does it.
    pub fn product(&self, dtype: DType, to: u64, keep: bool, factor: f32, left: Operand, right: Operand) {
        let ((m, k), (depth, n)) = (left.shape(), right.shape());
        assert_eq!(k, depth);
        let (kind, beta) = (data_type(dtype), f32::from(u8::from(keep)));
        // SAFETY: operands and `to` are live device matrices of the layer that calls; the factors outlive the call.
        unsafe {
            result::gemm_ex(
                *self.0.handle(),
                right.operation(),
                left.operation(),
                n as i32,
                m as i32,
                k as i32,
                (&raw const factor).cast(),
                right.address as *const _,
                kind,
                right.cols as i32,
                left.address as *const _,
                kind,
                left.cols as i32,
                (&raw const beta).cast(),
                to as *mut _,
                kind,
                n as i32,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .expect("cublasGemmEx");
    }

    /// values *= factor: one read and one write, as PyTorch's multiplication into a new tensor.
    pub fn scale(&self, dtype: DType, values: u64, len: usize, factor: f32) {
        // SAFETY: the caller's matrix has `len` elements; the factor outlives the call.
        let status = unsafe {
            sys::cublasScalEx(
                *self.0.handle(),
                len as i32,
                (&raw const factor).cast(),
                cudaDataType::CUDA_R_32F,
                values as *mut _,
                data_type(dtype),
                1,
                cudaDataType::CUDA_R_32F,
            )
        };
        status.result().expect("cublasScalEx");
    }

    /// to += from: two reads and one write, as PyTorch's addition.
    pub fn add(&self, dtype: DType, to: u64, from: u64, len: usize) {
        let factor = 1.0f32;
        // SAFETY: the caller's matrices have `len` elements each; the factor outlives the call.
        let status = unsafe {
            sys::cublasAxpyEx(
                *self.0.handle(),
                len as i32,
                (&raw const factor).cast(),
                cudaDataType::CUDA_R_32F,
                from as *const _,
                data_type(dtype),
                1,
                to as *mut _,
                data_type(dtype),
                1,
                cudaDataType::CUDA_R_32F,
            )
        };
        status.result().expect("cublasAxpyEx");
    }
}

fn data_type(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::F16 => cudaDataType::CUDA_R_16F,
        DType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}

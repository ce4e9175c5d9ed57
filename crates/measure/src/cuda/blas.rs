//! cuBLAS called directly: the library that the baselines are made of.

use anyhow::{Context, Result, ensure};
use lora_kernels::DType;
use lora_kernels::cuda::cudarc::cublas::sys::{
    self, cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType,
};
use lora_kernels::cuda::cudarc::cublas::{CudaBlas, result, sys::is_culib_present};
use lora_kernels::cuda::cudarc::driver::CudaStream;
use std::sync::Arc;

/// A matrix in device memory, rows stored one after the other, and whether it is used transposed.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Of the first element.
    pub address: u64,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Whether it is used transposed.
    pub transposed: bool,
}

impl Operand {
    /// Transposed.
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
#[derive(Debug)]
pub struct Blas(CudaBlas);

impl Blas {
    /// On this stream.
    ///
    /// # Errors
    /// There is no cuBLAS, or it cannot be used.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        // SAFETY: only looks whether the library can be loaded, without which cudarc panics.
        let is_there = unsafe { is_culib_present() };
        ensure!(is_there, "cuBLAS, the baseline on GPUs, is not installed (libcublas.so)");
        Ok(Blas(CudaBlas::new(stream)?))
    }

    /// to = keep · to + factor · left · right, as `torch.addmm` does it. The matrices must be live, `to` as large as the
    /// product.
    ///
    /// # Errors
    /// cuBLAS refused, or sizes are beyond what it counts.
    ///
    /// # Panics
    /// The shapes do not fit.
    pub fn product(
        &self,
        dtype: DType,
        to: u64,
        keep: bool,
        factor: f32,
        left: Operand,
        right: Operand,
    ) -> Result<()> {
        let ((m, k), (depth, n)) = (left.shape(), right.shape());
        assert_eq!(k, depth);
        let (kind, beta) = (data_type(dtype), f32::from(u8::from(keep)));
        let size = |size: usize| i32::try_from(size).context("too many rows or columns for cuBLAS");
        // SAFETY: operands and `to` are live device matrices of the layer that calls; the factors outlive the call.
        unsafe {
            result::gemm_ex(
                *self.0.handle(),
                right.operation(),
                left.operation(),
                size(n)?,
                size(m)?,
                size(k)?,
                (&raw const factor).cast(),
                right.address as *const _,
                kind,
                size(right.cols)?,
                left.address as *const _,
                kind,
                size(left.cols)?,
                (&raw const beta).cast(),
                to as *mut _,
                kind,
                size(n)?,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .context("cublasGemmEx")
    }

    /// to += from: two reads and one write, as PyTorch's addition. The matrices must be live.
    ///
    /// # Errors
    /// cuBLAS refused, or there are more elements than it counts.
    pub fn add(&self, dtype: DType, to: u64, from: u64, len: usize) -> Result<()> {
        let factor = 1.0f32;
        let len = i32::try_from(len).context("too many elements for cuBLAS")?;
        // SAFETY: the caller's matrices have `len` elements each; the factor outlives the call.
        let status = unsafe {
            sys::cublasAxpyEx(
                *self.0.handle(),
                len,
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
        status.result().context("cublasAxpyEx")
    }
}

fn data_type(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::F16 => cudaDataType::CUDA_R_16F,
        DType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}

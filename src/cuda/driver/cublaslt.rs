//! Products through cuBLASLt: descriptors and the chosen algorithm are kept for each kind of product.

use super::column_major::{ColumnMajor, Stored};
use super::failure;
use super::workspace::{Scratch, refuse_while_capturing};
use crate::cuda::step::{F32Math, Product};
use crate::{DType, Result};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasComputeType_t, cudaDataType};
use cudarc::driver::CudaStream;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// NVIDIA's recommendation for Hopper; smaller products use less of it.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Split sums are added up in f32 in the workspace. The other scheme rounds partial sums to the output's type.
const REDUCTIONS: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

/// cuBLASLt on one stream.
#[derive(Debug)]
pub struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: Scratch,
    plans: HashMap<Kind, Plan>,
}

// SAFETY: cuBLASLt's handles and descriptors belong to no thread, and they are only used through `&mut CublasLt`.
unsafe impl Send for CublasLt {}

/// Everything that the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    shape: ColumnMajor,
    dtype: DType,
    compute: cublasComputeType_t,
    /// Of first, second and result, in bytes.
    alignments: [u32; 3],
}

#[derive(Debug)]
struct Plan {
    description: Description,
    first: Layout,
    second: Layout,
    result: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl CublasLt {
    /// A handle with its workspace.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let workspace = Scratch::new(stream, WORKSPACE_BYTES, "the workspace of cuBLASLt")?;
        let handle = result::create_handle().map_err(failure::cublaslt("cublasLtCreate"))?;
        Ok(CublasLt { handle, workspace, plans: HashMap::new() })
    }

    /// Enqueues the product.
    pub fn run(&mut self, stream: &CudaStream, product: &Product) -> Result<()> {
        let shape = ColumnMajor::from_product(product);
        if shape.m == 0 || shape.n == 0 {
            return Ok(());
        }
        let addresses = shape.addresses(product);
        let compute = compute_type(product);
        let kind = Kind { shape, dtype: product.dtype, compute, alignments: addresses.map(alignment) };
        let plan = match self.plans.entry(kind) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                refuse_while_capturing(stream, "a product")?;
                let plan = Plan::new(self.handle, &kind);
                entry.insert(plan.map_err(failure::cublaslt("choosing an algorithm of cuBLASLt"))?)
            }
        };
        plan.run(self.handle, &self.workspace, stream, addresses, product.accumulate)
            .map_err(failure::cublaslt("cublasLtMatmul"))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: the handle was created by `new` and is destroyed once. Its status says nothing a caller could act on.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, kind: &Kind) -> Result<Self, CublasError> {
        let ColumnMajor { first, second, result: output, .. } = &kind.shape;
        let description = Description::new(kind.compute, first.transposed, second.transposed)?;
        let (first, second, output) = (
            Layout::new(kind.dtype, first)?,
            Layout::new(kind.dtype, second)?,
            Layout::new(kind.dtype, output)?,
        );
        let preference = Preference::new(kind.alignments)?;
        // SAFETY: the handle and all descriptors are alive.
        let choice = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                description.0,
                first.0,
                second.0,
                output.0,
                output.0,
                preference.0,
            )
        }?;
        Ok(Plan { description, first, second, result: output, algorithm: choice.algo })
    }

    fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        workspace: &Scratch,
        stream: &CudaStream,
        [first, second, output]: [u64; 3],
        accumulate: bool,
    ) -> Result<(), CublasError> {
        let (alpha, beta) = (1.0f32, f32::from(u8::from(accumulate)));
        // SAFETY: handle and descriptors are alive; the scale type is f32, as alpha and beta are. That the addresses
        // are live for the described layouts is what the callers of the engine vouch for.
        unsafe {
            result::matmul(
                handle,
                self.description.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                first as *const _,
                self.first.0,
                second as *const _,
                self.second.0,
                output as *const _,
                self.result.0,
                output as *mut _,
                self.result.0,
                &self.algorithm,
                workspace.address() as *mut _,
                WORKSPACE_BYTES,
                stream.cu_stream() as *mut _,
            )
        }
    }
}

fn compute_type(product: &Product) -> cublasComputeType_t {
    match (product.dtype, product.f32_math) {
        (DType::F32, F32Math::Tf32) => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        _ => cublasComputeType_t::CUBLAS_COMPUTE_32F,
    }
}

/// The largest power of two that divides the address, up to what cuBLASLt distinguishes.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

fn data_type(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::F16 => cudaDataType::CUDA_R_16F,
        DType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}

/// What is computed.
#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(compute: cublasComputeType_t, first: bool, second: bool) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        let description = Description(result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?);
        for (attribute, transposed) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, first), (CUBLASLT_MATMUL_DESC_TRANSB, second)]
        {
            // CUBLAS_OP_N and CUBLAS_OP_T.
            let operation = i32::from(transposed);
            // SAFETY: the descriptor is alive, and the attribute is 32 bits wide.
            unsafe {
                result::set_matmul_desc_attribute(
                    description.0,
                    attribute,
                    (&raw const operation).cast(),
                    size_of_val(&operation),
                )
            }?;
        }
        Ok(description)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// How a matrix lies in memory.
#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: DType, stored: &Stored) -> Result<Self, CublasError> {
        let stride = i64::try_from(stored.leading_dimension)
            .map_err(|_| CublasError(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE))?;
        result::create_matrix_layout(data_type(dtype), stored.rows, stored.cols, stride).map(Layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the algorithm may use and rely on.
#[derive(Debug)]
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new([first, second, output]: [u32; 3]) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Preference(result::create_matmul_pref()?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE_BYTES as u64)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, REDUCTIONS)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, first)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, second)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, output)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, output)?;
        Ok(preference)
    }

    fn set<V: bytemuck::Pod>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: V,
    ) -> Result<(), CublasError> {
        // SAFETY: the preference is alive; cuBLASLt checks the size that is given.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                (&raw const value).cast(),
                size_of_val(&value),
            )
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_the_largest_power_of_two_up_to_256() {
        assert_eq!([0x1002, 0x1010, 0x1000, 0x1001].map(alignment), [2, 16, 256, 1]);
    }
}

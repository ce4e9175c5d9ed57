//! The systems on a GPU: cuBLAS alone, cuBLAS accumulating, and this program's kernels.

use super::Layer;
use crate::failure::{Failure, Result};
use half::{bf16, f16};
use lora_kernels::cuda::Cuda;
use lora_kernels::cuda::cudarc::cublas::sys::{cublasOperation_t, is_culib_present};
use lora_kernels::cuda::cudarc::cublas::{CudaBlas, Gemm, GemmConfig};
use lora_kernels::cuda::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
use lora_kernels::ops::Output;
use lora_kernels::{Adapter, Backend, Backward, Element, Forward, MatrixMut, MatrixRef, WeightUpdate};
use lora_measure::inputs::{Inputs, MERGE_SCALE, SCALE};
use lora_measure::{Pass, Problem, System};

/// Element types that cuBLAS multiplies, accumulating in f32.
pub trait Product: Element + DeviceRepr + ValidAsZeroBits {
    /// # Safety
    /// The slices must hold what `config` says.
    unsafe fn gemm(
        blas: &CudaBlas,
        config: GemmConfig<Self>,
        left: &CudaSlice<Self>,
        right: &CudaSlice<Self>,
        to: &mut CudaSlice<Self>,
    ) -> Result<()>;
}

macro_rules! product {
    ($($element:ty),*) => {$(
        impl Product for $element {
            unsafe fn gemm(
                blas: &CudaBlas,
                config: GemmConfig<Self>,
                left: &CudaSlice<Self>,
                right: &CudaSlice<Self>,
                to: &mut CudaSlice<Self>,
            ) -> Result<()> {
                // SAFETY: the caller's promise is the one that is asked for here.
                unsafe { Gemm::gemm(blas, config, left, right, to) }.map_err(|error| failed("cuBLAS", error))
            }
        }
    )*};
}

product!(f32, f16, bf16);

fn failed(what: &str, error: impl std::fmt::Debug) -> Failure {
    Failure::Failed(format!("{what} failed: {error:?}"))
}

/// The name that the driver gives a GPU.
pub fn device_name(ordinal: usize) -> Result<String> {
    let cuda = Cuda::on_device(ordinal)?;
    cuda.stream().context().name().map_err(|error| failed("asking for the GPU's name", error))
}

/// A matrix on the GPU, stored row by row.
#[derive(Debug)]
struct Matrix<T> {
    data: CudaSlice<T>,
    rows: usize,
    cols: usize,
}

impl<T: Product> Matrix<T> {
    fn view(&self) -> lora_kernels::Result<MatrixRef<'_, lora_kernels::cuda::DeviceMemory>> {
        MatrixRef::from_cuda(&self.data, self.rows, self.cols)
    }

    fn view_mut(&mut self) -> lora_kernels::Result<MatrixMut<'_, lora_kernels::cuda::DeviceMemory>> {
        MatrixMut::from_cuda(&mut self.data, self.rows, self.cols)
    }
}

/// Whether an operand is used transposed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Stored,
    Transposed,
}

/// A layer with what any system needs.
pub struct CudaLayer<T> {
    cuda: Cuda,
    blas: CudaBlas,
    merged: bool,
    x: Matrix<T>,
    w: Matrix<T>,
    a: Matrix<T>,
    b: Matrix<T>,
    dy: Matrix<T>,
    y: Matrix<T>,
    s: Matrix<T>,
    ds: Matrix<T>,
    dx: Matrix<T>,
    da: Matrix<T>,
    db: Matrix<T>,
}

impl<T: Product> CudaLayer<T> {
    pub fn new(problem: Problem, ordinal: usize) -> Result<Self> {
        let cuda = Cuda::on_device(ordinal)?;
        // SAFETY: only looks whether the library can be loaded.
        if !unsafe { is_culib_present() } {
            return Err(Failure::Failed(
                "cuBLAS, the baseline on GPUs, is not installed (libcublas.so)".into(),
            ));
        }
        let stream = cuda.stream().clone();
        let blas = CudaBlas::new(stream.clone()).map_err(|error| failed("cuBLAS", error))?;
        let Problem { m, k, n, r } = problem;
        let inputs = Inputs::<T>::new(problem);
        let filled = |values: &[T], rows, cols| -> Result<Matrix<T>> {
            let data = stream.clone_htod(values).map_err(|error| failed("copying to the GPU", error))?;
            Ok(Matrix { data, rows, cols })
        };
        let zeros = |rows, cols| -> Result<Matrix<T>> {
            let data =
                stream.alloc_zeros(rows * cols).map_err(|error| failed("allocating on the GPU", error))?;
            Ok(Matrix { data, rows, cols })
        };
        Ok(CudaLayer {
            blas,
            merged: false,
            x: filled(&inputs.x, m, k)?,
            w: filled(&inputs.w, k, n)?,
            a: filled(&inputs.a, k, r)?,
            b: filled(&inputs.b, r, n)?,
            dy: filled(&inputs.dy, m, n)?,
            y: zeros(m, n)?,
            s: zeros(m, r)?,
            ds: zeros(m, r)?,
            dx: zeros(m, k)?,
            da: zeros(k, r)?,
            db: zeros(r, n)?,
            cuda,
        })
    }

    fn forward(&mut self, system: System) -> Result<()> {
        if system == System::Fused {
            return Ok(self.cuda.forward(Forward {
                x: self.x.view()?,
                w: self.w.view()?,
                adapter: Adapter { a: self.a.view()?, b: self.b.view()?, scale: SCALE },
                bias: None,
                dropout: None,
                y: self.y.view_mut()?,
                s: Some(self.s.view_mut()?),
            })?);
        }
        let blas = &self.blas;
        product(blas, &mut self.y, 0.0, 1.0, (&self.x, As::Stored), (&self.w, As::Stored))?;
        if system == System::Accumulated {
            product(blas, &mut self.s, 0.0, 1.0, (&self.x, As::Stored), (&self.a, As::Stored))?;
            product(blas, &mut self.y, 1.0, SCALE, (&self.s, As::Stored), (&self.b, As::Stored))?;
        }
        Ok(())
    }

    fn backward(&mut self, system: System) -> Result<()> {
        if system == System::Fused {
            return Ok(self.cuda.backward(Backward {
                x: Some(self.x.view()?),
                w: self.w.view()?,
                adapter: Adapter { a: self.a.view()?, b: self.b.view()?, scale: SCALE },
                dropout: None,
                dy: self.dy.view()?,
                s: Some(self.s.view()?),
                dx: Some(Output::overwrite(self.dx.view_mut()?)),
                da: Some(Output::overwrite(self.da.view_mut()?)),
                db: Some(Output::overwrite(self.db.view_mut()?)),
                dbias: None,
            })?);
        }
        let blas = &self.blas;
        product(blas, &mut self.dx, 0.0, 1.0, (&self.dy, As::Stored), (&self.w, As::Transposed))?;
        if system == System::Accumulated {
            product(blas, &mut self.ds, 0.0, 1.0, (&self.dy, As::Stored), (&self.b, As::Transposed))?;
            product(blas, &mut self.db, 0.0, SCALE, (&self.s, As::Transposed), (&self.dy, As::Stored))?;
            product(blas, &mut self.da, 0.0, SCALE, (&self.x, As::Transposed), (&self.ds, As::Stored))?;
            product(blas, &mut self.dx, 1.0, SCALE, (&self.ds, As::Stored), (&self.a, As::Transposed))?;
        }
        Ok(())
    }

    /// Merging and taking out take turns, so that the weights stay where they are.
    fn merge(&mut self, system: System) -> Result<()> {
        let scale = if self.merged { -MERGE_SCALE } else { MERGE_SCALE };
        self.merged = !self.merged;
        if system == System::Fused {
            let adapter = Adapter { a: self.a.view()?, b: self.b.view()?, scale };
            self.cuda.update_weights(WeightUpdate::merge(self.w.view_mut()?, adapter))?;
            return Ok(());
        }
        product(&self.blas, &mut self.w, 1.0, scale, (&self.a, As::Stored), (&self.b, As::Stored))
    }
}

impl<T: Product> Layer for CudaLayer<T> {
    fn systems(&self, pass: Pass) -> &'static [System] {
        match pass {
            Pass::Merge => &[System::Accumulated, System::Fused],
            Pass::Forward | Pass::Backward | Pass::Step => {
                &[System::Frozen, System::Accumulated, System::Fused]
            }
        }
    }

    fn run(&mut self, pass: Pass, system: System) -> Result<()> {
        match pass {
            Pass::Forward => self.forward(system)?,
            Pass::Backward => self.backward(system)?,
            Pass::Step => {
                self.forward(system)?;
                self.backward(system)?;
            }
            Pass::Merge => self.merge(system)?,
        }
        self.cuda.stream().synchronize().map_err(|error| failed("waiting for the GPU", error))
    }
}

/// to = keep · to + factor · left · right. cuBLAS counts columns first, so it is told toᵀ = rightᵀ · leftᵀ.
fn product<T: Product>(
    blas: &CudaBlas,
    to: &mut Matrix<T>,
    keep: f32,
    factor: f32,
    (left, left_as): (&Matrix<T>, As),
    (right, right_as): (&Matrix<T>, As),
) -> Result<()> {
    let size = |size: usize| {
        i32::try_from(size)
            .map_err(|_| Failure::Failed(format!("{size} rows or columns are too many for cuBLAS")))
    };
    let operation = |how| match how {
        As::Stored => cublasOperation_t::CUBLAS_OP_N,
        As::Transposed => cublasOperation_t::CUBLAS_OP_T,
    };
    let (rows, depth) = match left_as {
        As::Stored => (left.rows, left.cols),
        As::Transposed => (left.cols, left.rows),
    };
    let (right_depth, cols) = match right_as {
        As::Stored => (right.rows, right.cols),
        As::Transposed => (right.cols, right.rows),
    };
    assert_eq!((rows, cols, depth), (to.rows, to.cols, right_depth), "operands fit each other");
    let config = GemmConfig {
        transa: operation(right_as),
        transb: operation(left_as),
        m: size(cols)?,
        n: size(rows)?,
        k: size(depth)?,
        alpha: T::from_f32(factor),
        lda: size(right.cols)?,
        ldb: size(left.cols)?,
        beta: T::from_f32(keep),
        ldc: size(to.cols)?,
    };
    // SAFETY: the slices were made with rows · cols elements, and the sizes fit each other as asserted.
    unsafe { T::gemm(blas, config, &right.data, &left.data, &mut to.data) }
}

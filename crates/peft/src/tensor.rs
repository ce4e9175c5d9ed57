//! Tensors in memory, and what files say about tensors.

use crate::{Error, Result};
use bytemuck::allocation::try_zeroed_vec;
use half::{bf16, f16};
use lora_kernels::memory::{HostMut, HostRef};
use lora_kernels::{DType, Element, Layout, MatrixMut, MatrixRef};
use rayon::prelude::*;
pub use safetensors::Dtype;
use std::borrow::Cow;
use std::ops::Range;

/// Elements that one thread looks at.
const CHUNK: usize = 1 << 16;

/// The values of a tensor of floating-point numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// `f32` values.
    F32(Vec<f32>),
    /// `f16` values.
    F16(Vec<f16>),
    /// `bf16` values.
    Bf16(Vec<bf16>),
}

/// Runs an expression with `$values` bound to the typed vector.
macro_rules! each_type {
    ($tensor:expr, $values:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Values::F32($values) => $body,
            $crate::tensor::Values::F16($values) => $body,
            $crate::tensor::Values::Bf16($values) => $body,
        }
    };
}
pub(crate) use each_type;

/// A dense tensor of floating-point numbers, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    values: Values,
}

/// The kernels' name of a file's element type; `None` for those that are only passed through.
pub fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The file's name of an element type.
pub fn file_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}

/// Number of elements of a shape; `None` if that is more than can be counted.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size))
}

impl Tensor {
    /// A tensor of these values.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shape does not hold as many values.
    pub fn new<T: Element>(shape: &[usize], values: Vec<T>) -> Result<Self> {
        if elements(shape) != Some(values.len()) {
            return Err(Error::tensor("", format!("{} values for shape {shape:?}", values.len())));
        }
        Ok(Self::of(shape, values))
    }

    /// For shapes that are right by construction.
    pub(crate) fn of<T: Element>(shape: &[usize], values: Vec<T>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        let values = match T::DTYPE {
            DType::F32 => Values::F32(bytemuck::allocation::cast_vec(values)),
            DType::F16 => Values::F16(bytemuck::allocation::cast_vec(values)),
            DType::Bf16 => Values::Bf16(bytemuck::allocation::cast_vec(values)),
        };
        Tensor { shape: shape.to_vec(), values }
    }

    /// All zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let len = shape.iter().product();
        let values = match dtype {
            DType::F32 => Values::F32(vec![0.0; len]),
            DType::F16 => Values::F16(vec![f16::ZERO; len]),
            DType::Bf16 => Values::Bf16(vec![bf16::ZERO; len]),
        };
        Tensor { shape: shape.to_vec(), values }
    }

    /// All zeros, for tensors as large as files say they are.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], `purpose` saying what the tensor is.
    pub(crate) fn room_for(dtype: DType, shape: &[usize], purpose: impl Fn() -> String) -> Result<Self> {
        let len = elements(shape).unwrap_or(usize::MAX);
        let failure = |()| Error::OutOfMemory {
            bytes: (len as u64).saturating_mul(dtype.size() as u64),
            purpose: purpose(),
        };
        let values = match dtype {
            DType::F32 => Values::F32(try_zeroed_vec(len).map_err(failure)?),
            DType::F16 => Values::F16(try_zeroed_vec(len).map_err(failure)?),
            DType::Bf16 => Values::Bf16(try_zeroed_vec(len).map_err(failure)?),
        };
        Ok(Tensor { shape: shape.to_vec(), values })
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], `purpose` saying what the copy is.
    pub(crate) fn copy(&self, purpose: impl Fn() -> String) -> Result<Self> {
        let mut copy = Self::room_for(self.dtype(), &self.shape, purpose)?;
        copy.bytes_mut().copy_from_slice(self.bytes());
        Ok(copy)
    }

    /// A tensor from a file's little-endian bytes. `bytes` must be as long as shape and type say.
    pub(crate) fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Self {
        let mut tensor = Self::zeros(dtype, shape);
        tensor.bytes_mut().copy_from_slice(bytes);
        tensor
    }

    /// Sizes, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each_type!(&self.values, values => values.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.values {
            Values::F32(_) => DType::F32,
            Values::F16(_) => DType::F16,
            Values::Bf16(_) => DType::Bf16,
        }
    }

    /// The elements.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The elements, changeable.
    pub fn values_mut(&mut self) -> &mut Values {
        &mut self.values
    }

    /// The elements as a file's bytes.
    pub fn bytes(&self) -> &[u8] {
        each_type!(&self.values, values => bytemuck::cast_slice(values))
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        each_type!(&mut self.values, values => bytemuck::cast_slice_mut(values))
    }

    /// The elements in `f32`: exact, since that holds every value of the other types.
    pub fn to_f32(&self) -> Vec<f32> {
        each_type!(&self.values, values => values.iter().map(|value| value.to_f32()).collect())
    }

    /// One element in `f32`, by its place in memory.
    pub(crate) fn at(&self, index: usize) -> f32 {
        each_type!(&self.values, values => values[index].to_f32())
    }

    /// These elements in `f32`, by their place in memory: borrowed if they are.
    pub(crate) fn f32_range(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match &self.values {
            Values::F32(values) => Cow::Borrowed(&values[range]),
            Values::F16(values) => values[range].iter().map(|value| value.to_f32()).collect(),
            Values::Bf16(values) => values[range].iter().map(|value| value.to_f32()).collect(),
        }
    }

    /// The same tensor in another element type, rounded to nearest.
    #[must_use]
    pub fn cast(&self, dtype: DType) -> Tensor {
        if dtype == self.dtype() {
            return self.clone();
        }
        let values = self.to_f32();
        match dtype {
            DType::F32 => Self::of(&self.shape, values),
            DType::F16 => Self::of(&self.shape, values.into_iter().map(f16::from_f32).collect()),
            DType::Bf16 => Self::of(&self.shape, values.into_iter().map(bf16::from_f32).collect()),
        }
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shape does not hold as many elements.
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        if elements(shape) != Some(self.len()) {
            return Err(Error::tensor("", format!("shape {:?} cannot become {shape:?}", self.shape)));
        }
        Ok(Tensor { shape: shape.to_vec(), ..self })
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        // An exponent of all ones is infinity or NaN.
        match &self.values {
            Values::F32(values) => values.par_chunks(CHUNK).all(|chunk| {
                chunk
                    .iter()
                    .fold(true, |finite, value| finite & (value.to_bits() & 0x7F80_0000 != 0x7F80_0000))
            }),
            Values::F16(values) => values.par_chunks(CHUNK).all(|chunk| {
                chunk.iter().fold(true, |finite, value| finite & (value.to_bits() & 0x7C00 != 0x7C00))
            }),
            Values::Bf16(values) => values.par_chunks(CHUNK).all(|chunk| {
                chunk.iter().fold(true, |finite, value| finite & (value.to_bits() & 0x7F80 != 0x7F80))
            }),
        }
    }

    /// Rows and columns when everything after the first dimension is one row.
    pub(crate) fn rows_and_columns(&self) -> (usize, usize) {
        let rows = self.shape.first().copied().unwrap_or(1);
        (rows, self.len().checked_div(rows).unwrap_or(0))
    }

    /// A view of the whole tensor as a matrix: the first dimension by everything after it.
    ///
    /// # Errors
    /// [`lora_kernels::Error`] if the view would be larger than memory.
    pub fn matrix(&self) -> Result<MatrixRef<'_>> {
        let (rows, columns) = self.rows_and_columns();
        let buffer = each_type!(&self.values, values => HostRef::new(values));
        Ok(MatrixRef::from_buffer(buffer, Layout::strided(rows, columns, columns)?)?)
    }

    /// [`matrix`](Self::matrix), changeable.
    ///
    /// # Errors
    /// [`lora_kernels::Error`] if the view would be larger than memory.
    pub fn matrix_mut(&mut self) -> Result<MatrixMut<'_>> {
        let (rows, columns) = self.rows_and_columns();
        let buffer = each_type!(&mut self.values, values => HostMut::new(values));
        Ok(MatrixMut::from_buffer(buffer, Layout::strided(rows, columns, columns)?)?)
    }
}

//! How far a result may be from the exact one: running error analysis, element by element.
//!
//! Every bound follows from the arithmetic that the operations document, never from what a backend happens to give
//! (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., sections 2.2, 3.1 and 3.3):
//!
//! - a sum of n products in `f32`, in any order, is off by at most γₙ·Σ|products|, γₙ = n·u/(1 − n·u). Here u = 2⁻²³,
//!   the unit of truncation rather than of rounding, because tensor cores truncate when they align addends;
//! - rounding v to an element type is off by at most u·|v|, u = 2⁻²⁴ (f32), 2⁻¹¹ (f16), 2⁻⁸ (bf16), or by half of the
//!   smallest subnormal number where that is more;
//! - an error in a factor is multiplied by the magnitude of the other factor.
//!
//! No bound holds a factor that was found by trying.

use crate::dense::Dense;
use lora_kernels::DType;

/// Relative error of one `f32` operation inside a product.
const ACCUMULATE: f64 = 1.0 / (1u64 << 23) as f64;

/// A matrix product also scales and adds up partial sums; so many operations more than it has terms.
const EXTRA_OPERATIONS: usize = 4;

fn gamma(operations: usize) -> f64 {
    let error = operations as f64 * ACCUMULATE;
    error / (1.0 - error)
}

/// Relative error of rounding to nearest.
pub fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    }
}

/// Half of the smallest subnormal number.
fn floor(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-150),
        DType::F16 => 2f64.powi(-25),
        DType::Bf16 => 2f64.powi(-134),
    }
}

/// Exact values and how far computed ones may be from them.
#[derive(Clone, Debug)]
pub struct Bounded {
    pub value: Dense,
    pub error: Dense,
}

impl Bounded {
    /// Values that are what they say: inputs.
    pub fn exact(value: Dense) -> Self {
        let error = Dense::zeros(value.rows, value.cols);
        Bounded { value, error }
    }

    /// The same values with more error.
    fn widen(&self, more: impl Fn(f64, f64) -> f64) -> Self {
        let Bounded { value, error } = self;
        let widened = Dense::from_fn(value.rows, value.cols, |i, j| {
            error.at(i, j) + more(value.at(i, j).abs(), error.at(i, j))
        });
        Bounded { value: value.clone(), error: widened }
    }

    /// Rounded to the element type once.
    pub fn rounded(&self, dtype: DType) -> Self {
        self.widen(|value, error| (unit(dtype) * (value + error)).max(floor(dtype)))
    }

    /// Inputs of type `from` as they enter a product of type `to`: narrower types round them.
    pub fn converted(&self, from: DType, to: DType) -> Self {
        if from == to || to == DType::F32 { self.clone() } else { self.rounded(to) }
    }

    /// Rounded to the element type while it also held up to `others` of other addends, `times` times.
    pub fn rounded_beside(&self, others: &Dense, dtype: DType, times: usize) -> Self {
        let Bounded { value, error } = self;
        let widened = Dense::from_fn(value.rows, value.cols, |i, j| {
            let rounding = (unit(dtype) * (others.at(i, j) + error.at(i, j))).max(floor(dtype));
            error.at(i, j) + times as f64 * rounding
        });
        Bounded { value: value.clone(), error: widened }
    }

    /// Multiplied by a number; an `f32` operation.
    pub fn scaled(&self, factor: f64) -> Self {
        let Bounded { value, error } = self;
        let map = |matrix: &Dense, factor: f64| {
            Dense::from_fn(matrix.rows, matrix.cols, |i, j| matrix.at(i, j) * factor)
        };
        let scaled = Bounded { value: map(value, factor), error: map(error, factor.abs()) };
        scaled.widen(|value, error| gamma(1) * (value + error))
    }

    /// Multiplied element by element by a dropout mask.
    pub fn masked(&self, mask: &Dense) -> Self {
        let Bounded { value, error } = self;
        let map =
            |matrix: &Dense| Dense::from_fn(matrix.rows, matrix.cols, |i, j| matrix.at(i, j) * mask.at(i, j));
        Bounded { value: map(value), error: map(error) }.widen(|value, error| gamma(2) * (value + error))
    }

    pub fn transposed(&self) -> Self {
        Bounded { value: self.value.transposed(), error: self.error.transposed() }
    }

    /// |value| + error.
    pub fn magnitude(&self) -> Dense {
        let Bounded { value, error } = self;
        Dense::from_fn(value.rows, value.cols, |i, j| value.at(i, j).abs() + error.at(i, j))
    }
}

/// Σ left·right + Σ addends, accumulated in `f32` in any order. A row of addends is added to every row.
pub fn accumulated(products: &[(&Bounded, &Bounded)], addends: &[&Bounded]) -> Bounded {
    let (rows, cols) = match (products.first(), addends.first()) {
        (Some((left, right)), _) => (left.value.rows, right.value.cols),
        (None, Some(addend)) => (addend.value.rows, addend.value.cols),
        (None, None) => (0, 0),
    };
    let terms: usize = products.iter().map(|(left, _)| left.value.cols).sum::<usize>() + addends.len();
    let gamma = gamma(terms + EXTRA_OPERATIONS);
    let mut value = Dense::zeros(rows, cols);
    let mut error = Dense::zeros(rows, cols);
    for i in 0..rows {
        for j in 0..cols {
            let (mut sum, mut magnitude, mut propagated) = (0.0, 0.0, 0.0);
            for (left, right) in products {
                for k in 0..left.value.cols {
                    let (l, r) = (left.value.at(i, k), right.value.at(k, j));
                    let largest = (l.abs() + left.error.at(i, k)) * (r.abs() + right.error.at(k, j));
                    sum += l * r;
                    magnitude += largest;
                    propagated += largest - (l * r).abs();
                }
            }
            for addend in addends {
                let row = if addend.value.rows == 1 { 0 } else { i };
                let (v, e) = (addend.value.at(row, j), addend.error.at(row, j));
                sum += v;
                magnitude += v.abs() + e;
                propagated += e;
            }
            value.values[i * cols + j] = sum;
            error.values[i * cols + j] = propagated.max(0.0) + gamma * magnitude;
        }
    }
    Bounded { value, error }
}

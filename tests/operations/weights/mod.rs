//! Merging, unmerging, switching, Δ and restore records: bit for bit against scalar loops, on every device.

mod damage;
mod moving;
mod restore;
mod stochastic;
mod updates;

use lora_kernels::DType;
use lora_oracle::matrix::{Arrangement, Data, Matrix};
use lora_oracle::random::Random;
use lora_oracle::run::AdapterArguments;

/// Whether a matrix is stored transposed, and the gap between its rows.
type Place = (bool, usize);

const PACKED: Place = (false, 0);

fn arrangement((transposed, gap): Place) -> Arrangement {
    Arrangement { transposed, gap, ..Arrangement::default() }
}

/// Normal with the given standard deviation (Box and Muller).
fn normal(random: &mut Random, deviation: f64) -> f64 {
    let uniform = |random: &mut Random| (random.symmetric() + 1.0) / 2.0;
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    deviation * radius * (std::f64::consts::TAU * uniform(random)).cos()
}

fn normal_matrix(
    random: &mut Random,
    dtype: DType,
    [rows, cols]: [usize; 2],
    place: Place,
    deviation: f64,
) -> Matrix {
    Matrix::from_fn(dtype, rows, cols, arrangement(place), |_, _| normal(random, deviation))
}

/// Weights of a usual size.
fn weights(random: &mut Random, dtype: DType, shape: [usize; 2], place: Place) -> Matrix {
    normal_matrix(random, dtype, shape, place, 0.02)
}

/// An adapter of a weight of this shape whose s·A·B has about the given standard deviation.
fn adapter(
    random: &mut Random,
    dtype: DType,
    [rows, cols]: [usize; 2],
    rank: usize,
    deviation: f64,
    [a, b]: [Place; 2],
) -> AdapterArguments {
    let scale = 2.0;
    let each = (deviation / (f64::from(scale) * (rank as f64).sqrt())).sqrt();
    AdapterArguments {
        a: normal_matrix(random, dtype, [rows, rank], a, each),
        b: normal_matrix(random, dtype, [rank, cols], b, each),
        scale,
    }
}

/// An adapter in f32 without gaps.
fn plain_adapter(random: &mut Random, shape: [usize; 2], rank: usize, deviation: f64) -> AdapterArguments {
    adapter(random, DType::F32, shape, rank, deviation, [PACKED; 2])
}

/// Σₖ A\[i,k\]·B\[k,j\] by fused multiply-adds from k = 0 upwards: the contract.
fn sum(adapter: &AdapterArguments, i: usize, j: usize) -> f32 {
    (0..adapter.a.cols)
        .fold(0.0, |sum, k| (adapter.a.get(i, k) as f32).mul_add(adapter.b.get(k, j) as f32, sum))
}

/// The value of these bits.
fn value(dtype: DType, bits: u32) -> f32 {
    let mut data = Data::poisoned(dtype, 1);
    data.set_bits(0, bits);
    data.get(0) as f32
}

/// The bits of the nearest value; of any NaN, those with every bit but the sign set.
fn nearest_bits(dtype: DType, value: f32) -> u32 {
    if value.is_nan() {
        return if dtype == DType::F32 { 0x7FFF_FFFF } else { 0x7FFF };
    }
    Matrix::from_fn(dtype, 1, 1, Arrangement::default(), |_, _| value.into()).bits(0, 0)
}

/// What an update makes of one weight, before it is rounded.
fn exact(w: f32, [remove, add]: [Option<&AdapterArguments>; 2], (i, j): (usize, usize)) -> f32 {
    let mut value = w;
    if let Some(adapter) = remove {
        value = (-adapter.scale).mul_add(sum(adapter, i, j), value);
    }
    if let Some(adapter) = add {
        value = adapter.scale.mul_add(sum(adapter, i, j), value);
    }
    value
}

/// The bits of weights that rounding to nearest gives.
fn rounded(before: &Matrix, adapters: [Option<&AdapterArguments>; 2]) -> Vec<u32> {
    let dtype = before.dtype();
    let new = |n: usize| {
        let (i, j) = (n / before.cols, n % before.cols);
        let old = before.bits(i, j);
        let w = value(dtype, old);
        if w.is_nan() { old } else { nearest_bits(dtype, exact(w, adapters, (i, j))) }
    };
    (0..before.rows * before.cols).map(new).collect()
}

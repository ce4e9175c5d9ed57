//! Random inputs in host memory.

use crate::Problem;
use lora_kernels::Element;
use lora_kernels::dropout::philox4x32_10;

/// The matrices of one layer, rows stored one after the other.
#[derive(Debug)]
pub struct Inputs<T> {
    /// X \[m, k\].
    pub x: Vec<T>,
    /// W \[k, n\].
    pub w: Vec<T>,
    /// A \[k, r\].
    pub a: Vec<T>,
    /// B \[r, n\].
    pub b: Vec<T>,
    /// dY \[m, n\].
    pub dy: Vec<T>,
}

/// The adapter's factor.
pub const SCALE: f32 = 2.0;

/// A factor that makes Δ about a hundredth of W, as after training.
pub const MERGE_SCALE: f32 = 0.005;

impl<T: Element> Inputs<T> {
    /// Random, uniform in (-1, 1).
    pub fn new(problem: Problem) -> Self {
        let Problem { m, k, n, r } = problem;
        Inputs {
            x: uniform(m * k, 1),
            w: uniform(k * n, 2),
            a: uniform(k * r, 3),
            b: uniform(r * n, 4),
            dy: uniform(m * n, 5),
        }
    }
}

/// Uniform in (-1, 1).
pub fn uniform<T: Element>(len: usize, seed: u32) -> Vec<T> {
    let mut values = Vec::with_capacity(len + 3);
    for block in 0..len.div_ceil(4) {
        for word in philox4x32_10([block as u32, (block >> 32) as u32, 0, 0], [seed, 0]) {
            values.push(T::from_f32((word >> 8) as f32 / (1 << 23) as f32 - 1.0));
        }
    }
    values.truncate(len);
    values
}

//! Short identifications of matrices, the same on every backend and for every layout.
//!
//! The fingerprint of a matrix is the wrapping sum of `mix(index · φ xor bits)` over its elements, where index counts
//! row by row: a sum, so that any number of threads in any order give the same result. It tells mistakes apart, not
//! attacks.

use crate::Shape;

/// A 64-bit identification of a matrix or an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

/// Elements of a weight that its fingerprint looks at, at most about twice this many.
const SAMPLES: usize = 1 << 16;

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What one element adds to the sum.
pub(crate) fn term(index: u64, bits: u32) -> u64 {
    mix(index.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(bits))
}

/// Only elements whose index is a multiple of this count in a weight's fingerprint.
pub(crate) fn sample_step(shape: Shape) -> u64 {
    // Odd steps visit every column of power-of-two widths.
    ((shape.rows * shape.cols / SAMPLES) as u64).max(1) | 1
}

/// The fingerprint of an adapter from those of A and B (over the elements' values in `f32`) and its scale.
pub(crate) fn adapter(a: u64, b: u64, scale: f32) -> Fingerprint {
    Fingerprint(mix(mix(mix(a) ^ b) ^ u64::from(scale.to_bits())))
}

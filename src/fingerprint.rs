//! Short identifications of matrices, the same on every backend and for every layout.
//!
//! The rows of a matrix are cut into words of 64 bits: four elements of 16 bits, or two of 32 bits, the first in the
//! lowest bits; what the last word of a row lacks is zero. The fingerprint is the wrapping sum of `mix(n·φ xor word)`,
//! where n counts words row by row: a sum, so that any number of threads in any order give the same result.
//!
//! Any change of a single word changes the fingerprint; other damage at random is missed with a probability of 2⁻⁶⁴. It
//! is no protection against forgery.

/// A 64-bit identification of a matrix, an adapter or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

/// 2⁶⁴ divided by the golden ratio: SplitMix64's step.
pub(crate) const PHI: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[inline(always)]
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The fingerprint of an adapter from those of A and B (over the elements' values in `f32`) and its scale.
pub(crate) fn adapter(a: u64, b: u64, scale: f32) -> Fingerprint {
    Fingerprint(sequence([a, b, u64::from(scale.to_bits())]))
}

/// The fingerprint of numbers in their order.
pub(crate) fn sequence(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, |sum, number| mix(sum.wrapping_add(PHI) ^ number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_depend_on_every_number_and_their_order() {
        let all = [sequence([]), sequence([0]), sequence([0, 0]), sequence([1, 2]), sequence([2, 1])];
        for (n, one) in all.iter().enumerate() {
            assert!(all[..n].iter().all(|other| other != one), "{all:x?}");
        }
    }
}

//! Dropout whose mask is recomputed from a counter instead of stored.

use crate::{Error, Result};

/// Ten rounds of Philox 4x32 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
///
/// ```
/// // Known answer from the Random123 distribution.
/// let words = lora_kernels::dropout::philox4x32_10([0; 4], [0; 2]);
/// assert_eq!(words, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
#[inline(always)]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Inverted dropout on the input of the LoRA branch.
///
/// Element (row, column) of X is kept when a 16-bit random draw is at least `round(p · 65536)`, and kept elements are
/// multiplied by 1/(1−p) for the p that this rounding gives. The draw depends on seed, offset, row and column only, so
/// that forward, both gradients, and all backends see the same mask without storing it:
/// Philox4x32-10 with key = seed and counter = (column / 8, row, low half of offset, high half of offset) yields the
/// draws of eight neighbouring columns, two a word, low half first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    threshold: u32,
    seed: u64,
    offset: u64,
}

impl Dropout {
    /// Dropout with the given probability of zeroing an element. Use a new `offset` each training step and layer.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] unless 0 ≤ `probability` < 1.
    pub fn new(probability: f32, seed: u64, offset: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::InvalidValue {
                argument: "dropout.probability",
                value: probability.to_string(),
                expected: "at least 0 and below 1",
            });
        }
        // At least one draw in 65536 must survive, or the scale would be infinite.
        let threshold = ((f64::from(probability) * 65536.0).round() as u32).min(65535);
        Ok(Dropout { threshold, seed, offset })
    }

    /// The same probability with other random numbers.
    #[must_use]
    pub(crate) fn with_numbers(self, seed: u64, offset: u64) -> Self {
        Dropout { seed, offset, ..self }
    }

    /// Draws below this are dropped: the probability in units of 1/65536.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// The factor on kept elements: 65536 / (65536 − threshold).
    pub fn keep_scale(&self) -> f32 {
        (65536.0 / f64::from(65536 - self.threshold)) as f32
    }

    /// The seed: the key of the generator.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The offset: the upper half of the counter.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether no element is ever dropped.
    pub fn is_identity(&self) -> bool {
        self.threshold == 0
    }

    /// The draws of columns `8 * block` to `8 * block + 7` in one row.
    #[inline(always)]
    pub fn draws(&self, row: u32, block: u32) -> [u16; 8] {
        let words = philox4x32_10(
            [block, row, self.offset as u32, (self.offset >> 32) as u32],
            [self.seed as u32, (self.seed >> 32) as u32],
        );
        std::array::from_fn(|i| (words[i / 2] >> (16 * (i % 2))) as u16)
    }

    /// Whether the element at (row, column) survives.
    pub fn keeps(&self, row: usize, column: usize) -> bool {
        u32::from(self.draws(row as u32, (column / 8) as u32)[column % 8]) >= self.threshold
    }
}

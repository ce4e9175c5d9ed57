//! The dropout mask, many elements at a time.

use super::simd::vectorize;
use crate::Dropout;

/// The mask of a part of X that begins at (`row`, `col`), where `col` is a multiple of 8.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    pub dropout: Dropout,
    pub row: usize,
    pub col: usize,
}

/// Counters that one batch turns into draws, so that enough independent work hides the latency of multiplications.
const LANES: usize = 32;
/// Elements of a batch.
const BATCH: usize = 8 * LANES;

impl Mask {
    /// Zeroes what is dropped of row `row` of the part.
    pub fn apply(&self, row: usize, values: &mut [f32]) {
        assert!(self.col.is_multiple_of(8));
        let Mask { dropout, .. } = *self;
        let row = (self.row + row) as u32;
        vectorize(
            #[inline(always)]
            || {
                for (batch, values) in values.chunks_mut(BATCH).enumerate() {
                    let block = (self.col / 8 + batch * LANES) as u32;
                    let draws = draws(&dropout, row, block);
                    for (value, draw) in values.iter_mut().zip(&draws) {
                        *value = if u32::from(*draw) < dropout.threshold() { 0.0 } else { *value };
                    }
                }
            },
        );
    }
}

/// [`Dropout::draws`] of `LANES` neighbouring blocks.
///
/// Each word of a counter lies in the low half of a `u64`, because vector units multiply 32 × 32 bits into 64 there; the
/// high halves hold leftovers that no multiplication reads.
#[inline(always)]
fn draws(dropout: &Dropout, row: u32, block: u32) -> [u16; BATCH] {
    const LOW: u64 = 0xFFFF_FFFF;
    let mut counter = [
        std::array::from_fn::<u64, LANES, _>(|lane| u64::from(block.wrapping_add(lane as u32))),
        [u64::from(row); LANES],
        [dropout.offset() & LOW; LANES],
        [dropout.offset() >> 32; LANES],
    ];
    let mut key = [dropout.seed() as u32, (dropout.seed() >> 32) as u32];
    for _ in 0..10 {
        #[expect(clippy::needless_range_loop, reason = "four arrays go in step")]
        for lane in 0..LANES {
            let first = (counter[0][lane] & LOW) * 0xD251_1F53;
            let second = (counter[2][lane] & LOW) * 0xCD9E_8D57;
            counter[0][lane] = (second >> 32) ^ counter[1][lane] ^ u64::from(key[0]);
            counter[1][lane] = second;
            counter[2][lane] = (first >> 32) ^ counter[3][lane] ^ u64::from(key[1]);
            counter[3][lane] = first;
        }
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    let mut draws = [0; BATCH];
    for lane in 0..LANES {
        for half in 0..2 {
            let word = (counter[2 * half][lane] & LOW) | (counter[2 * half + 1][lane] << 32);
            for i in 0..4 {
                draws[8 * lane + 4 * half + i] = (word >> (16 * i)) as u16;
            }
        }
    }
    draws
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_mask_of_the_contract() {
        let dropout = Dropout::new(0.3, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210).unwrap();
        for (row, col, len) in [(0, 0, 1), (3, 8, 255), (70_000, 4096, 1000), (u32::MAX as usize, 16, 300)] {
            let mut values = vec![1.0; len];
            Mask { dropout, row, col }.apply(0, &mut values);
            for (i, value) in values.into_iter().enumerate() {
                assert_eq!(value == 1.0, dropout.keeps(row, col + i), "({row}, {})", col + i);
            }
        }
    }

    #[test]
    fn what_is_dropped_cannot_leak() {
        let dropout = Dropout::new(0.5, 1, 2).unwrap();
        let mut values = [f32::NAN; 64];
        Mask { dropout, row: 0, col: 0 }.apply(0, &mut values);
        assert!((0..64).all(|i| values[i].is_nan() == dropout.keeps(0, i)));
    }
}

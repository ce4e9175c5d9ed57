//! Fingerprints of matrices and of codes in host memory.

use super::factors::{COLUMNS, ROWS, Tile};
use super::kept::Place;
use super::simd::{self, Vectorized};
use super::weight::Weight;
use super::words::Words;
use crate::cpu::view::{AnyView, View};
use crate::fingerprint::{self, Fingerprint, PHI, mix};
use crate::restore::{CodeSums, ESCAPE};
use crate::{Adapter, MatrixRef};
use rayon::prelude::*;

/// The fingerprint of an adapter with its scale.
pub(super) fn adapter(adapter: &Adapter<'_>) -> Fingerprint {
    fingerprint::adapter(values(adapter.a), values(adapter.b), adapter.scale)
}

/// The fingerprint of the bits of a weight, given as it is stored: its rows are contiguous.
pub(super) fn weight<T: Weight>(stored: View<'_, T>, transposed: bool) -> Fingerprint {
    Fingerprint(sum(stored, transposed, T::bits, T::DTYPE.size() == 2))
}

fn values(matrix: MatrixRef<'_>) -> u64 {
    let transposed = matrix.layout().is_transposed();
    let stored = if transposed { matrix.t() } else { matrix };
    match AnyView::new(stored) {
        AnyView::F32(values) => sum(values, transposed, value_bits, false),
        AnyView::F16(values) => sum(values, transposed, value_bits, false),
        AnyView::Bf16(values) => sum(values, transposed, value_bits, false),
    }
}

/// The bits of the value in `f32`: an adapter is the same in every element type that holds it exactly. All NaN count as one.
#[inline(always)]
fn value_bits<T: Weight>(element: T) -> u32 {
    <f32 as Weight>::nearest(T::decode(element.bits()))
}

/// Stored rows of one task.
const TASK_ROWS: usize = 64;

fn sum<T: Weight>(
    elements: View<'_, T>,
    transposed: bool,
    bits: impl Fn(T) -> u32 + Sync,
    short: bool,
) -> u64 {
    let (rows, columns) = (elements.rows(), elements.cols());
    let words = Words::new(transposed, short, if transposed { rows } else { columns });
    (0..rows.div_ceil(TASK_ROWS))
        .into_par_iter()
        .map(|task| {
            let first_row = task * TASK_ROWS;
            let elements = elements.block(first_row..rows.min(first_row + TASK_ROWS), 0..columns);
            simd::run(Task { elements, first_row, words: &words, bits: &bits })
        })
        .reduce(|| 0, u64::wrapping_add)
}

struct Task<'t, T, F> {
    elements: View<'t, T>,
    first_row: usize,
    words: &'t Words,
    bits: &'t F,
}

impl<T: Weight, F: Fn(T) -> u32> Vectorized for Task<'_, T, F> {
    type Output = u64;

    #[inline(always)]
    fn run<const WIDTH: usize>(self) -> u64 {
        let (rows, columns) = (self.elements.rows(), self.elements.cols());
        let mut sum = 0u64;
        for row in (0..rows).step_by(ROWS) {
            for column in (0..columns).step_by(COLUMNS) {
                let place = Place {
                    row: self.first_row + row,
                    column,
                    rows: ROWS.min(rows - row),
                    columns: COLUMNS.min(columns - column),
                };
                let mut tile: Tile<u32> = [[0; COLUMNS]; ROWS];
                for (r, target) in tile.iter_mut().enumerate().take(place.rows) {
                    let Some(source) = self.elements.row(row + r) else { return sum };
                    for (bits, element) in target.iter_mut().zip(&source[column..][..place.columns]) {
                        *bits = (self.bits)(*element);
                    }
                }
                sum = sum.wrapping_add(self.words.sum(&tile, place));
            }
        }
        sum
    }
}

/// Bytes that one task sums: a multiple of a word's.
const TASK_BYTES: usize = 1 << 16;

/// The sums that a record's codes or old weights are checked by.
pub(super) fn codes(codes: &[u8]) -> CodeSums {
    codes
        .par_chunks(TASK_BYTES)
        .enumerate()
        .map(|(task, codes)| simd::run(CodeTask { codes, first: (task * (TASK_BYTES / 8)) as u64 }))
        .reduce(CodeSums::default, |one, two| CodeSums {
            sum: one.sum.wrapping_add(two.sum),
            escapes: one.escapes + two.escapes,
        })
}

struct CodeTask<'t> {
    codes: &'t [u8],
    first: u64,
}

impl Vectorized for CodeTask<'_> {
    type Output = CodeSums;

    #[inline(always)]
    fn run<const WIDTH: usize>(self) -> CodeSums {
        let (words, rest) = self.codes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let mut sum = 0u64;
        for (n, word) in words.iter().enumerate() {
            let place = (self.first + n as u64).wrapping_mul(PHI);
            sum = sum.wrapping_add(mix(place ^ u64::from_le_bytes(*word)));
        }
        if !rest.is_empty() {
            let place = (self.first + words.len() as u64).wrapping_mul(PHI);
            sum = sum.wrapping_add(mix(place ^ u64::from_le_bytes(last)));
        }
        // Counters of a byte are vectors of many; they hold what a block can have.
        let escapes = self
            .codes
            .chunks(128)
            .map(|block| u64::from(block.iter().map(|&code| u8::from(code as i8 == ESCAPE)).sum::<u8>()));
        CodeSums { sum, escapes: escapes.sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;
    use crate::cpu::weights::tests::{Numbers, place_at};
    use crate::memory::HostRef;
    use half::{bf16, f16};

    /// The definition, word by word.
    fn plain(rows: usize, columns: usize, per_word: usize, bits: impl Fn(usize, usize) -> u32) -> u64 {
        let mut sum = 0u64;
        let per_row = columns.div_ceil(per_word);
        for i in 0..rows {
            for g in 0..per_row {
                let inside = (0..per_word).filter(|n| g * per_word + n < columns);
                let word = inside
                    .fold(0u64, |word, n| word | u64::from(bits(i, g * per_word + n)) << (n * 64 / per_word));
                sum = sum.wrapping_add(mix(((i * per_row + g) as u64).wrapping_mul(PHI) ^ word));
            }
        }
        sum
    }

    fn weight_of<T: Weight>(elements: &[T], layout: Layout) -> Fingerprint {
        let transposed = layout.is_transposed();
        let view = MatrixRef::from_buffer(HostRef::new(elements), layout).expect("it fits");
        let stored = if transposed { view.t() } else { view };
        weight(View::<T>::new(stored).expect("of its type"), transposed)
    }

    fn check<T: Weight>(rows: usize, cols: usize, gap: usize) {
        let per_word = 8 / T::DTYPE.size();
        let mask = if per_word == 4 { 0xFFFF } else { u32::MAX };
        // All bits, so that many are NaN with any payload.
        let bits: Vec<u32> = Numbers(7).take(rows * cols).map(|bits| bits as u32 & mask).collect();
        let expected = plain(rows, cols, per_word, |i, j| bits[i * cols + j]);
        for transposed in [false, true] {
            let (stored_rows, stored_cols) = if transposed { (cols, rows) } else { (rows, cols) };
            let layout = Layout::strided(stored_rows, stored_cols, stored_cols + gap).expect("small");
            let layout = if transposed { layout.t() } else { layout };
            let mut elements = vec![T::from_weight_bits(0x1234); layout.span()];
            for i in 0..rows {
                for j in 0..cols {
                    elements[place_at(layout, i, j)] = T::from_weight_bits(bits[i * cols + j]);
                }
            }
            assert_eq!(weight_of(&elements, layout).0, expected, "{} {layout:?}", T::DTYPE);
            let view = MatrixRef::from_buffer(HostRef::new(&elements), layout).expect("it fits");
            let of_values = plain(rows, cols, 2, |i, j| value_bits(T::from_weight_bits(bits[i * cols + j])));
            assert_eq!(values(view), of_values, "{} {layout:?}", T::DTYPE);
        }
    }

    /// More than 131,072 elements among them.
    #[test]
    fn fingerprints_follow_their_definition_in_every_layout() {
        for (rows, cols, gap) in [(1, 1, 0), (3, 2, 1), (4, 64, 0), (67, 131, 3), (130, 70, 0), (401, 403, 5)]
        {
            check::<f32>(rows, cols, gap);
            check::<f16>(rows, cols, gap);
            check::<bf16>(rows, cols, gap);
        }
    }

    #[test]
    fn codes_follow_their_definition() {
        for len in [0, 1, 7, 8, 9, 255, 65_536, 65_541, 200_003] {
            let bytes: Vec<u8> = Numbers(3).take(len).map(|bits| bits as u8).collect();
            let mut padded = bytes.clone();
            padded.resize(len.next_multiple_of(8), 0);
            let word = |n: usize| u64::from_le_bytes(padded[8 * n..][..8].try_into().expect("eight bytes"));
            let sum = (0..padded.len() / 8)
                .fold(0u64, |sum, n| sum.wrapping_add(mix((n as u64).wrapping_mul(PHI) ^ word(n))));
            let escapes = bytes.iter().filter(|&&byte| byte == 0x80).count() as u64;
            assert_eq!(codes(&bytes), CodeSums { sum, escapes }, "{len}");
        }
    }

    /// One changed bit, anywhere, is always noticed.
    #[test]
    fn any_flipped_bit_changes_the_fingerprint() {
        let layout = Layout::strided(370, 371, 373).expect("small");
        let mut weights: Vec<bf16> =
            Numbers(9).take(layout.span()).map(|bits| bf16::from_bits(bits as u16)).collect();
        let before = weight_of(&weights, layout);
        for (at, bit) in Numbers(1).zip(Numbers(2)).take(60) {
            let (i, j) = (at as usize % 370, (at >> 32) as usize % 371);
            let place = place_at(layout, i, j);
            let old = weights[place];
            weights[place] = bf16::from_bits(old.to_bits() ^ (1 << (bit % 16)));
            assert_ne!(weight_of(&weights, layout), before, "({i}, {j})");
            weights[place] = old;
        }
        weights.swap(place_at(layout, 3, 4), place_at(layout, 200, 300));
        assert_ne!(weight_of(&weights, layout), before, "two elements in each other's place");
    }
}

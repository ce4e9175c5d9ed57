//! What a tile of a matrix adds to its fingerprint.

use super::factors::{COLUMNS, Tile};
use super::kept::Place;
use super::row::Row;
use crate::fingerprint::{PHI, mix};

/// A matrix as [`fingerprint`](crate::fingerprint) cuts it into words.
pub(super) struct Words {
    /// Whether storage is \[columns, rows\]: a word's elements lie in one stored column.
    transposed: bool,
    /// Whether elements have 16 bits, not 32.
    short: bool,
    /// Words in a row of the matrix.
    per_row: usize,
    /// n·φ of the words of a tile, less that of its first: along a stored row.
    steps: Row<u64>,
}

impl Words {
    /// For a matrix whose rows have `columns` elements.
    pub fn new(transposed: bool, short: bool, columns: usize) -> Self {
        let per_row = columns.div_ceil(if short { 4 } else { 2 });
        let step = if transposed { (per_row as u64).wrapping_mul(PHI) } else { PHI };
        Words { transposed, short, per_row, steps: std::array::from_fn(|n| step.wrapping_mul(n as u64)) }
    }

    /// The sum over the bits of a tile, which starts at a multiple of four rows and columns. What lies outside the matrix
    /// is ignored.
    #[inline(always)]
    pub fn sum(&self, tile: &Tile<u32>, place: Place) -> u64 {
        match (self.transposed, self.short) {
            (false, true) => self.along_rows(tile, place, 4, |row, words| {
                let short: Row<u16> = std::array::from_fn(|c| row[c] as u16);
                for (word, part) in words.iter_mut().zip(short.as_chunks::<4>().0) {
                    *word = u64::from_le(bytemuck::cast(part.map(u16::to_le)));
                }
            }),
            (false, false) => self.along_rows(tile, place, 2, |row, words| {
                for (word, part) in words.iter_mut().zip(row.as_chunks::<2>().0) {
                    *word = u64::from_le(bytemuck::cast(part.map(u32::to_le)));
                }
            }),
            (true, true) => self.down_columns::<4>(tile, place),
            (true, false) => self.down_columns::<2>(tile, place),
        }
    }

    #[inline(always)]
    fn along_rows(
        &self,
        tile: &Tile<u32>,
        place: Place,
        per_word: usize,
        pack: impl Fn(&Row<u32>, &mut Row<u64>),
    ) -> u64 {
        let mut sum = 0u64;
        for (r, row) in tile.iter().enumerate().take(place.rows) {
            let mut row = *row;
            row[place.columns..].fill(0);
            let mut words = [0; COLUMNS];
            pack(&row, &mut words);
            let first = (place.row + r) * self.per_row + place.column / per_word;
            sum = sum.wrapping_add(self.terms(&words[..place.columns.div_ceil(per_word)], first));
        }
        sum
    }

    #[inline(always)]
    fn down_columns<const PER_WORD: usize>(&self, tile: &Tile<u32>, place: Place) -> u64 {
        let mut sum = 0u64;
        for part in 0..place.rows.div_ceil(PER_WORD) {
            let mut words = [0; COLUMNS];
            for n in 0..PER_WORD.min(place.rows - part * PER_WORD) {
                let row = &tile[part * PER_WORD + n];
                for c in 0..COLUMNS {
                    words[c] |= u64::from(row[c]) << (n * 64 / PER_WORD);
                }
            }
            let first = place.column * self.per_row + place.row / PER_WORD + part;
            sum = sum.wrapping_add(self.terms(&words[..place.columns], first));
        }
        sum
    }

    /// The terms of words of which the first is the matrix's word number `first`.
    #[inline(always)]
    fn terms(&self, words: &[u64], first: usize) -> u64 {
        let first = (first as u64).wrapping_mul(PHI);
        let mut sum = 0u64;
        for (word, step) in words.iter().zip(&self.steps) {
            sum = sum.wrapping_add(mix(first.wrapping_add(*step) ^ word));
        }
        sum
    }
}

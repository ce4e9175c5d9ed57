//! One pass over the weight: each task reads and writes its own stored rows.

use super::factors::{COLUMNS, Factors, ROWS, Tile};
use super::kept::{Block, Kept, Orientation, Place};
use super::row::{self, Measured, Row, Term};
use super::simd::{self, Vectorized};
use super::weight::Weight;
use super::words::Words;
use crate::cpu::view::{self, ViewMut};
use crate::dropout::philox4x32_10;
use crate::fingerprint::Fingerprint;
use crate::restore::{Escape, RestoreMethod};
use rayon::prelude::*;

/// Stored rows of one task. The partition is fixed, so that sums do not depend on the number of threads.
pub(super) const TASK_ROWS: usize = 64;
/// Panels of columns that a task goes through row by row, so that their factor stays in the first-level cache.
pub(super) const PANELS: usize = 8;

/// What to do with the weights.
pub(super) struct Pass<'a, 'k> {
    /// The adapter to take out.
    pub remove: Option<Factors<'a>>,
    /// The adapter to put in.
    pub add: Option<Factors<'a>>,
    /// The key of stochastic rounding.
    pub seed: Option<u64>,
    /// The record to restore from and to write to.
    pub kept: Option<KeptWeights<'k>>,
    /// Whether to measure.
    pub report: bool,
}

/// A restore record at work.
pub(super) struct KeptWeights<'a> {
    /// How weights are kept.
    pub method: RestoreMethod,
    /// Codes or old weights.
    pub bytes: Kept<'a>,
    /// Escape entries of the weights to restore, sorted.
    pub escapes: &'a [Escape],
}

/// What a pass found out.
pub(super) struct Outcome {
    /// New escape entries, not sorted.
    pub escapes: Vec<Escape>,
    /// Sums for the report.
    pub measured: Measured,
    /// With a record: fingerprints of the weights that an adapter is added to, and of the new ones.
    pub fingerprints: [Fingerprint; 2],
}

impl Default for Outcome {
    fn default() -> Self {
        Outcome { escapes: Vec::new(), measured: Measured::default(), fingerprints: [Fingerprint(0); 2] }
    }
}

impl Pass<'_, '_> {
    /// Runs over a weight as it is stored: as W \[in, out\], or `transposed`. Its rows are contiguous.
    pub fn run<T: Weight>(&self, weights: ViewMut<'_, T>, transposed: bool) -> Outcome {
        let columns = weights.cols();
        let out = if transposed { weights.rows() } else { columns };
        let orientation = Orientation { transposed, out };
        let words = Words::new(transposed, T::DTYPE.size() == 2, out);
        let parts: Vec<Outcome> = weights
            .tiles(TASK_ROWS, columns.max(1))
            .into_par_iter()
            .map_init(Default::default, |scratch, weights| {
                simd::run(Task { pass: self, weights, orientation, words: &words, scratch })
            })
            .collect();
        let mut outcome = Outcome::default();
        for part in parts {
            outcome.escapes.extend(part.escapes);
            outcome.measured.extend(&part.measured);
            accumulate(&mut outcome.fingerprints, part.fingerprints.map(|part| part.0));
        }
        outcome
    }
}

fn accumulate(fingerprints: &mut [Fingerprint; 2], sums: [u64; 2]) {
    for (fingerprint, sum) in fingerprints.iter_mut().zip(sums) {
        fingerprint.0 = fingerprint.0.wrapping_add(sum);
    }
}

/// What a thread reuses from task to task.
#[derive(Default)]
struct Scratch {
    /// The packed left factors of the removed and the added adapter.
    left: [Vec<f32>; 2],
    kept: Block,
}

struct Task<'t, 'a, 'k, T> {
    pass: &'t Pass<'a, 'k>,
    weights: view::Tile<'t, T>,
    orientation: Orientation,
    words: &'t Words,
    scratch: &'t mut Scratch,
}

impl<T: Weight> Vectorized for Task<'_, '_, '_, T> {
    type Output = Outcome;

    #[inline(always)]
    fn run<const WIDTH: usize>(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let (first_row, rows, columns) =
            (self.weights.row, self.weights.view.rows(), self.weights.view.cols());
        for (factors, left) in [&self.pass.remove, &self.pass.add].into_iter().zip(&mut self.scratch.left) {
            if let Some(factors) = factors {
                factors.pack_left(first_row, rows, left);
            }
        }
        for first_column in (0..columns).step_by(PANELS * COLUMNS) {
            let columns = (PANELS * COLUMNS).min(columns - first_column);
            let block = Place { row: first_row, column: first_column, rows, columns };
            self.block::<WIDTH>(block, &mut outcome);
        }
        outcome
    }
}

impl<T: Weight> Task<'_, '_, '_, T> {
    #[inline(always)]
    fn block<const WIDTH: usize>(&mut self, block: Place, outcome: &mut Outcome) {
        let (pass, orientation) = (self.pass, self.orientation);
        if let Some(kept) = &pass.kept {
            match pass.remove {
                Some(_) => self.scratch.kept.load(&kept.bytes, block, orientation),
                None => self.scratch.kept.make_room(&kept.bytes),
            }
        }
        for group in 0..block.rows.div_ceil(ROWS) {
            for panel in 0..block.columns.div_ceil(COLUMNS) {
                self.tile::<WIDTH>(block, group, panel, outcome);
            }
        }
        if let Some(kept) = &pass.kept
            && pass.add.is_some()
        {
            self.scratch.kept.store(&kept.bytes, block, orientation);
        }
    }

    /// One tile of a block, `group` groups of rows and `panel` panels of columns into it.
    #[inline(always)]
    fn tile<const WIDTH: usize>(&mut self, block: Place, group: usize, panel: usize, outcome: &mut Outcome) {
        let (pass, orientation) = (self.pass, self.orientation);
        let place = Place {
            row: block.row + group * ROWS,
            column: block.column + panel * COLUMNS,
            rows: ROWS.min(block.rows - group * ROWS),
            columns: COLUMNS.min(block.columns - panel * COLUMNS),
        };
        let mut sums: [Tile<f32>; 2] = [[[0.0; COLUMNS]; ROWS]; 2];
        for ((factors, left), sums) in
            [&pass.remove, &pass.add].into_iter().zip(&self.scratch.left).zip(sums.iter_mut())
        {
            if let Some(factors) = factors {
                factors.tile::<WIDTH>(left, group, place.column / COLUMNS, sums);
            }
        }
        let draws = pass.seed.map(|seed| draws(seed, place, orientation));
        let mut kept_tile: Tile<u32> = match &pass.kept {
            Some(kept) if pass.remove.is_some() => {
                self.scratch.kept.tile(&kept.bytes, orientation.transposed, group, panel)
            }
            _ => [[0; COLUMNS]; ROWS],
        };
        // What the record's fingerprints are of.
        let mut identified: Option<[Tile<u32>; 2]> = pass.kept.is_some().then_some([[[0; COLUMNS]; ROWS]; 2]);
        for row in 0..place.rows {
            let [remove, add] = [(&pass.remove, &sums[0]), (&pass.add, &sums[1])].map(|(factors, sums)| {
                factors.as_ref().map(|factors| Term { scale: factors.scale, sum: &sums[row] })
            });
            let Some(weights) = self.weights.view.row(place.row + row - self.weights.row) else { return };
            let weights = &mut weights[place.column..][..place.columns];
            let mut current: Row<u32> = [0; COLUMNS];
            for (bits, weight) in current.iter_mut().zip(weights.iter()) {
                *bits = weight.bits();
            }
            let index = |column| orientation.index(place.row + row, place.column + column) as u64;
            let draws = draws.as_ref().map(|draws| &draws[row]);
            let (base, new, terms) = match (&pass.kept, remove) {
                (Some(kept), Some(remove)) => {
                    let old = restored::<T>(kept, &current, remove, &kept_tile[row], index);
                    match add {
                        None => (current, old, (Some(remove), None)),
                        Some(_) => (old, row::round::<T>(&old, None, add, draws), (None, add)),
                    }
                }
                _ => (current, row::round::<T>(&current, remove, add, draws), (remove, add)),
            };
            if let (Some(kept), Some(add)) = (&pass.kept, add) {
                kept_tile[row] = match kept.method {
                    RestoreMethod::Backup => base,
                    RestoreMethod::Codes => row::record::<T>(&base, &new, add, |column| {
                        // The padding beyond the last column is no weight.
                        if column < place.columns {
                            outcome.escapes.push(Escape { index: index(column), bits: base[column] });
                        }
                    }),
                };
            }
            if pass.report {
                outcome.measured.add::<T>(place.columns, [&current, &base, &new], terms.0, terms.1);
            }
            for (weight, bits) in weights.iter_mut().zip(new) {
                *weight = T::from_weight_bits(bits);
            }
            if let Some([bases, news]) = &mut identified {
                (bases[row], news[row]) = (base, new);
            }
        }
        if let Some([bases, news]) = &identified {
            // Taken out without another put in, only the new weights count.
            let base = if pass.add.is_some() { self.words.sum(bases, place) } else { 0 };
            accumulate(&mut outcome.fingerprints, [base, self.words.sum(news, place)]);
        }
        if let Some(kept) = &pass.kept
            && pass.add.is_some()
        {
            self.scratch.kept.set_tile(&kept.bytes, orientation.transposed, group, panel, &kept_tile);
        }
    }
}

#[inline(always)]
fn restored<T: Weight>(
    kept: &KeptWeights<'_>,
    merged: &Row<u32>,
    term: Term<'_>,
    kept_row: &Row<u32>,
    index: impl Fn(usize) -> u64,
) -> Row<u32> {
    match kept.method {
        RestoreMethod::Backup => *kept_row,
        RestoreMethod::Codes => row::restore::<T>(merged, term, kept_row, |column, bits| {
            if let Ok(found) = kept.escapes.binary_search_by_key(&index(column), |escape| escape.index) {
                *bits = kept.escapes[found].bits;
            }
        }),
    }
}

/// The fourth word of stochastic rounding's counter sets its draws apart from dropout's.
const STOCHASTIC_ROUNDING: u32 = 0x4C6F_5241;

/// The random draws of a tile. Four neighbours in a row of W \[in, out\] come from one call of the generator, and a
/// tile starts at a multiple of four in both directions.
#[inline(always)]
fn draws(seed: u64, place: Place, orientation: Orientation) -> Tile<u32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let words = |i: usize, j: usize| {
        philox4x32_10([(j / 4) as u32, i as u32, (i as u64 >> 32) as u32, STOCHASTIC_ROUNDING], key)
    };
    let mut tile: Tile<u32> = [[0; COLUMNS]; ROWS];
    if orientation.transposed {
        for column in 0..COLUMNS {
            let words = words(place.column + column, place.row);
            for (tile, word) in tile.iter_mut().zip(words) {
                tile[column] = word;
            }
        }
    } else {
        for (row, tile) in tile.iter_mut().enumerate() {
            for (block, target) in tile.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *target = words(place.row + row, place.column + 4 * block);
            }
        }
    }
    tile
}

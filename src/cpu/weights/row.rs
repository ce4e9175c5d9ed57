//! What happens to one row of a tile, step by step.

use super::factors::COLUMNS;
use super::weight::Weight;
use crate::MergeReport;
use crate::constants::weight::{ESCAPE_CODE, MAX_CODE};
use crate::restore::ESCAPE;

/// One value for each column of the tile.
pub(super) type Row<V> = [V; COLUMNS];

/// An adapter's share in a row: `sum` is Δ without its scale.
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    /// The scale s.
    pub scale: f32,
    /// Σₖ A\[i,k\]·B\[k,j\].
    pub sum: &'a Row<f32>,
}

/// Applies both terms to the weights and rounds. A weight that is NaN stays as it is.
#[inline(always)]
pub(super) fn round<T: Weight>(
    old: &Row<u32>,
    remove: Option<Term<'_>>,
    add: Option<Term<'_>>,
    draws: Option<&Row<u32>>,
) -> Row<u32> {
    let mut values = [0.0f32; COLUMNS];
    for c in 0..COLUMNS {
        values[c] = T::decode(old[c]);
    }
    if let Some(Term { scale, sum }) = remove {
        for c in 0..COLUMNS {
            values[c] = (-scale).mul_add(sum[c], values[c]);
        }
    }
    if let Some(Term { scale, sum }) = add {
        for c in 0..COLUMNS {
            values[c] = scale.mul_add(sum[c], values[c]);
        }
    }
    let mut new = [0; COLUMNS];
    match draws {
        None => {
            for c in 0..COLUMNS {
                let rounded = T::nearest(values[c]);
                new[c] = if T::is_nan(old[c]) { old[c] } else { rounded };
            }
        }
        Some(draws) => {
            for c in 0..COLUMNS {
                let rounded = T::stochastic(values[c], draws[c]);
                new[c] = if T::is_nan(old[c]) { old[c] } else { rounded };
            }
        }
    }
    new
}

/// What the old weight would be, had rounding lost nothing.
#[inline(always)]
fn guess<T: Weight>(new: u32, scale: f32, sum: f32) -> u32 {
    T::nearest((-scale).mul_add(sum, T::decode(new)))
}

/// The old weights from the merged ones and their codes. Calls `escaped` for the columns that have an escape entry.
#[inline(always)]
pub(super) fn restore<T: Weight>(
    merged: &Row<u32>,
    term: Term<'_>,
    codes: &Row<u32>,
    mut escaped: impl FnMut(usize, &mut u32),
) -> Row<u32> {
    let mut old = [0; COLUMNS];
    let mut escapes = false;
    for c in 0..COLUMNS {
        let code = codes[c] as i8;
        let key = T::key(guess::<T>(merged[c], term.scale, term.sum[c]));
        old[c] = T::from_key(key.wrapping_add(i32::from(code)));
        escapes |= code == ESCAPE;
    }
    if escapes {
        for c in 0..COLUMNS {
            if codes[c] as i8 == ESCAPE {
                escaped(c, &mut old[c]);
            }
        }
    }
    old
}

/// The codes that lead from the merged weights back to the old ones. Calls `escaped` for columns that need an entry.
#[inline(always)]
pub(super) fn record<T: Weight>(
    old: &Row<u32>,
    merged: &Row<u32>,
    term: Term<'_>,
    mut escaped: impl FnMut(usize),
) -> Row<u32> {
    let mut codes = [0; COLUMNS];
    let mut escapes = false;
    for c in 0..COLUMNS {
        let guess = guess::<T>(merged[c], term.scale, term.sum[c]);
        let steps = T::key(old[c]).saturating_sub(T::key(guess));
        let fits = (-MAX_CODE..=MAX_CODE).contains(&steps) & T::is_finite(old[c]) & T::is_finite(guess);
        let code = if fits { steps } else { ESCAPE_CODE };
        codes[c] = code as u32 & 0xFF;
        escapes |= !fits;
    }
    if escapes {
        for (c, &code) in codes.iter().enumerate() {
            if code as i8 == ESCAPE {
                escaped(c);
            }
        }
    }
    codes
}

/// Sums for the [`MergeReport`].
#[derive(Clone, Copy, Default)]
pub(super) struct Measured {
    unchanged: u64,
    non_finite: u64,
    measured: u64,
    max_error: f64,
    /// Eight sums, so that the order of addition is fixed and vectors still help.
    squares: [f64; 8],
}

impl Measured {
    /// Adds the first `columns` weights of a row: `current` became `new`, where `base` and the terms call for it.
    #[inline(always)]
    pub fn add<T: Weight>(
        &mut self,
        columns: usize,
        [current, base, new]: [&Row<u32>; 3],
        remove: Option<Term<'_>>,
        add: Option<Term<'_>>,
    ) {
        let mut exact = [0.0f64; COLUMNS];
        for c in 0..COLUMNS {
            exact[c] = f64::from(T::decode(base[c]));
        }
        // Products of two f32 are exact in f64.
        if let Some(Term { scale, sum }) = remove {
            for c in 0..COLUMNS {
                exact[c] -= f64::from(scale) * f64::from(sum[c]);
            }
        }
        if let Some(Term { scale, sum }) = add {
            for c in 0..COLUMNS {
                exact[c] += f64::from(scale) * f64::from(sum[c]);
            }
        }
        for c in 0..columns.min(COLUMNS) {
            self.unchanged += u64::from(new[c] == current[c]);
            self.non_finite += u64::from(!T::is_finite(new[c]));
            let error = (f64::from(T::decode(new[c])) - exact[c]).abs();
            let counts = error < f64::INFINITY;
            let error = if counts { error } else { 0.0 };
            self.measured += u64::from(counts);
            self.max_error = self.max_error.max(error);
            self.squares[c % 8] += error * error;
        }
    }

    /// Adds the sums of a later part.
    pub fn extend(&mut self, later: &Measured) {
        self.unchanged += later.unchanged;
        self.non_finite += later.non_finite;
        self.measured += later.measured;
        self.max_error = self.max_error.max(later.max_error);
        for (sum, later) in self.squares.iter_mut().zip(later.squares) {
            *sum += later;
        }
    }

    /// The report over `elements` weights.
    pub fn report(&self, elements: u64) -> MergeReport {
        let squares: f64 = self.squares.iter().sum();
        MergeReport {
            elements,
            unchanged: self.unchanged,
            max_error: self.max_error,
            rms_error: if self.measured == 0 { 0.0 } else { (squares / self.measured as f64).sqrt() },
            non_finite: self.non_finite,
        }
    }
}

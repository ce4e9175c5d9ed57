//! Merging adapters into a weight in place, and taking them out again.

use super::Adapter;
use super::check::named;
use crate::memory::{Host, Memory};
use crate::restore::RestoreRecord;
use crate::{DType, Error, MatrixMut, Result};

/// How a new weight is rounded to the weight's element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rounding {
    /// To the nearest value, ties to even.
    #[default]
    Nearest,
    /// Up or down at random, so that the mean over many weights keeps all of Δ. For 16-bit weights.
    ///
    /// The 32-bit draw of element (i, j) is word `j % 4` of Philox4x32-10 with key = seed and
    /// counter = (j / 4, low half of i, high half of i, 0x4C6F5241), with (i, j) counted in W \[in, out\].
    ///
    /// The draw's low bits, as many as the type cuts off the significand (16 for bf16, 13 for f16), are added to the
    /// bits of `|v|` before they are cut off. Where f16 is subnormal, `|v|` is taken in units of 2⁻²⁴ with 32 binary
    /// digits of fraction, and the whole draw is added to these. So values that the type holds stay what they are,
    /// beyond the largest the next is infinity, and infinities and NaN are treated as when rounding to nearest.
    Stochastic {
        /// Key of the random generator.
        seed: u64,
    },
}

/// Changes a weight in place, in one pass: W ← round(W − s₁·A₁·B₁ + s₂·A₂·B₂).
///
/// The value before rounding is part of the contract, so that all backends produce the same bits: with
/// Δ = Σₖ A\[i,k\]·B\[k,j\] summed in `f32` by fused multiply-add from k = 0 upwards starting at +0, `v = f32(W)`, then
/// `v = fma(-s₁, Δ₁, v)` if an adapter is removed, then `v = fma(s₂, Δ₂, v)` if one is added, then one rounding of `v`.
/// A weight that is NaN keeps its bits; a sum that becomes NaN is stored as the NaN with all bits but the sign set.
/// With neither adapter nothing changes.
///
/// Without a record, taking an adapter out again is *not* exact: rounding has lost bits. With a [`RestoreRecord`]
/// it is, bit for bit: unmerging puts the recorded old weights back, and a switch first recovers the old weight `W₀`,
/// then rounds `v = fma(s₂, Δ₂, f32(W₀))` and renews the record for the new adapter, in the same pass. So the result
/// of any number of switches is that of one merge into the untouched base.
///
/// The record is checked against the removed adapter, the whole weight and its own checksum before anything is written,
/// and is emptied by an unmerge; see [`RestoreRecord`] for what it promises.
#[derive(Debug)]
pub struct WeightUpdate<'a, D: Memory = Host, C = Vec<u8>> {
    /// W \[in, out\], changed in place.
    pub w: MatrixMut<'a, D>,
    /// The adapter to take out.
    pub remove: Option<Adapter<'a, D>>,
    /// The adapter to put in.
    pub add: Option<Adapter<'a, D>>,
    /// How new weights are rounded. Restoring from a record needs no rounding.
    pub rounding: Rounding,
    /// Where an added adapter records what rounding lost, and from where a removed adapter restores it.
    pub record: Option<&'a mut RestoreRecord<C>>,
    /// Whether to measure the update.
    pub report: bool,
}

/// What an update did to the weights, against the exact sum W − s₁·Δ₁ + s₂·Δ₂ of what they were and the `f32` Δ's.
///
/// Where a switch restores from a record, the exact sum is W₀ + s₂·Δ₂ with the restored weight W₀. For an unmerge that
/// restores, the error shows what the rounding of the merge had lost.
///
/// Sums have a fixed order on each backend; `rms_error` may differ between backends in its last digits.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct MergeReport {
    /// Number of weights.
    pub elements: u64,
    /// Weights whose bits did not change.
    pub unchanged: u64,
    /// Largest |new − exact| where both are finite.
    pub max_error: f64,
    /// Root mean square of new − exact where both are finite.
    pub rms_error: f64,
    /// New weights that are infinite or not a number.
    pub non_finite: u64,
}

impl<'a, D: Memory, C> WeightUpdate<'a, D, C> {
    /// W + s·A·B, rounded to nearest, without record and report.
    pub fn merge(w: MatrixMut<'a, D>, adapter: Adapter<'a, D>) -> Self {
        Self { w, remove: None, add: Some(adapter), rounding: Rounding::Nearest, record: None, report: false }
    }

    /// W − s·A·B, rounded to nearest, without record and report.
    pub fn unmerge(w: MatrixMut<'a, D>, adapter: Adapter<'a, D>) -> Self {
        Self { w, remove: Some(adapter), add: None, rounding: Rounding::Nearest, record: None, report: false }
    }

    /// W − s₁·A₁·B₁ + s₂·A₂·B₂ in one pass, rounded to nearest, without record and report.
    pub fn switch(w: MatrixMut<'a, D>, from: Adapter<'a, D>, to: Adapter<'a, D>) -> Self {
        Self {
            w,
            remove: Some(from),
            add: Some(to),
            rounding: Rounding::Nearest,
            record: None,
            report: false,
        }
    }

    /// Sets how new weights are rounded.
    #[must_use]
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// Records what rounding loses (merge), restores it (unmerge), or both (switch).
    #[must_use]
    pub fn record(self, record: &'a mut RestoreRecord<C>) -> Self {
        Self { record: Some(record), ..self }
    }

    /// Asks for a [`MergeReport`].
    #[must_use]
    pub fn report(self) -> Self {
        Self { report: true, ..self }
    }

    /// Checks every argument but the record's fingerprints; backends call it before they write anything.
    ///
    /// # Errors
    /// Which argument does not fit, and why.
    pub fn check(&self) -> Result<()> {
        let w = named("w", self.w.as_ref());
        w.no_zero_dimension("a layer needs at least one input and one output feature")?;
        for adapter in self.remove.iter().chain(&self.add) {
            adapter.check_against(&w)?;
        }
        if matches!(self.rounding, Rounding::Stochastic { .. }) && self.w.dtype() == DType::F32 {
            return Err(Error::Unsupported(
                "stochastic rounding of f32 weights: the sum is computed in f32 and has nothing left to round"
                    .into(),
            ));
        }
        if let Some(record) = &self.record {
            match (&self.remove, &self.add) {
                (None, None) => {}
                (None, Some(_)) => record.check_empty()?,
                (Some(_), _) => record.check_layout(w.matrix.shape(), w.matrix.dtype())?,
            }
        }
        Ok(())
    }
}

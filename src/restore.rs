//! Records that make taking an adapter out exact.

use crate::constants::weight;
use crate::fingerprint::{Fingerprint, sequence};
use crate::{DType, Error, Result, Shape};

/// How a record keeps the weights that rounding would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestoreMethod {
    /// One byte a weight, and an [`Escape`] of 16 bytes for each weight that one byte cannot describe: those much
    /// smaller than their Δ, those that change sign, and those that are infinite or not a number.
    ///
    /// The byte is the number of steps between neighbouring values (−0 and +0 are neighbours) that lead from
    /// `round(fma(-s, Δ, new weight))`, rounded to nearest, up to the old weight: −127 to 127. −128 marks an escape.
    ///
    /// Simulated for normal weights of standard deviation 0.02, 150,000 of them: with Δ of deviation 1e-3, 0.008% of
    /// bf16 weights escape (1.001 bytes a weight); with 5e-3, 0.03% (1.005 bytes); of f16 weights none did.
    /// A CUDA backend has room for 1.5% and refuses more with [`Error::TooManyEscapes`].
    #[default]
    Codes,
    /// The old weights themselves: 2 bytes a 16-bit weight, 4 bytes an `f32` weight. Always possible.
    Backup,
}

/// The byte that marks an escape.
pub(crate) const ESCAPE: i8 = weight::ESCAPE_CODE as i8;

/// The order in which Δ was summed when a record was made. A backend that sums differently refuses the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeltaOrder {
    /// `f32` fused multiply-add from k = 0 upwards.
    AscendingFma = 1,
}

/// A weight that a code cannot describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape {
    /// Position i·out + j of the weight in W \[in, out\].
    pub index: u64,
    /// Its bits; 16-bit weights in the low half.
    pub bits: u32,
}

/// What a record says about the update it was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Shape \[in, out\] of the weight.
    pub shape: Shape,
    /// Element type of the weight.
    pub dtype: DType,
    /// Order of summation of Δ.
    pub order: DeltaOrder,
    /// Fingerprint of the merged adapter.
    pub adapter: Fingerprint,
    /// Fingerprint of the whole weight after the merge.
    pub weight: Fingerprint,
    /// Fingerprint of the whole weight before the merge, without any adapter.
    pub original: Fingerprint,
    /// Fingerprint of all the rest of the record: its method, the fields above, its codes and its escapes.
    pub checksum: Fingerprint,
}

/// What it takes to give back the weights from before a merge, bit for bit.
///
/// A record is made by a merge, used up by the unmerge and renewed by a switch. Records stack: merge a second adapter
/// with a second record, and take them out in reverse order. `C` is where the backend keeps the codes: `Vec<u8>` on
/// the CPU.
///
/// # What a record promises
/// An unmerge or a switch that returns `Ok` has found the weights from before the merge, bit for bit, or one of the
/// 64-bit [fingerprints](crate::fingerprint) below met another value by chance, which random damage brings about once in
/// 2⁶⁴ times. Before anything is written, all of these must be as the record has them, else
/// [`Error::RecordMismatch`] is returned, and weights and record stay as they were:
///
/// - the adapter that is taken out: the values of A and B, and the scale;
/// - the weight as it is now: shape, type and every bit, in any layout;
/// - the record itself: every code, every escape, and everything in [`Recorded`].
///
/// After restoring, the weights are compared with the fingerprint of those from before the merge. These checks found all
/// that restoring depends on to be right, so that a difference means that arithmetic or memory failed meanwhile. This
/// [`Error::NotRestored`] is the only one after which the weights have been written, and the record is empty then.
///
/// A record is no protection against forgery: who can change it on purpose can change its checksum as well.
#[derive(Clone, Debug, Default)]
pub struct RestoreRecord<C = Vec<u8>> {
    method: RestoreMethod,
    recorded: Option<Recorded>,
    /// Codes or old weights, row by row in W \[in, out\].
    pub(crate) codes: C,
    /// Sorted by index.
    pub(crate) escapes: Vec<Escape>,
}

/// Sums over the codes of a record, or over the old weights that it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CodeSums {
    /// The fingerprint of the bytes as one row.
    pub sum: u64,
    /// Bytes that mark an escape.
    pub escapes: u64,
}

impl<C: Default> RestoreRecord<C> {
    /// An empty record.
    pub fn new(method: RestoreMethod) -> Self {
        RestoreRecord { method, recorded: None, codes: C::default(), escapes: Vec::new() }
    }

    /// Back to empty, keeping the method.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.method);
    }
}

impl<C> RestoreRecord<C> {
    /// The same record with its codes kept elsewhere, and where they were.
    #[cfg(feature = "cuda")]
    pub(crate) fn move_codes<D>(self, codes: D) -> (RestoreRecord<D>, C) {
        let RestoreRecord { method, recorded, codes: old, escapes } = self;
        (RestoreRecord { method, recorded, codes, escapes }, old)
    }

    /// Back to empty, keeping the method and the memory of the codes.
    pub(crate) fn forget(&mut self) {
        self.recorded = None;
        self.escapes = Vec::new();
    }

    /// Puts a record together from what [`recorded`](Self::recorded), [`codes`](Self::codes) and
    /// [`escapes`](Self::escapes) gave: for storing records, and for moving them between backends. Whether the parts
    /// belong together is found when the record is used.
    pub fn from_parts(method: RestoreMethod, recorded: Recorded, codes: C, mut escapes: Vec<Escape>) -> Self {
        escapes.sort_unstable_by_key(|escape| escape.index);
        RestoreRecord { method, recorded: Some(recorded), codes, escapes }
    }

    /// How old weights are kept.
    pub fn method(&self) -> RestoreMethod {
        self.method
    }

    /// What was recorded; `None` while the record is empty.
    pub fn recorded(&self) -> Option<&Recorded> {
        self.recorded.as_ref()
    }

    /// The codes ([`RestoreMethod::Codes`], one byte a weight) or old weights ([`RestoreMethod::Backup`],
    /// little-endian), row by row in W \[in, out\].
    pub fn codes(&self) -> &C {
        &self.codes
    }

    /// Puts other codes in place of the present ones, which are returned: room for the codes of an empty record on raw
    /// device memory, or a copy of the same codes elsewhere. Other codes than the record was made with are refused when
    /// it is used.
    pub fn replace_codes(&mut self, codes: C) -> C {
        std::mem::replace(&mut self.codes, codes)
    }

    /// The weights that codes cannot describe, sorted by index.
    pub fn escapes(&self) -> &[Escape] {
        &self.escapes
    }

    /// Bytes of codes that a weight of this shape and type needs; `usize::MAX` if that is more than memory can hold.
    pub fn code_bytes(method: RestoreMethod, shape: Shape, dtype: DType) -> usize {
        let bytes = match method {
            RestoreMethod::Codes => 1,
            RestoreMethod::Backup => dtype.size(),
        };
        shape.rows.saturating_mul(shape.cols).saturating_mul(bytes)
    }

    /// Takes over what a merge recorded besides its codes, of which the sums are given.
    pub(crate) fn renew(&mut self, mut recorded: Recorded, codes: CodeSums, mut escapes: Vec<Escape>) {
        escapes.sort_unstable_by_key(|escape| escape.index);
        self.escapes = escapes;
        recorded.checksum = self.checksum(&recorded, codes);
        self.recorded = Some(recorded);
    }

    fn checksum(&self, recorded: &Recorded, codes: CodeSums) -> Fingerprint {
        let Recorded { shape, dtype, order, adapter, weight, original, checksum: _ } = *recorded;
        let method = match self.method {
            RestoreMethod::Codes => 1,
            RestoreMethod::Backup => 2,
        };
        let dtype = match dtype {
            DType::F32 => 1,
            DType::F16 => 2,
            DType::Bf16 => 3,
        };
        let numbers = [
            method,
            shape.rows as u64,
            shape.cols as u64,
            dtype,
            order as u64,
            adapter.0,
            weight.0,
            original.0,
            codes.sum,
            self.escapes.len() as u64,
        ];
        let escapes = self.escapes.iter().flat_map(|escape| [escape.index, u64::from(escape.bits)]);
        Fingerprint(sequence(numbers.into_iter().chain(escapes)))
    }

    fn made(&self) -> Result<&Recorded> {
        let empty = || Error::RecordMismatch("it is empty: nothing was merged with it".into());
        self.recorded.as_ref().ok_or_else(empty)
    }

    /// There must be at least as many codes as the weight needs.
    pub(crate) fn check_code_bytes(&self, found: u64, needed: usize) -> Result<()> {
        if found < needed as u64 {
            return Err(Error::RecordMismatch(format!(
                "it needs {needed} bytes of codes for this weight, but has {found}"
            )));
        }
        Ok(())
    }

    pub(crate) fn check_empty(&self) -> Result<()> {
        if self.recorded.is_some() {
            return Err(Error::RecordMismatch(
                "it already holds the record of another merge; give each merge its own".into(),
            ));
        }
        Ok(())
    }

    pub(crate) fn check_layout(&self, shape: Shape, dtype: DType) -> Result<()> {
        let recorded = self.made()?;
        if (recorded.shape, recorded.dtype) != (shape, dtype) {
            return Err(Error::RecordMismatch(format!(
                "it was made for a {} weight of shape {}, not for `w` in {dtype} of shape {shape}",
                recorded.dtype, recorded.shape
            )));
        }
        Ok(())
    }

    /// The record must be whole, of this adapter, and of the weight as it is now.
    pub(crate) fn check(&self, adapter: Fingerprint, weight: Fingerprint, codes: CodeSums) -> Result<()> {
        let recorded = self.made()?;
        let mismatch = |text: &str| Err(Error::RecordMismatch(text.into()));
        if recorded.adapter != adapter {
            return mismatch("another adapter (or another scale) was merged with it");
        }
        if recorded.weight != weight {
            return mismatch("`w` is not the weight it was made for, or has changed since");
        }
        self.check_escapes(recorded, codes.escapes)?;
        if recorded.checksum != self.checksum(recorded, codes) {
            return mismatch("its codes, its escapes or what it says of the merge are damaged");
        }
        Ok(())
    }

    /// There must be one escape for each code that marks one, and none outside the weight.
    fn check_escapes(&self, recorded: &Recorded, marked: u64) -> Result<()> {
        let found = self.escapes.len() as u64;
        let needed = match self.method {
            RestoreMethod::Codes => marked,
            RestoreMethod::Backup => 0,
        };
        if found != needed {
            return Err(Error::RecordMismatch(format!(
                "its codes need {needed} escape entries, but it has {found}"
            )));
        }
        if self.escapes.windows(2).any(|pair| pair[0].index >= pair[1].index) {
            return Err(Error::RecordMismatch("two of its escape entries are of the same weight".into()));
        }
        let elements = recorded.shape.rows as u128 * recorded.shape.cols as u128;
        if self.escapes.last().is_some_and(|escape| u128::from(escape.index) >= elements) {
            return Err(Error::RecordMismatch("an escape entry lies outside the weight".into()));
        }
        Ok(())
    }

    /// What was restored must be the weight from before the merge.
    pub(crate) fn check_restored(&self, found: Fingerprint) -> Result<()> {
        if self.made()?.original != found { Err(Error::NotRestored) } else { Ok(()) }
    }

    /// Makes a record that is whole, but of another original.
    #[cfg(test)]
    pub(crate) fn falsify_original(&mut self, codes: CodeSums) {
        let mut recorded = *self.made().expect("it was made");
        recorded.original.0 ^= 1;
        recorded.checksum = self.checksum(&recorded, codes);
        self.recorded = Some(recorded);
    }
}

//! Records that make taking an adapter out exact.

use crate::fingerprint::Fingerprint;
use crate::{DType, Error, Result, Shape};

/// How a record keeps the weights that rounding would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestoreMethod {
    /// One byte a weight, and 12 bytes for each weight that one byte cannot describe (below 1% of the weights of
    /// ordinary layers: those much smaller than their Δ).
    ///
    /// The byte is the distance, in steps between neighbouring values, of the old weight from
    /// `round(fma(-s, Δ, new weight))`, from -127 to 127; -128 marks an escape entry.
    #[default]
    Codes,
    /// The old weights themselves: 2 bytes a 16-bit weight, 4 bytes an `f32` weight. Always possible.
    Backup,
}

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
    /// Fingerprint of a sample of the weight after the merge.
    pub weight: Fingerprint,
}

/// What it takes to give back the weights from before a merge, bit for bit.
///
/// A record is made by a merge, used up by the unmerge and renewed by a switch. Records stack: merge a second adapter
/// with a second record, and take them out in reverse order. `C` is where the backend keeps the codes: `Vec<u8>` on
/// the CPU.
#[derive(Clone, Debug, Default)]
pub struct RestoreRecord<C = Vec<u8>> {
    method: RestoreMethod,
    recorded: Option<Recorded>,
    /// Codes or old weights, row by row in W \[in, out\].
    pub(crate) codes: C,
    /// Sorted by index.
    pub(crate) escapes: Vec<Escape>,
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
    /// Puts a record together from what [`recorded`](Self::recorded), [`codes`](Self::codes) and
    /// [`escapes`](Self::escapes) gave: for storing records, and for moving them between backends.
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
    /// device memory.
    pub fn replace_codes(&mut self, codes: C) -> C {
        std::mem::replace(&mut self.codes, codes)
    }

    /// The weights that codes cannot describe, sorted by index.
    pub fn escapes(&self) -> &[Escape] {
        &self.escapes
    }

    /// Bytes of codes that a weight of this shape and type needs.
    pub fn code_bytes(method: RestoreMethod, shape: Shape, dtype: DType) -> usize {
        let elements = shape.rows * shape.cols;
        match method {
            RestoreMethod::Codes => elements,
            RestoreMethod::Backup => elements * dtype.size(),
        }
    }

    pub(crate) fn set_recorded(&mut self, recorded: Recorded) {
        self.recorded = Some(recorded);
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
        let Some(recorded) = &self.recorded else {
            return Err(Error::RecordMismatch("it is empty: nothing was merged with it".into()));
        };
        if (recorded.shape, recorded.dtype) != (shape, dtype) {
            return Err(Error::RecordMismatch(format!(
                "it was made for a {} weight of shape {}, not for `w` in {dtype} of shape {shape}",
                recorded.dtype, recorded.shape
            )));
        }
        Ok(())
    }

    /// The record must be of this adapter, and of the weight as it is now.
    pub(crate) fn check_fingerprints(&self, adapter: Fingerprint, weight: Fingerprint) -> Result<()> {
        let Some(recorded) = &self.recorded else {
            return Err(Error::RecordMismatch("it is empty: nothing was merged with it".into()));
        };
        if recorded.adapter != adapter {
            return Err(Error::RecordMismatch(
                "another adapter (or another scale) was merged with it".into(),
            ));
        }
        if recorded.weight != weight {
            return Err(Error::RecordMismatch(
                "`w` is not the weight it was made for, or has changed since".into(),
            ));
        }
        Ok(())
    }
}

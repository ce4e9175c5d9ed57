//! Weight updates and deltas on the CPU.

use crate::ops::{Delta, MergeReport, WeightUpdate};
use crate::{Error, Result};

pub(super) fn update(_op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
    Err(Error::Unsupported("update_weights".into()))
}

pub(super) fn delta(_op: Delta<'_>) -> Result<()> {
    Err(Error::Unsupported("delta".into()))
}

//! The backward on the CPU.

use super::Cpu;
use crate::ops::BackwardSiblings;
use crate::{Error, Result};

pub(super) fn backward(_cpu: &mut Cpu, _op: BackwardSiblings<'_>) -> Result<()> {
    Err(Error::Unsupported("backward".into()))
}

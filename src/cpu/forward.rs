//! The forward on the CPU.

use super::Cpu;
use crate::ops::ForwardSiblings;
use crate::{Error, Result};

pub(super) fn forward(_cpu: &mut Cpu, _op: ForwardSiblings<'_>) -> Result<()> {
    Err(Error::Unsupported("forward".into()))
}

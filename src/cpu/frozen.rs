//! The frozen layer alone, on the CPU.

use super::adapters::Packed;
use super::convert::Convert;
use super::scratch::Scratch;
use super::view::{View, ViewMut};
use super::wide::{self, wide_product};
use crate::Result;
use crate::ops::Frozen;

/// Y = X·W + bias, or Y += X·W + bias. All arguments are checked.
pub(super) fn frozen<T: Convert>(scratch: &Scratch, op: Frozen<'_>) -> Result<()> {
    let product = wide::Frozen { left: View::<T>::new(op.x)?, right: View::new(op.w)? };
    let bias = op.bias.map(|bias| Packed::stacked(scratch, &[bias])).transpose()?;
    let bias = bias.as_ref().map(Packed::as_slice);
    wide_product(scratch, &[product], None, bias, op.y.mode, ViewMut::new(op.y.matrix)?);
    Ok(())
}

//! The forward on the CPU.

use super::adapters::{Packed, Ranks, write};
use super::convert::Convert;
use super::scratch::Scratch;
use super::skinny::reduce_columns;
use super::view::{View, ViewMut};
use super::wide::{Frozen, LowRank, wide_product};
use crate::ops::{Adapter, ForwardSiblings, Output, WriteMode};
use crate::{MatrixRef, Result};

/// Y = X·W + s·drop(X)·A·B + bias for layers that share X. All arguments are checked.
pub(super) fn forward<T: Convert>(scratch: &Scratch, op: ForwardSiblings<'_>) -> Result<()> {
    if op.projections.is_empty() {
        return Ok(());
    }
    let x = View::<T>::new(op.x)?;
    let adapters: Vec<Adapter<'_>> = op.projections.iter().map(|projection| projection.adapter).collect();
    let ranks = Ranks::new(&adapters, op.dropout);

    let mut s = scratch.take(x.rows() * ranks.total());
    {
        let all_a: Vec<MatrixRef<'_>> = adapters.iter().map(|adapter| adapter.a).collect();
        let a = Packed::side_by_side(scratch, &all_a)?;
        let sums = ViewMut::packed(&mut s, x.rows(), ranks.total());
        reduce_columns(scratch, x, op.dropout, a.view(), &ranks.scales, sums);
    }
    let s = View::packed(&s, x.rows(), ranks.total());

    for (projection, columns) in op.projections.into_iter().zip(&ranks.columns) {
        let s = s.block(0..x.rows(), columns.clone());
        if let Some(saved) = projection.s {
            write(s, Output::overwrite(saved))?;
        }
        let b = Packed::stacked(scratch, &[projection.adapter.b])?;
        let bias = projection.bias.map(|bias| Packed::stacked(scratch, &[bias])).transpose()?;
        let low_rank = LowRank { left: s, right: b.view(), dropout: None };
        let bias = bias.as_ref().map(Packed::as_slice);
        let frozen = Frozen { left: x, right: View::new(projection.w)? };
        let y = ViewMut::<T>::new(projection.y)?;
        wide_product(scratch, &[frozen], Some(low_rank), bias, WriteMode::Overwrite, y);
    }
    Ok(())
}

//! The forward on the CPU.

use super::adapters::{Adapters, widen, write};
use super::convert::Convert;
use super::scratch::Scratch;
use super::skinny::reduce_columns;
use super::view::{View, ViewMut};
use super::wide::{Frozen, LowRank, wide_product};
use crate::Result;
use crate::ops::{Adapter, ForwardSiblings, Output, WriteMode};

/// Y = X·W + s·drop(X)·A·B + bias for layers that share X. All arguments are checked.
pub(super) fn forward<T: Convert>(scratch: &Scratch, op: ForwardSiblings<'_>) -> Result<()> {
    let x = View::<T>::new(op.x)?;
    let all: Vec<Adapter<'_>> = op.projections.iter().map(|projection| projection.adapter).collect();
    let adapters = Adapters::new(scratch, &all, op.dropout)?;
    let (rows, rank) = (x.rows(), adapters.rank());

    let mut s = scratch.take(rows * rank);
    let sums = ViewMut::packed(&mut s, rows, rank);
    reduce_columns(scratch, x, op.dropout, adapters.a(), &adapters.scales, sums);
    let s = View::packed(&s, rows, rank);

    for (index, projection) in op.projections.into_iter().enumerate() {
        let s = s.block(0..rows, adapters.columns[index].clone());
        if let Some(saved) = projection.s {
            write(s, Output::overwrite(saved))?;
        }
        let bias = match projection.bias {
            Some(bias) => {
                let mut row = scratch.take(bias.cols());
                let width = row.len();
                widen(bias, ViewMut::packed(&mut row, 1, width))?;
                Some(row)
            }
            None => None,
        };
        let frozen = Frozen { left: x, right: View::new(projection.w)? };
        let low_rank = LowRank { left: s, right: adapters.b(index), dropout: None, bias: bias.as_deref() };
        let y = ViewMut::<T>::new(projection.y)?;
        wide_product(scratch, &[frozen], Some(low_rank), WriteMode::Overwrite, y);
    }
    Ok(())
}

//! The backward on the CPU.

use super::adapters::{Adapters, widen, write};
use super::convert::Convert;
use super::scratch::Scratch;
use super::skinny::{reduce_columns, reduce_rows, sum_rows};
use super::view::{View, ViewMut};
use super::wide::{Frozen, LowRank, wide_product};
use crate::Result;
use crate::ops::{Adapter, BackwardSiblings};

/// dX, dA, dB and dbias, as asked for. All arguments are checked.
pub(super) fn backward<T: Convert>(scratch: &Scratch, op: BackwardSiblings<'_>) -> Result<()> {
    let Some(first) = op.projections.first() else { return Ok(()) };
    let rows = first.dy.rows();
    let all: Vec<Adapter<'_>> = op.projections.iter().map(|projection| projection.adapter).collect();
    let adapters = Adapters::new(scratch, &all, op.dropout)?;
    let rank = adapters.rank();
    let x = op.x.map(View::<T>::new).transpose()?;

    // S of all projections where any needs it recomputed.
    let mut s = scratch.take(rows * rank);
    if let Some(x) = x
        && op.projections.iter().any(|projection| projection.db.is_some() && projection.s.is_none())
    {
        let sums = ViewMut::packed(&mut s, rows, rank);
        reduce_columns(scratch, x, op.dropout, adapters.a(), &adapters.scales, sums);
    }

    let needs_ds = op.dx.is_some() || op.projections.iter().any(|projection| projection.da.is_some());
    let mut ds = scratch.take(rows * rank);
    let mut frozen = Vec::with_capacity(op.projections.len());
    let mut da = Vec::with_capacity(op.projections.len());
    for (index, projection) in op.projections.into_iter().enumerate() {
        let columns = adapters.columns[index].clone();
        let dy = View::<T>::new(projection.dy)?;
        let out = dy.cols();
        frozen.push(Frozen { left: dy, right: View::new(projection.w)?.t() });
        if needs_ds {
            let mut all = ViewMut::packed(&mut ds, rows, rank);
            let ds = all.block(0..rows, columns.clone());
            let scales = &adapters.scales[columns.clone()];
            reduce_columns(scratch, dy, None, adapters.b(index).t(), scales, ds);
        }
        if let Some(output) = projection.db {
            let mut s = ViewMut::packed(&mut s, rows, rank);
            let mut s = s.block(0..rows, columns.clone());
            if let Some(saved) = projection.s {
                widen(saved, s.reborrow())?;
            }
            let mut db = scratch.take(columns.len() * out);
            let mut db = ViewMut::packed(&mut db, columns.len(), out);
            reduce_rows(scratch, dy, None, s.as_view(), db.reborrow().t());
            write(db.as_view(), output)?;
        }
        if let Some(output) = projection.dbias {
            let mut sums = scratch.take(out);
            let mut sums = ViewMut::packed(&mut sums, 1, out);
            sum_rows(scratch, dy, sums.reborrow());
            write(sums.as_view(), output)?;
        }
        da.push(projection.da);
    }
    let ds = View::packed(&ds, rows, rank);

    if let Some(x) = x
        && da.iter().any(Option::is_some)
    {
        let mut sums = scratch.take(x.cols() * rank);
        let mut sums = ViewMut::packed(&mut sums, x.cols(), rank);
        reduce_rows(scratch, x, op.dropout, ds, sums.reborrow());
        for (output, columns) in da.into_iter().zip(&adapters.columns) {
            if let Some(output) = output {
                write(sums.as_view().block(0..x.cols(), columns.clone()), output)?;
            }
        }
    }
    if let Some(dx) = op.dx {
        let low_rank = LowRank { left: ds, right: adapters.a().t(), dropout: op.dropout, bias: None };
        wide_product(scratch, &frozen, Some(low_rank), dx.mode, ViewMut::<T>::new(dx.matrix)?);
    }
    Ok(())
}

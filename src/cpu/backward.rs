//! The backward on the CPU.

use super::adapters::{Packed, Ranks, widen, write};
use super::convert::Convert;
use super::scratch::Scratch;
use super::skinny::{reduce_columns, reduce_rows, sum_rows};
use super::view::{View, ViewMut};
use super::wide::{Frozen, LowRank, wide_product};
use crate::ops::{Adapter, BackwardSiblings};
use crate::{MatrixRef, Result};

/// dX, dA, dB and dbias, as asked for. All arguments are checked.
pub(super) fn backward<T: Convert>(scratch: &Scratch, op: BackwardSiblings<'_>) -> Result<()> {
    let Some(first) = op.projections.first() else { return Ok(()) };
    let rows = first.dy.rows();
    let adapters: Vec<Adapter<'_>> = op.projections.iter().map(|projection| projection.adapter).collect();
    let ranks = Ranks::new(&adapters, op.dropout);
    let x = op.x.map(View::<T>::new).transpose()?;

    // S of all projections, where any needs it recomputed; what was saved replaces its part below.
    let mut s = scratch.take(rows * ranks.total());
    if let Some(x) = x
        && op.projections.iter().any(|projection| projection.db.is_some() && projection.s.is_none())
    {
        let all_a: Vec<MatrixRef<'_>> = adapters.iter().map(|adapter| adapter.a).collect();
        let a = Packed::side_by_side(scratch, &all_a)?;
        let sums = ViewMut::packed(&mut s, rows, ranks.total());
        reduce_columns(scratch, x, op.dropout, a.view(), &ranks.scales, sums);
    }
    let mut s = ViewMut::packed(&mut s, rows, ranks.total());

    let needs_ds = op.dx.is_some() || op.projections.iter().any(|projection| projection.da.is_some());
    let mut ds = scratch.take(rows * ranks.total());
    let mut frozen = Vec::with_capacity(op.projections.len());
    let mut da = Vec::with_capacity(op.projections.len());
    for (projection, columns) in op.projections.into_iter().zip(&ranks.columns) {
        let dy = View::<T>::new(projection.dy)?;
        frozen.push(Frozen { left: dy, right: View::new(projection.w)?.t() });
        if needs_ds {
            let b = Packed::stacked(scratch, &[projection.adapter.b.t()])?;
            let mut ds = ViewMut::packed(&mut ds, rows, ranks.total());
            let sums = ds.block(0..rows, columns.clone());
            reduce_columns(scratch, dy, None, b.view(), &ranks.scales[columns.clone()], sums);
        }
        if let Some(output) = projection.db {
            let mut s = s.block(0..rows, columns.clone());
            if let Some(saved) = projection.s {
                widen(saved, s.reborrow())?;
            }
            let mut db = scratch.take(columns.len() * dy.cols());
            let mut db = ViewMut::packed(&mut db, columns.len(), dy.cols());
            reduce_rows(scratch, dy, None, s.as_view(), db.reborrow().t());
            write(db.as_view(), output)?;
        }
        if let Some(output) = projection.dbias {
            let mut sums = scratch.take(dy.cols());
            let mut sums = ViewMut::packed(&mut sums, 1, dy.cols());
            sum_rows(scratch, dy, sums.reborrow());
            write(sums.as_view(), output)?;
        }
        da.push(projection.da);
    }
    let ds = View::packed(&ds, rows, ranks.total());

    if let Some(x) = x
        && da.iter().any(Option::is_some)
    {
        let mut sums = scratch.take(x.cols() * ranks.total());
        let mut sums = ViewMut::packed(&mut sums, x.cols(), ranks.total());
        reduce_rows(scratch, x, op.dropout, ds, sums.reborrow());
        for (output, columns) in da.into_iter().zip(&ranks.columns) {
            if let Some(output) = output {
                write(sums.as_view().block(0..x.cols(), columns.clone()), output)?;
            }
        }
    }
    if let Some(dx) = op.dx {
        let all_a: Vec<MatrixRef<'_>> = adapters.iter().map(|adapter| adapter.a.t()).collect();
        let a = Packed::stacked(scratch, &all_a)?;
        let low_rank = LowRank { left: ds, right: a.view(), dropout: op.dropout };
        wide_product(scratch, &frozen, Some(low_rank), None, dx.mode, ViewMut::<T>::new(dx.matrix)?);
    }
    Ok(())
}

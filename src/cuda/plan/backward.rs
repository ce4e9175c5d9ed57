//! Steps of the backward: dS, dB and dbias of each layer from one read of its dY, dA of all layers from one read of X,
//! then the layers' part of dX, to which the library adds dY·Wᵀ. Where A lies beside W, and nothing is dropped, dX is one product a
//! layer instead, of [dY dS] and [W A]ᵀ.

use super::frozen::{self, Onto};
use super::joined::beside;
use super::products::{Destination, Epilogue, Part, Planner, Slabs, WantedFromDy, check_rank, in_order};
use super::{Plan, Settings, route};
use crate::cuda::arguments::products::{DropoutMask, View};
use crate::memory::Raw;
use crate::ops::{BackwardProjection, BackwardSiblings, Output, WriteMode};
use crate::{DType, Error, MatrixRef, Result};

/// Plans a checked backward with scratch memory from `workspace_base`, a multiple of 256.
///
/// # Errors
/// [`Error::Unsupported`] if a grid would be larger than CUDA allows, or the device too small for a block.
pub fn backward(op: &BackwardSiblings<'_, Raw>, settings: Settings, workspace_base: u64) -> Result<Plan> {
    let Some(dtype) = element_type(op) else {
        return Ok(Plan::default());
    };
    check_rank(op.projections.iter().map(|p| p.adapter.rank()).fold(0, usize::saturating_add))?;
    let new_planner = || Planner::new(dtype, settings, workspace_base);
    if op.projections.first().is_some_and(|projection| projection.dy.rows() == 0) {
        let mut planner = new_planner();
        zero_gradients(&mut planner, op)?;
        return planner.finish();
    }
    let apart = planned(op, new_planner(), None)?;
    let weights = op.projections.iter().map(|p| beside(p.w, p.adapter.a)).collect::<Option<Vec<_>>>();
    match weights.filter(|weights| !weights.is_empty() && op.dropout.is_none() && op.dx.is_some()) {
        Some(weights) => Ok(route::better(planned(op, new_planner(), Some(&weights))?, apart, dtype)),
        None => Ok(apart),
    }
}

/// With the [W A] of each layer, dX is computed layer by layer, beside a copy of each dY that has room for dS.
fn planned(
    op: &BackwardSiblings<'_, Raw>,
    mut planner: Planner,
    joined: Option<&[MatrixRef<'_, Raw>]>,
) -> Result<Plan> {
    let dtype = planner.dtype;
    let rows = op.projections.first().map(|projection| projection.dy.rows());
    let mask = DropoutMask::from(op.dropout);
    let keep_scale = op.dropout.map_or(1.0, |dropout| dropout.keep_scale());

    // A of all layers serves an expanded dX; without one, S alone needs it.
    let expands = op.dx.is_some() && joined.is_none();
    let keeps_ds = |p: &BackwardProjection<'_, Raw>| expands || p.da.is_some();
    let lacks_s = |p: &BackwardProjection<'_, Raw>| p.db.is_some() && p.s.is_none();
    let recomputes_s = op.projections.iter().any(lacks_s);
    let with_a: Vec<_> = op.projections.iter().filter(|p| expands || lacks_s(p)).collect();
    let a = planner.packed(&with_a.iter().map(|p| p.adapter.a.t()).collect::<Vec<_>>())?;

    let s: Vec<Option<View>> = op
        .projections
        .iter()
        .map(|p| match (&p.db, p.s) {
            (None, _) => None,
            (Some(_), Some(s)) => Some(s.into()),
            (Some(_), None) => Some(planner.matrix(p.dy.rows(), p.adapter.rank())),
        })
        .collect();
    if recomputes_s {
        let mark = planner.workspace.mark();
        let slabs = planner.shrink(x_of(op)?, a, mask, None)?;
        let destinations: Vec<_> = op
            .projections
            .iter()
            .zip(&s)
            .filter(|(p, _)| expands || lacks_s(p))
            .map(|(p, &view)| {
                let scale = p.adapter.scale * keep_scale;
                let destination = view.filter(|_| lacks_s(p)).map(|view| Destination {
                    view,
                    dtype,
                    scale,
                    accumulate: false,
                });
                (p.adapter.rank(), destination)
            })
            .collect();
        planner.finalize(slabs, &in_order(destinations))?;
        planner.workspace.release(mark);
    }

    let ds_ranks = op.projections.iter().filter(|p| keeps_ds(p)).map(|p| p.adapter.rank()).sum();
    let ds = planner.matrix(rows.unwrap_or(0), ds_ranks);
    let mut ds_column = 0;
    for (index, (p, &s)) in op.projections.iter().zip(&s).enumerate() {
        let mark = planner.workspace.mark();
        let ds_columns = if keeps_ds(p) { p.adapter.rank() } else { 0 };
        let ds_part = View {
            address: ds.address + (ds_column * dtype.size()) as u64,
            columns: ds_columns as i64,
            ..ds
        };
        ds_column += ds_columns;
        let kept = keeps_ds(p).then_some(ds_part);
        match (joined, &op.dx) {
            (Some(weights), Some(dx)) => {
                let rank = p.adapter.rank();
                let dy = planner.with_room(p.dy.rows(), p.dy.cols(), rank)?;
                let (dy_and_ds, beside_dy) = frozen::extended(dy, p.dy.cols(), rank)?;
                from_dy(&mut planner, p, &[Some(beside_dy.into()), kept], s, Some(dy.into()))?;
                let overwrites = index == 0 && dx.mode == WriteMode::Overwrite;
                let onto = if overwrites { Onto::Nothing } else { Onto::C };
                frozen::product(&mut planner, dy_and_ds, weights[index].t(), dx.matrix.as_ref(), onto)?;
            }
            _ => from_dy(&mut planner, p, &[kept], s, None)?,
        }
        planner.workspace.release(mark);
    }

    if op.projections.iter().any(|p| p.da.is_some()) {
        let mark = planner.workspace.mark();
        let slabs = planner.backward_a(x_of(op)?, ds, mask)?;
        let destinations: Vec<_> = op
            .projections
            .iter()
            .filter(|p| keeps_ds(p))
            .map(|p| {
                let destination =
                    p.da.as_ref().map(|da| Destination { scale: keep_scale, ..destination(da) });
                (p.adapter.rank(), destination)
            })
            .collect();
        planner.finalize(slabs, &in_order(destinations))?;
        planner.workspace.release(mark);
    }

    if let Some(dx) = op.dx.as_ref().filter(|_| expands) {
        let accumulate = dx.mode == WriteMode::Accumulate;
        let epilogue = Epilogue { mask, scale: keep_scale, bias: None, accumulate };
        if dx.matrix.rows() > 0 && dx.matrix.cols() > 0 {
            planner.expand(ds, a, (&dx.matrix).into(), epilogue)?;
        }
        for p in &op.projections {
            frozen::product(&mut planner, p.dy, p.w.t(), dx.matrix.as_ref(), Onto::C)?;
        }
    }
    planner.finish()
}

/// dS in each of its places, dB and dbias of one layer; and a copy of dY.
fn from_dy(
    planner: &mut Planner,
    p: &BackwardProjection<'_, Raw>,
    places_of_ds: &[Option<View>],
    s: Option<View>,
    copy: Option<View>,
) -> Result<()> {
    let wants_ds = places_of_ds.iter().any(Option::is_some);
    if !wants_ds && s.is_none() && p.dbias.is_none() {
        return Ok(());
    }
    let dtype = planner.dtype;
    let rank = p.adapter.rank();
    let b = wants_ds.then(|| planner.packed(&[p.adapter.b])).transpose()?;
    let wanted = WantedFromDy { ds: b, db: s, dbias: p.dbias.is_some(), copy };
    let slabs = planner.backward_dy(p.dy.into(), rank, wanted)?;
    let part = |columns, destination| Part { first_column: 0, columns, destination };
    if let Some(slabs) = slabs.ds {
        let ds =
            |&view: &View| part(rank, Destination { view, dtype, scale: p.adapter.scale, accumulate: false });
        planner.finalize(slabs, &places_of_ds.iter().flatten().map(ds).collect::<Vec<_>>())?;
    }
    if let (Some(slabs), Some(db)) = (slabs.db, &p.db) {
        planner.finalize(slabs, &[part(rank, transposed(destination(db)))])?;
    }
    if let (Some(slabs), Some(dbias)) = (slabs.dbias, &p.dbias) {
        planner.finalize(slabs, &[part(1, transposed(destination(dbias)))])?;
    }
    Ok(())
}

/// With no tokens, overwritten gradients of parameters are zero.
fn zero_gradients(planner: &mut Planner, op: &BackwardSiblings<'_, Raw>) -> Result<()> {
    for p in &op.projections {
        let outputs = [(&p.da, false), (&p.db, true), (&p.dbias, true)];
        for (output, is_transposed) in outputs {
            let Some(output) = output.as_ref().filter(|output| output.mode == WriteMode::Overwrite) else {
                continue;
            };
            let plain = destination(output);
            let destination = if is_transposed { transposed(plain) } else { plain };
            let slabs = Slabs::none(destination.view.rows as usize);
            let columns = destination.view.columns as usize;
            planner.finalize(slabs, &[Part { first_column: 0, columns, destination }])?;
        }
    }
    Ok(())
}

/// The layers' element type; `None` if nothing is asked for.
fn element_type(op: &BackwardSiblings<'_, Raw>) -> Option<DType> {
    op.projections
        .first()
        .map(|projection| projection.dy.dtype())
        .or_else(|| op.dx.as_ref().map(|dx| dx.matrix.dtype()))
}

fn x_of(op: &BackwardSiblings<'_, Raw>) -> Result<View> {
    op.x.map(View::from)
        .ok_or(Error::MissingArgument { argument: "x", reason: "dA, or S for dB, is computed from it" })
}

fn destination(output: &Output<'_, Raw>) -> Destination {
    Destination {
        view: (&output.matrix).into(),
        dtype: output.matrix.dtype(),
        scale: 1.0,
        accumulate: output.mode == WriteMode::Accumulate,
    }
}

/// For slabs that hold the transpose of the result.
fn transposed(destination: Destination) -> Destination {
    Destination { view: destination.view.t(), ..destination }
}

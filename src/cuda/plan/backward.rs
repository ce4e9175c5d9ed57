//! Steps of the backward: dS, dB and dbias of each layer from one read of its dY, dA of all layers from one read of X,
//! then the layers' part of dX, to which the library adds dY·Wᵀ.

use super::frozen::{self, Onto};
use super::products::{Destination, Epilogue, Planner, Slabs, WantedFromDy, check_rank};
use super::{Plan, Settings};
use crate::cuda::arguments::products::{DropoutMask, View};
use crate::memory::Raw;
use crate::ops::{BackwardProjection, BackwardSiblings, Output, WriteMode};
use crate::{DType, Error, Result};

/// Plans a checked backward with scratch memory from `workspace_base`, a multiple of 256.
///
/// # Errors
/// [`Error::Unsupported`] if a grid would be larger than CUDA allows, or the device too small for a block.
pub fn backward(op: &BackwardSiblings<'_, Raw>, settings: Settings, workspace_base: u64) -> Result<Plan> {
    let Some(dtype) = element_type(op) else {
        return Ok(Plan::default());
    };
    check_rank(op.projections.iter().map(|p| p.adapter.rank()).fold(0, usize::saturating_add))?;
    let mut planner = Planner::new(dtype, settings, workspace_base);
    let rows = op.projections.first().map(|projection| projection.dy.rows());
    if rows == Some(0) {
        zero_gradients(&mut planner, op)?;
        return planner.finish();
    }
    let mask = DropoutMask::from(op.dropout);
    let keep_scale = op.dropout.map_or(1.0, |dropout| dropout.keep_scale());

    // A of all layers serves dX; without dX, S alone needs it.
    let wants_ds = |p: &BackwardProjection<'_, Raw>| op.dx.is_some() || p.da.is_some();
    let lacks_s = |p: &BackwardProjection<'_, Raw>| p.db.is_some() && p.s.is_none();
    let recomputes_s = op.projections.iter().any(lacks_s);
    let with_a: Vec<_> = op.projections.iter().filter(|p| op.dx.is_some() || lacks_s(p)).collect();
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
        let slabs = planner.shrink(x_of(op)?, a, mask)?;
        let destinations: Vec<_> = op
            .projections
            .iter()
            .zip(&s)
            .filter(|(p, _)| op.dx.is_some() || lacks_s(p))
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
        planner.finalize(slabs, &destinations)?;
        planner.workspace.release(mark);
    }

    let ds_ranks = op.projections.iter().filter(|p| wants_ds(p)).map(|p| p.adapter.rank()).sum();
    let ds = planner.matrix(rows.unwrap_or(0), ds_ranks);
    let mut ds_column = 0;
    for (p, &s) in op.projections.iter().zip(&s) {
        let mark = planner.workspace.mark();
        let ds_columns = if wants_ds(p) { p.adapter.rank() } else { 0 };
        let ds_part = View {
            address: ds.address + (ds_column * dtype.size()) as u64,
            columns: ds_columns as i64,
            ..ds
        };
        ds_column += ds_columns;
        from_dy(&mut planner, p, wants_ds(p).then_some(ds_part), s)?;
        planner.workspace.release(mark);
    }

    if op.projections.iter().any(|p| p.da.is_some()) {
        let mark = planner.workspace.mark();
        let slabs = planner.backward_a(x_of(op)?, ds, mask)?;
        let destinations: Vec<_> = op
            .projections
            .iter()
            .filter(|p| wants_ds(p))
            .map(|p| {
                let destination =
                    p.da.as_ref().map(|da| Destination { scale: keep_scale, ..destination(da) });
                (p.adapter.rank(), destination)
            })
            .collect();
        planner.finalize(slabs, &destinations)?;
        planner.workspace.release(mark);
    }

    if let Some(dx) = &op.dx {
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

/// dS, dB and dbias of one layer.
fn from_dy(
    planner: &mut Planner,
    p: &BackwardProjection<'_, Raw>,
    ds: Option<View>,
    s: Option<View>,
) -> Result<()> {
    if ds.is_none() && s.is_none() && p.dbias.is_none() {
        return Ok(());
    }
    let dtype = planner.dtype;
    let rank = p.adapter.rank();
    let b = ds.map(|_| planner.packed(&[p.adapter.b])).transpose()?;
    let wanted = WantedFromDy { ds: b, db: s, dbias: p.dbias.is_some() };
    let slabs = planner.backward_dy(p.dy.into(), rank, wanted)?;
    if let (Some(slabs), Some(view)) = (slabs.ds, ds) {
        let destination = Destination { view, dtype, scale: p.adapter.scale, accumulate: false };
        planner.finalize(slabs, &[(rank, Some(destination))])?;
    }
    if let (Some(slabs), Some(db)) = (slabs.db, &p.db) {
        planner.finalize(slabs, &[(rank, Some(transposed(destination(db))))])?;
    }
    if let (Some(slabs), Some(dbias)) = (slabs.dbias, &p.dbias) {
        planner.finalize(slabs, &[(1, Some(transposed(destination(dbias))))])?;
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
            planner.finalize(slabs, &[(destination.view.columns as usize, Some(destination))])?;
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

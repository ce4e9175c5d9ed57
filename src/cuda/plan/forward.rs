//! Steps of the forward: S for all layers from one read of X, then for each layer either S·B + bias written to Y, to which the
//! library adds X·W; or, where B lies below W, one product of [X S] and [W; B].

use super::frozen::{self, Onto};
use super::joined::{below, beside};
use super::products::{Destination, Epilogue, Part, Planner, Slabs, check_rank, in_order};
use super::{Plan, Settings, route};
use crate::cuda::arguments::products::{DropoutMask, View};
use crate::memory::Raw;
use crate::ops::{ForwardSiblings, Projection};
use crate::{MatrixRef, Result};

/// Plans a checked forward with scratch memory from `workspace_base`, a multiple of 256.
///
/// # Errors
/// [`crate::Error::Unsupported`] if a grid would be larger than CUDA allows, or the device too small for a block.
pub fn forward(op: &ForwardSiblings<'_, Raw>, settings: Settings, workspace_base: u64) -> Result<Plan> {
    if op.x.rows() == 0 || op.projections.is_empty() {
        return Ok(Plan::default());
    }
    check_rank(
        op.projections.iter().map(|projection| projection.adapter.rank()).fold(0, usize::saturating_add),
    )?;
    let new_planner = || Planner::new(op.x.dtype(), settings, workspace_base);
    let apart = apart(op, new_planner())?;
    let Some(weights) = op.projections.iter().map(weight_over_b).collect::<Option<Vec<_>>>() else {
        return Ok(apart);
    };
    Ok(route::better(joined(op, &weights, new_planner())?, apart, op.x.dtype()))
}

/// [W; B] where one product can do all of a layer. A bias takes another pass over Y anyhow.
fn weight_over_b<'a>(projection: &Projection<'a, Raw>) -> Option<MatrixRef<'a, Raw>> {
    below(projection.w, projection.adapter.b).filter(|_| projection.bias.is_none())
}

/// S of each layer, from one read of X and one launch of `finalize`; then S·B + bias, and X·W added to it.
fn apart(op: &ForwardSiblings<'_, Raw>, mut planner: Planner) -> Result<Plan> {
    let s: Vec<View> = op
        .projections
        .iter()
        .map(|projection| match &projection.s {
            Some(s) => s.into(),
            None => planner.matrix(op.x.rows(), projection.adapter.rank()),
        })
        .collect();
    let mark = planner.workspace.mark();
    let slabs = shrink(op, &mut planner, None)?;
    let destinations =
        op.projections.iter().zip(&s).map(|(projection, &view)| {
            (projection.adapter.rank(), Some(destination_of_s(op, projection, view)))
        });
    planner.finalize(slabs, &in_order(destinations))?;

    for (projection, &s) in op.projections.iter().zip(&s) {
        planner.workspace.release(mark);
        let b = planner.expandable(projection.adapter.b)?;
        let epilogue =
            Epilogue { mask: DropoutMask::default(), scale: 1.0, bias: projection.bias, accumulate: false };
        planner.expand(s, b, (&projection.y).into(), epilogue)?;
        frozen::product(&mut planner, op.x, projection.w, projection.y.as_ref(), Onto::C)?;
    }
    planner.finish()
}

/// For each layer S beside X, and one product over K + r. The layers use the same room one after the other.
///
/// The room is the caller's, where the largest S is asked for beside X, or beside a copy of X that is made while X is read.
fn joined(
    op: &ForwardSiblings<'_, Raw>,
    weights: &[MatrixRef<'_, Raw>],
    mut planner: Planner,
) -> Result<Plan> {
    let ranks: Vec<usize> = op.projections.iter().map(|projection| projection.adapter.rank()).collect();
    let largest = ranks.iter().copied().max().unwrap_or(0);
    let room = |projection| room_beside_x(op, projection, largest);
    let owner = op.projections.iter().position(|projection| room(projection).is_some());
    let (x, copy) = match owner.and_then(|owner| room(&op.projections[owner])) {
        Some(x) => (x, None),
        None => {
            let x = planner.with_room(op.x.rows(), op.x.cols(), largest)?;
            (x, Some(x.into()))
        }
    };
    let slabs = shrink(op, &mut planner, copy)?;
    let starts = ranks.iter().scan(0, |next, rank| {
        *next += rank;
        Some(*next - rank)
    });
    let mut layers: Vec<_> = op.projections.iter().zip(weights).zip(starts).enumerate().collect();
    // What stays in the room is the S of its owner.
    layers.sort_by_key(|&(index, _)| owner == Some(index));
    for (index, ((projection, &weight), start)) in layers {
        let rank = projection.adapter.rank();
        let (x_and_s, s) = frozen::extended(x, op.x.cols(), rank)?;
        let saved = projection.s.as_ref().filter(|_| owner != Some(index)).map(View::from);
        let parts: Vec<Part> = [Some(View::from(s)), saved]
            .into_iter()
            .flatten()
            .map(|view| Part {
                first_column: start,
                columns: rank,
                destination: destination_of_s(op, projection, view),
            })
            .collect();
        planner.finalize(slabs, &parts)?;
        frozen::product(&mut planner, x_and_s, weight, projection.y.as_ref(), Onto::Nothing)?;
    }
    planner.finish()
}

/// X with S beside it, where S of the largest rank is asked for there.
fn room_beside_x<'a>(
    op: &'a ForwardSiblings<'_, Raw>,
    projection: &'a Projection<'_, Raw>,
    largest: usize,
) -> Option<MatrixRef<'a, Raw>> {
    let s = projection.s.as_ref().filter(|_| projection.adapter.rank() == largest)?;
    beside(op.x, s.as_ref())
}

/// Partial sums of all S.
fn shrink(op: &ForwardSiblings<'_, Raw>, planner: &mut Planner, copy: Option<View>) -> Result<Slabs> {
    let a = planner.packed(&op.projections.iter().map(|p| p.adapter.a.t()).collect::<Vec<_>>())?;
    planner.shrink(op.x.into(), a, op.dropout.into(), copy)
}

fn destination_of_s(
    op: &ForwardSiblings<'_, Raw>,
    projection: &Projection<'_, Raw>,
    view: View,
) -> Destination {
    let keep_scale = op.dropout.map_or(1.0, |dropout| dropout.keep_scale());
    Destination { view, dtype: op.x.dtype(), scale: projection.adapter.scale * keep_scale, accumulate: false }
}

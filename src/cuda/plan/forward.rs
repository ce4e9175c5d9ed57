//! Steps of the forward: S for all layers from one read of X, then for each layer S·B + bias written to Y, to which
//! the library adds X·W.

use super::frozen::{self, Onto};
use super::products::{Destination, Epilogue, Planner, check_rank};
use super::{Plan, Settings};
use crate::Result;
use crate::cuda::arguments::products::{DropoutMask, View};
use crate::memory::Raw;
use crate::ops::ForwardSiblings;

/// Plans a checked forward with scratch memory from `workspace_base`, a multiple of 256.
///
/// # Errors
/// [`crate::Error::Unsupported`] if a grid would be larger than CUDA allows, or the device too small for a block.
pub fn forward(op: &ForwardSiblings<'_, Raw>, settings: Settings, workspace_base: u64) -> Result<Plan> {
    let dtype = op.x.dtype();
    let mut planner = Planner::new(dtype, settings, workspace_base);
    if op.x.rows() == 0 || op.projections.is_empty() {
        return planner.finish();
    }
    check_rank(
        op.projections.iter().map(|projection| projection.adapter.rank()).fold(0, usize::saturating_add),
    )?;
    let keep_scale = op.dropout.map_or(1.0, |dropout| dropout.keep_scale());

    let s: Vec<View> = op
        .projections
        .iter()
        .map(|projection| match &projection.s {
            Some(s) => s.into(),
            None => planner.matrix(op.x.rows(), projection.adapter.rank()),
        })
        .collect();
    let mark = planner.workspace.mark();
    let a = planner.packed(&op.projections.iter().map(|p| p.adapter.a.t()).collect::<Vec<_>>())?;
    let slabs = planner.shrink(op.x.into(), a, op.dropout.into())?;
    let destinations: Vec<_> = op
        .projections
        .iter()
        .zip(&s)
        .map(|(projection, &view)| {
            let scale = projection.adapter.scale * keep_scale;
            let destination = Destination { view, dtype, scale, accumulate: false };
            (projection.adapter.rank(), Some(destination))
        })
        .collect();
    planner.finalize(slabs, &destinations)?;

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

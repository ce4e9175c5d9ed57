//! Steps of the forward: S for all layers from one read of X, then for each layer S·B + bias written to Y, to which
//! the library adds X·W.

use super::Plan;
use super::products::{Arithmetic, Destination, Epilogue, Planner, check_rank};
use crate::Result;
use crate::cuda::arguments::products::{DropoutMask, View};
use crate::cuda::step::F32Math;
use crate::memory::Raw;
use crate::ops::ForwardSiblings;

/// Plans a checked forward with scratch memory from `workspace_base`, a multiple of 256.
///
/// # Errors
/// [`crate::Error::Unsupported`] if a grid would be larger than CUDA allows.
pub fn forward(op: &ForwardSiblings<'_, Raw>, f32_math: F32Math, workspace_base: u64) -> Result<Plan> {
    let arithmetic = Arithmetic { dtype: op.x.dtype(), f32_math };
    let mut planner = Planner::new(arithmetic, workspace_base);
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
            let destination = Destination { view, dtype: arithmetic.dtype, scale, accumulate: false };
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
        planner.product(op.x, projection.w, projection.y.as_ref(), true)?;
    }
    planner.finish()
}

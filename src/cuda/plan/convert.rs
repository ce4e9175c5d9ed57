//! Steps of a copy between matrices: one launch of the kernel that packs adapters.

use super::products::Planner;
use super::{Plan, Settings};
use crate::Result;
use crate::cuda::arguments::products::View;
use crate::memory::Raw;
use crate::ops::Conversion;

/// Plans a checked copy.
///
/// # Errors
/// [`crate::Error::Unsupported`] if a grid would be larger than CUDA allows.
pub fn convert(op: &Conversion<'_, Raw>, settings: Settings, workspace_base: u64) -> Result<Plan> {
    let (mut source, mut target) = (op.source, View::from(&op.target));
    if target.column_stride != 1 {
        (source, target) = (source.t(), target.t());
    }
    let mut planner = Planner::new(op.target.dtype(), settings, workspace_base);
    if source.rows() > 0 && source.cols() > 0 {
        planner.pack_into(target, &[source])?;
    }
    planner.finish()
}

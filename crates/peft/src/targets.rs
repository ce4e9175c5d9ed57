//! What a configuration would adapt in a checkpoint.

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::config::AdapterConfig;
use crate::matching::{Match, Matcher};
use crate::module::{LayerKind, adaptable_modules, is_output_head};
use crate::naming::Naming;

/// A module that a configuration targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Dotted path in the model.
    pub module: String,
    /// The kind of layer that the module seems to be.
    pub kind: LayerKind,
    /// The rank r.
    pub rank: usize,
    /// The factor s on B·A.
    pub scale: f64,
}

/// Modules by what a configuration says about them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TargetReport {
    /// Those that are adapted.
    pub matched: Vec<Target>,
    /// Those that `exclude_modules` or `modules_to_save` keeps out.
    pub excluded: Vec<String>,
    /// The rest of those that could be adapted.
    pub unmatched: Vec<String>,
}

/// Applies a configuration's patterns to the modules of a checkpoint.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) if a pattern is invalid.
pub fn find_targets(
    config: &AdapterConfig,
    checkpoint: &Checkpoint,
    naming: &Naming,
) -> Result<TargetReport> {
    let matcher = Matcher::new(config)?;
    let mut report = TargetReport::default();
    for (path, kind) in adaptable_modules(checkpoint) {
        let module = naming.to_model(&path);
        let found = match matcher.matches(&module)? {
            Match::Targeted if matcher.is_all_linear() => {
                let linear = matches!(kind, LayerKind::Linear | LayerKind::TransposedLinear);
                if linear && !is_output_head(&module) { Match::Targeted } else { Match::Unmatched }
            }
            found => found,
        };
        match found {
            Match::Targeted => {
                let (rank, scale) = (matcher.rank(&module)?, matcher.scale(&module)?);
                report.matched.push(Target { module, kind, rank, scale });
            }
            Match::Excluded => report.excluded.push(module),
            Match::Unmatched => report.unmatched.push(module),
        }
    }
    Ok(report)
}

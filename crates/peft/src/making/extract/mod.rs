//! An adapter from the difference of two checkpoints.

mod assemble;
mod factors;
mod pairs;
mod plan;
mod whole;

use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use crate::note::Note;
use crate::progress::Progress;
use crate::{Error, Result};
use factors::Factors;
use lora_kernels::DType;
use plan::Plan;

/// How an adapter is extracted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExtractOptions {
    /// The rank of every module that has so many features.
    pub rank: usize,
    /// Element type of A and B.
    pub dtype: DType,
    /// Whether differences that no adapter can have are left out; they are an error otherwise.
    pub skip: bool,
}

impl Default for ExtractOptions {
    /// Rank 16, `f32`, nothing left out.
    fn default() -> Self {
        ExtractOptions { rank: 16, dtype: DType::F32, skip: false }
    }
}

/// What one module's low-rank difference keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtractedModule {
    /// Dotted path of the module, as the adapter names it; a parameter's ends in its own name.
    pub module: String,
    /// The rank it got; of stacked experts that of each.
    pub rank: usize,
    /// ‖tuned − base‖, the Frobenius norm.
    pub norm: f64,
    /// ‖tuned − base − B·A‖ / ‖tuned − base‖ with A and B as they are stored: 0 is perfect, 1 means that nothing was
    /// kept. What is below 1e-8 counts as nothing left.
    pub relative_error: f64,
}

/// An adapter and what there is to say of it.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The adapter.
    pub adapter: Adapter,
    /// What the rank leaves over, by module.
    pub modules: Vec<ExtractedModule>,
    /// What went whole, was left out, or is to be done before the adapter is loaded.
    pub notes: Vec<Note>,
}

/// The adapter whose B·A is the best approximation of `tuned` − `base` in each module, by truncated singular value
/// decomposition, with its s = 1.
///
/// Modules without a difference get no adapter; equal values in another element type are no difference. Modules have the
/// names that the model's class has for them, by transformers' rules for the `model_type`. Stacked experts get factors by
/// `target_parameters`, also where the files keep them apart. Other tensors that changed go along whole: biases by
/// `bias: all`, weights of modules by `modules_to_save`, and what belongs to no module under its own name, in the place of
/// the base's, as PEFT loads it.
///
/// # Errors
/// A difference cannot be had in an adapter and is not to be left out (all are found before anything is decomposed), the
/// checkpoints do not differ, a tensor cannot be computed with, or `progress` was cancelled.
pub fn extract(
    base: &Checkpoint,
    tuned: &Checkpoint,
    options: ExtractOptions,
    progress: &Progress,
) -> Result<Extracted> {
    if options.rank == 0 {
        return Err(Error::config("r", "must be at least 1"));
    }
    // Everything is compared, and what differs is decomposed.
    progress.start(2 * base.tensors().values().map(|info| info.bytes()).sum::<u64>());
    let plan = Plan::new(base, tuned, options.skip, progress)?;
    let mut factors = Factors::new(base, tuned, options);
    for part in &plan.parts {
        progress.check()?;
        factors.decompose(part)?;
        progress.advance(part.bytes(base));
    }
    let Factors { layers, report, .. } = factors;
    if layers.is_empty() && plan.whole.is_empty() {
        let reason = match plan.notes.iter().find(|note| matches!(note, Note::LeftOut { .. })) {
            Some(left_out) => format!("nothing is left that an adapter can have; {left_out}"),
            None => "the two checkpoints do not differ".into(),
        };
        return Err(Error::NoMatch(reason));
    }
    let (adapter, notes) = assemble::assemble(plan, layers, options.rank, base, tuned)?;
    base.check_unchanged()?;
    tuned.check_unchanged()?;
    Ok(Extracted { adapter, modules: report, notes })
}

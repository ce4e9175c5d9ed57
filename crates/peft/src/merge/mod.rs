//! Merging adapters into checkpoints, taking them out, and exchanging them: from one directory into a new one.

mod adapter_files;
mod changes;
mod exchange;
mod plan;
mod record_format;
mod record_writer;
mod records;
mod rewrite;
mod side_files;
mod undo;
mod write;

pub use crate::files::RECORD_DIRECTORY;
pub use adapter_files::{AdapterFileOptions, TokenizerOf};
pub(crate) use changes::{Bound, add_additions, removals};
pub(crate) use exchange::{Exchange, Exchanged, Keep};
pub use record_format::seal;
pub use records::Records;
pub(crate) use undo::Undo;

use crate::Result;
use crate::adapter::Weighted;
use crate::binding::lost_biases;
use crate::checkpoint::{Checkpoint, LayerKind, Outline};
use crate::note::Note;
use crate::update::joined;
use adapter_files::TakenFiles;
use changes::Change;
use lora_kernels::restore::RestoreMethod;
use lora_kernels::{DType, MergeReport, Rounding};
use rewrite::{Changes, Rewrite};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// How a checkpoint is edited.
#[derive(Clone, Copy, Debug, Default)]
pub struct EditOptions {
    /// How changed weights are rounded.
    pub rounding: Rounding,
    /// Whether to measure what rounding lost, module by module.
    pub report: bool,
    /// Whether a merge leaves a record in the new checkpoint that makes taking the adapters out exact. A switch renews
    /// the record it finds. [`RestoreMethod::Codes`] is what is tried first: blocks of a weight that codes would take more
    /// room for than the old weights are kept as those, as are matrices of more than four million weights that are rounded
    /// stochastically.
    pub restore: Option<RestoreMethod>,
    /// Whether the weights of a [dequantised](Checkpoint::dequantized) checkpoint are written in the format that they are
    /// stored in: FP8, the changed ones with new scales.
    pub requantize: bool,
    /// Element type of the new checkpoint; that of the old one if `None`.
    pub dtype: Option<DType>,
}

/// One weight that an edit changed.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedWeight {
    /// Name of the weight.
    pub weight: String,
    /// How the adapters act on it.
    pub kind: LayerKind,
    /// Names of the adapters that were taken out.
    pub removed: Vec<String>,
    /// Names of the adapters that were put in.
    pub added: Vec<String>,
    /// What rounding lost, if that was asked for. Weights restored from a record lose nothing and have no report.
    pub report: Option<MergeReport>,
}

/// A changed weight that was quantised again.
#[derive(Clone, Debug, PartialEq)]
pub struct RequantizedWeight {
    /// Name of the weight.
    pub weight: String,
    /// Largest difference from the merged weight.
    pub max_error: f32,
    /// Root mean square of the differences.
    pub rms_error: f32,
    /// Root mean square of the merged weight.
    pub rms: f32,
}

/// What an edit did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The weights that adapters changed, in the order of writing.
    pub weights: Vec<ChangedWeight>,
    /// Tensors replaced by the adapters' own: biases, saved modules, embeddings.
    pub replaced: Vec<String>,
    /// Tensors that the old checkpoint does not have: untied embeddings and new heads.
    pub new_tensors: Vec<String>,
    /// What quantising the changed weights again lost.
    pub requantized: Vec<RequantizedWeight>,
    /// Bytes of tensors written.
    pub bytes: u64,
    /// What lies beside the old checkpoint and was not copied, because it is no plain file or of no known kind.
    pub not_copied: Vec<String>,
    /// What the user should know, first what was known before writing.
    pub notes: Vec<Note>,
}

/// A planned edit of a checkpoint: everything is checked, nothing has been written.
#[derive(Debug)]
pub struct Edit<'a> {
    checkpoint: &'a Checkpoint,
    options: EditOptions,
    records: Option<Records>,
    remove: Vec<Bound<'a>>,
    add: Vec<Bound<'a>>,
    changes: BTreeMap<String, Change>,
    new_tensors: Vec<Outline>,
    dropped: BTreeSet<String>,
    /// Tensors of the checkpoint that get another shape.
    resized: BTreeMap<String, Vec<usize>>,
    model_config: Option<Map<String, Value>>,
    /// What is to be said of the new `config.json`.
    config_notes: Vec<Note>,
    taken_files: TakenFiles,
}

impl<'a> Edit<'a> {
    /// Puts adapters into a base checkpoint. Several adapters on one weight are summed before the one rounding.
    ///
    /// # Errors
    /// An adapter does not fit the checkpoint, or two adapters do not go together.
    pub fn merge(
        checkpoint: &'a Checkpoint,
        adapters: &[Weighted<'a>],
        options: EditOptions,
    ) -> Result<Self> {
        Self::plan(checkpoint, &[], adapters, options, None)
    }

    /// Takes adapters out of a merged checkpoint, in the order and with the weights that they were merged in. Exact with
    /// the merge's record, and otherwise as close as rounding allows: see [`is_exact`](Self::is_exact).
    ///
    /// # Errors
    /// An adapter does not fit the checkpoint, the record is of other adapters, or what an adapter replaced (DoRA,
    /// biases, saved modules) cannot be known without a record.
    pub fn unmerge(
        checkpoint: &'a Checkpoint,
        adapters: &[Weighted<'a>],
        options: EditOptions,
    ) -> Result<Self> {
        let records = Records::open(checkpoint)?;
        Self::plan(checkpoint, adapters, &[], options, records)
    }

    /// Exchanges the adapters of a merged checkpoint in one pass.
    ///
    /// # Errors
    /// As [`merge`](Self::merge) and [`unmerge`](Self::unmerge).
    pub fn switch(
        checkpoint: &'a Checkpoint,
        from: &[Weighted<'a>],
        to: &[Weighted<'a>],
        options: EditOptions,
    ) -> Result<Self> {
        let records = Records::open(checkpoint)?;
        let restore = records.as_ref().map(|records| options.restore.unwrap_or(records.method()));
        Self::plan(checkpoint, from, to, EditOptions { restore, ..options }, records)
    }

    /// Whether the adapters that are taken out will leave exactly the base weights: there is a record, and
    /// [`write`](Self::write) compares every tensor with its checksum before the new checkpoint appears. Merging takes nothing
    /// out and is always exact in this sense.
    pub fn is_exact(&self) -> bool {
        self.remove.is_empty() || self.records.is_some()
    }

    /// What the user should know before anything is written. The [`Summary`] has these too.
    pub fn notes(&self) -> Vec<Note> {
        let lost = |bound: &Bound<'a>| {
            let biases: Vec<&str> = lost_biases(&bound.adapter, &bound.binding).collect();
            let first = (*biases.first()?).to_owned();
            Some(Note::LostBiases { adapter: bound.weighted.name.clone(), count: biases.len(), first })
        };
        let dead = self.add.iter().filter(|bound| bound.changes_nothing());
        let dead = dead.map(|bound| Note::NothingChanges { adapter: bound.weighted.name.clone() });
        let of_edit = self.add.iter().filter_map(lost).chain(dead).chain(self.config_notes.iter().cloned());
        let bounds = self.remove.iter().chain(&self.add);
        let of_adapters = bounds.flat_map(|bound| bound.adapter.notes.iter().chain(&bound.binding.notes));
        let mut notes: Vec<Note> = Vec::new();
        let of_inputs = self.checkpoint.notes().iter().chain(of_adapters).cloned();
        for note in of_inputs.chain(of_edit) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    /// Names of the tensors that will change.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        self.changes.keys().map(String::as_str)
    }

    /// Bytes of tensors that will be written.
    pub fn bytes(&self) -> u64 {
        self.rewrite().bytes()
    }

    fn rewrite(&self) -> Rewrite<'a> {
        let new: BTreeSet<&String> = self.new_tensors.iter().map(|outline| &outline.name).collect();
        let changes = Changes {
            computed: self.changes.keys().filter(|name| !new.contains(name)).cloned().collect(),
            added: self.new_tensors.clone(),
            removed: self.dropped.clone(),
            resized: self.resized.clone(),
            requantize: self.options.requantize,
            dtype: self.options.dtype,
        };
        let mut rewrite = Rewrite::new(self.checkpoint, &changes);
        rewrite.model_config = self.model_config.clone();
        rewrite.taken_files = self.taken_files.clone();
        rewrite
    }
}

impl Summary {
    /// All reports together; `None` if there are none.
    pub fn total(&self) -> Option<MergeReport> {
        self.weights.iter().filter_map(|weight| weight.report).reduce(|one, two| joined(&one, &two))
    }
}

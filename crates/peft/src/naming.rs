//! Adapters name modules as the class they were trained with; checkpoints may have been saved with another class, whose
//! names have one more or one less component in front (`model.layers.0` and `layers.0`).

use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use std::collections::BTreeSet;

/// How a model's names become those of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Naming {
    /// They are the same.
    #[default]
    Same,
    /// The model's names have this component in front, the checkpoint's do not.
    ModelHasPrefix(String),
    /// The checkpoint's names have this component in front, the model's do not.
    CheckpointHasPrefix(String),
}

impl Naming {
    /// The naming under which most layers of an adapter are found.
    pub fn find(adapter: &Adapter, checkpoint: &Checkpoint) -> Self {
        let first = |name: &String| name.split_once('.').map(|(first, _)| first.to_owned());
        let mut candidates = vec![Naming::Same];
        let model: BTreeSet<String> = adapter.layers.keys().filter_map(first).collect();
        candidates.extend(model.into_iter().map(Naming::ModelHasPrefix));
        let file: BTreeSet<String> = checkpoint.tensors().keys().filter_map(first).collect();
        candidates.extend(file.into_iter().map(Naming::CheckpointHasPrefix));
        let found = |naming: &Naming| {
            let is_found = |path: &&String| {
                let path = path.trim_end_matches(".base_layer");
                let file = naming.to_file(&format!("{path}.weight"), checkpoint);
                let inside = format!("{}.", file.trim_end_matches(".weight"));
                checkpoint
                    .tensors()
                    .range(inside.clone()..)
                    .next()
                    .is_some_and(|(name, _)| name.starts_with(&inside))
            };
            adapter.layers.keys().filter(is_found).count()
        };
        let mut best = (Naming::Same, 0);
        for naming in candidates {
            let count = found(&naming);
            if count > best.1 {
                best = (naming, count);
            }
        }
        best.0
    }

    /// The checkpoint's name of what the model calls `name`.
    pub fn to_file(&self, name: &str, checkpoint: &Checkpoint) -> String {
        match self {
            Naming::Same => name.to_owned(),
            Naming::ModelHasPrefix(prefix) => {
                let inner = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('.'));
                inner.unwrap_or(name).to_owned()
            }
            Naming::CheckpointHasPrefix(prefix) => {
                // Heads stand beside the prefixed part.
                if checkpoint.tensors().contains_key(name) {
                    name.to_owned()
                } else {
                    format!("{prefix}.{name}")
                }
            }
        }
    }

    /// The model's name of what the checkpoint calls `name`.
    pub fn to_model(&self, name: &str) -> String {
        match self {
            Naming::Same => name.to_owned(),
            Naming::ModelHasPrefix(prefix) => format!("{prefix}.{name}"),
            Naming::CheckpointHasPrefix(prefix) => {
                let inner = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('.'));
                inner.unwrap_or(name).to_owned()
            }
        }
    }
}

//! What files call the experts that are one parameter in memory, as transformers 5.24 has it.

use super::naming::Naming;
use crate::checkpoint::Checkpoint;
use crate::families::{self, Experts};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How models of a type name the experts in their files.
pub(crate) struct ExpertNames(Experts);

/// What to say of experts that are apart in the files where a stacked parameter was sought; empty if they are not.
pub(super) fn hint(checkpoint: &Checkpoint) -> String {
    let Some(name) = checkpoint.tensors().keys().find(|name| name.contains(".experts.0.")) else {
        return String::new();
    };
    match ExpertNames::of(checkpoint) {
        Some(_) => format!(
            "; it keeps the experts apart (`{name}`), and so a new adapter names them in `target_modules`"
        ),
        None => {
            let model_type = checkpoint.model_config().get("model_type").unwrap_or(&Value::Null);
            format!(
                "; it keeps the experts apart (`{name}`), and how models of type {model_type} stack them is not known"
            )
        }
    }
}

impl ExpertNames {
    /// Those of a checkpoint's model; `None` if its type is not known to keep experts apart.
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        families::experts(checkpoint.model_config()).map(ExpertNames)
    }

    /// The stacked parameters in the order of their definition, and the matrices that each consists of.
    pub fn parameters(&self) -> &[(String, Vec<String>)] {
        &self.0.parameters
    }

    /// The matrices of an expert.
    pub fn all_matrices(&self) -> impl Iterator<Item = &str> {
        self.0.parameters.iter().flat_map(|(_, matrices)| matrices).map(String::as_str)
    }

    /// Modules with experts, under their names in the file, and how many experts each has.
    pub fn find(&self, checkpoint: &Checkpoint, naming: &Naming) -> Result<BTreeMap<String, usize>> {
        let mut found: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        let last = self.all_matrices().last().unwrap_or_default();
        let ending = format!(".{last}.weight");
        for name in checkpoint.tensors().keys() {
            let name = naming.to_model(name);
            let expert = name.strip_suffix(&ending).and_then(|path| path.rsplit_once('.'));
            if let Some((module, index)) = expert
                && module.ends_with(".experts")
                && let Ok(index) = index.parse()
            {
                found.entry(module.to_owned()).or_default().insert(index);
            }
        }
        let count =
            |(module, indices): (String, BTreeSet<usize>)| match (0..).zip(&indices).find(|(i, j)| i != *j) {
                Some((missing, _)) => Err(Error::tensor(
                    format!("{module}.{missing}{ending}"),
                    "missing between the other experts",
                )),
                None => Ok((module, indices.len())),
            };
        found.into_iter().map(count).collect()
    }

    /// Whether the module around the experts has another name in the files than in memory.
    pub fn renames_block(&self) -> bool {
        !self.0.block.is_empty()
    }

    /// The name in memory of what the files call `name`.
    pub fn in_memory(&self, name: &str) -> String {
        self.0.block.iter().fold(name.to_owned(), |name, (file, memory)| name.replacen(file, memory, 1))
    }
}

//! Files and model classes that call tensors by other names than one component in front: by transformers' own rules.

use crate::checkpoint::Checkpoint;
use crate::families::class_facts::ClassFacts;
use std::collections::BTreeMap;

/// What the class that `config.json` names calls the tensors of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    to_class: BTreeMap<String, String>,
    to_file: BTreeMap<String, String>,
}

impl ClassNames {
    /// `None` if the class is not known, or calls everything as the files do.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let facts = ClassFacts::of(checkpoint.model_config())?;
        let to_class: BTreeMap<String, String> = facts
            .class_names(checkpoint.tensors().keys())
            .into_iter()
            .filter(|(file, class)| *file != class)
            .map(|(file, class)| (file.clone(), class))
            .collect();
        let to_file: BTreeMap<String, String> =
            to_class.iter().map(|(file, class)| (class.clone(), file.clone())).collect();
        // Two tensors of one name, or one that takes another's: not a file for this class.
        let is_clear = to_file.len() == to_class.len()
            && to_file
                .keys()
                .all(|class| !checkpoint.tensors().contains_key(class) || to_class.contains_key(class));
        (is_clear && !to_class.is_empty()).then_some(ClassNames { to_class, to_file })
    }

    /// The class's name of a tensor or module that the file calls `name`.
    pub(crate) fn to_class(&self, name: &str) -> String {
        renamed(&self.to_class, name)
    }

    /// The file's name of a tensor or module that the class calls `name`.
    pub(crate) fn to_file(&self, name: &str) -> String {
        renamed(&self.to_file, name)
    }
}

fn renamed(names: &BTreeMap<String, String>, name: &str) -> String {
    if let Some(new) = names.get(name) {
        return new.clone();
    }
    // A module is called as its tensors are.
    let inside = format!("{name}.");
    let first = names.range(inside.clone()..).next().filter(|(old, _)| old.starts_with(&inside));
    let new = first.and_then(|(old, new)| new.strip_suffix(&old[name.len()..]));
    new.unwrap_or(name).to_owned()
}

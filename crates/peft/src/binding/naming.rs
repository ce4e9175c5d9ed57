//! Adapters name modules as the class they were trained with; checkpoints may have been saved with another class, whose
//! names have one more or one less component in front (`model.layers.0` and `layers.0`), or with the names of an older one,
//! which transformers renames when it loads them.

use super::class_names::ClassNames;
use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use crate::families::{Renaming, Step, renamed, renamings};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

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
    /// The names differ as those of the model's class and of its files do.
    Class(Arc<ClassNames>),
    /// Each has names of its own.
    Renamed(Arc<RenamedTensors>),
}

/// The tensors of a checkpoint by their names in the file and in the model.
#[derive(Debug)]
pub struct RenamedTensors {
    to_model: HashMap<String, String>,
    to_file: HashMap<String, String>,
    /// What makes a file's name of the model's name of a tensor that the checkpoint does not have.
    inverse: Vec<Step>,
    prefix: Naming,
}

impl PartialEq for RenamedTensors {
    fn eq(&self, other: &Self) -> bool {
        self.to_model == other.to_model
    }
}

impl Eq for RenamedTensors {}

impl Naming {
    /// The naming under which most layers of an adapter are found.
    pub fn find(adapter: &Adapter, checkpoint: &Checkpoint) -> Self {
        let layers = adapter.layers.keys().map(String::as_str).collect();
        let names = checkpoint.tensors().keys().map(String::as_str).collect();
        let (prefix, found) = most_found(&layers, &names);
        let best = match found == layers.len() as i64 {
            true => prefix,
            false => renamed_most_found(&layers, checkpoint, found).unwrap_or(prefix),
        };
        let count = |naming: &Naming| {
            let layers = adapter
                .layers
                .keys()
                .map(|layer| format!("{}.weight", layer.trim_end_matches(".base_layer")));
            let layers = layers.filter(|weight| has_tensors(&names, &naming.to_file(weight, checkpoint)));
            let replaced =
                adapter.replaced.keys().filter(|name| names.contains(&*naming.to_file(name, checkpoint)));
            layers.count() + replaced.count()
        };
        let all = adapter.layers.len() + adapter.replaced.len();
        let best_found = count(&best);
        if best_found == all {
            return best;
        }
        match ClassNames::of(checkpoint).map(|names| Naming::Class(Arc::new(names))) {
            Some(class) if count(&class) > best_found => class,
            _ => best,
        }
    }

    /// The checkpoint's name of what the model calls `name`.
    pub fn to_file(&self, name: &str, checkpoint: &Checkpoint) -> String {
        let renamed = self.renamed(name, checkpoint);
        let has = |name: &str| checkpoint.tensors().contains_key(name);
        let old = FIRST_LAYER_NORMS
            .iter()
            .find_map(|(old, new)| Some(format!("{}{old}", renamed.strip_suffix(new)?)));
        old.filter(|old| !has(&renamed) && has(old)).unwrap_or(renamed)
    }

    fn renamed(&self, name: &str, checkpoint: &Checkpoint) -> String {
        match self {
            Naming::Same => name.to_owned(),
            Naming::Class(names) => names.to_file(name),
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
            Naming::Renamed(renaming) => match renaming.to_file.get(name) {
                Some(file) => file.clone(),
                None => {
                    let inner = renaming.prefix.to_file(name, checkpoint);
                    renamed(&renaming.inverse, vec![inner]).swap_remove(0)
                }
            },
        }
    }

    /// The model's name of a tensor that the checkpoint calls `name`.
    pub fn to_model(&self, name: &str) -> String {
        if let Naming::Renamed(renaming) = self
            && let Some(model) = renaming.to_model.get(name)
        {
            return model.clone();
        }
        let new =
            FIRST_LAYER_NORMS.iter().find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)));
        let name = new.as_deref().unwrap_or(name);
        match self {
            Naming::Same => name.to_owned(),
            Naming::Class(names) => names.to_class(name),
            Naming::ModelHasPrefix(prefix) => format!("{prefix}.{name}"),
            Naming::CheckpointHasPrefix(prefix) => {
                let inner = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('.'));
                inner.unwrap_or(name).to_owned()
            }
            Naming::Renamed(_) => name.to_owned(),
        }
    }

    /// The model's name of the module whose weight the checkpoint calls `path.weight`; `None` if that is a parameter of another
    /// name in the model.
    pub fn module_to_model(&self, path: &str) -> Option<String> {
        match self {
            Naming::Renamed(renaming) => {
                let weight = renaming.to_model.get(&format!("{path}.weight"))?;
                Some(weight.strip_suffix(".weight")?.to_owned())
            }
            _ => Some(self.to_model(path)),
        }
    }
}

/// What the first BERT files, converted from TensorFlow, call the parameters of layer norms, and what models do; transformers
/// renames them when it loads a file.
const FIRST_LAYER_NORMS: [(&str, &str); 2] =
    [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

/// The language model inside of one that has other parts too, as a class of its own: `model.language_model.layers` in the one,
/// `model.layers` in the other.
const INNER: (&str, &str) = (r"^model\.language_model\.", "model.");
const OUTER: (&str, &str) = (r"^model\.(?!language_model\.)", "model.language_model.");

/// The renaming under which more than `found` layers have tensors, if there is one: those of the model's type, either way round,
/// and the language model as a part or by itself.
fn renamed_most_found(layers: &BTreeSet<&str>, checkpoint: &Checkpoint, found: i64) -> Option<Naming> {
    let files: Vec<String> = checkpoint.tensors().keys().cloned().collect();
    let step = |(pattern, replacement): (&str, &str)| Step::new(pattern, replacement);
    // Steps from the file's names to the model's, and back.
    let mut ways: Vec<(Vec<Step>, Vec<Step>)> = Vec::new();
    for Renaming { steps, back } in renamings(checkpoint.model_config()) {
        ways.push((steps.clone(), back.clone()));
        ways.push((back.clone(), steps.clone()));
        let inner = steps.iter().cloned().chain([step(INNER)]).collect();
        ways.push((inner, [step(OUTER)].into_iter().chain(back).collect()));
    }
    if files.iter().any(|name| name.starts_with("model.language_model.")) {
        ways.push((vec![step(INNER)], vec![step(OUTER)]));
    }
    if layers.iter().any(|layer| layer.starts_with("model.language_model.")) {
        ways.push((vec![step(OUTER)], vec![step(INNER)]));
    }
    let mut best = (found, None);
    for (steps, inverse) in ways {
        let names = renamed(&steps, files.clone());
        let (prefix, found) = {
            let set: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            // Two tensors of one name would be one too few.
            if set.len() < files.len() {
                continue;
            }
            most_found(layers, &set)
        };
        if found > best.0 {
            best = (found, Some((names, prefix, inverse)));
        }
    }
    let (names, prefix, inverse) = best.1?;
    let to_model: HashMap<String, String> =
        files.into_iter().zip(names).map(|(file, name)| (file, prefix.to_model(&name))).collect();
    let to_file: HashMap<String, String> =
        to_model.iter().map(|(file, name)| (name.clone(), file.clone())).collect();
    (to_file.len() == to_model.len())
        .then(|| Naming::Renamed(Arc::new(RenamedTensors { to_model, to_file, inverse, prefix })))
}

/// The naming under which most of an adapter's layers have tensors among `names`, and how many have; of equals the first,
/// prefixes of the model before those of the checkpoint.
///
/// Every layer and every tensor is looked at a few times, however many prefixes there are.
fn most_found<'a>(layers: &BTreeSet<&'a str>, names: &BTreeSet<&'a str>) -> (Naming, i64) {
    let mut unchanged = 0;
    let mut with_weight = 0;
    // How many more are found without the prefix than with it.
    let mut gained: BTreeMap<&str, i64> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for layer in layers {
        let weight = format!("{}.weight", layer.trim_end_matches(".base_layer"));
        let found = i64::from(has_tensors(names, &weight));
        unchanged += found;
        let prefix = layer.split('.').next().unwrap_or_default();
        if let Some((_, inner)) = weight.split_once('.') {
            *gained.entry(prefix).or_default() += i64::from(has_tensors(names, inner)) - found;
        }
        // Heads stand beside the prefixed part.
        if names.contains(weight.as_str()) {
            with_weight += 1;
        } else {
            elsewhere.push(format!("{}.", format!(".{weight}").trim_end_matches(".weight")));
        }
    }
    // A layer that is nothing but its first component has nothing in front.
    let prefixes: BTreeSet<&str> = layers.iter().filter_map(|layer| Some(layer.split_once('.')?.0)).collect();
    let of_model = prefixes.into_iter().map(|prefix| {
        (
            Naming::ModelHasPrefix(prefix.to_owned()),
            unchanged + gained.get(prefix).copied().unwrap_or_default(),
        )
    });
    let of_checkpoint = found_behind_prefixes(&elsewhere, names)
        .into_iter()
        .map(|(prefix, found)| (Naming::CheckpointHasPrefix(prefix.to_owned()), with_weight + found));
    let mut best = (Naming::Same, unchanged);
    for (naming, found) in of_model.chain(of_checkpoint) {
        if found > best.1 {
            best = (naming, found);
        }
    }
    best
}

/// Whether a module has tensors, a weight or others.
fn has_tensors(names: &BTreeSet<&str>, weight: &str) -> bool {
    let inside = format!("{}.", weight.trim_end_matches(".weight"));
    names.range(inside.as_str()..).next().is_some_and(|name| name.starts_with(&inside))
}

/// For every first component of a name: how many of the `beginnings` the rests of names behind it have.
fn found_behind_prefixes<'a>(beginnings: &[String], names: &BTreeSet<&'a str>) -> BTreeMap<&'a str, i64> {
    let parts = names.iter().filter_map(|name| Some(name.split_at(name.find('.')?)));
    let mut found: BTreeMap<&str, i64> = parts.clone().map(|(prefix, _)| (prefix, 0)).collect();
    if beginnings.is_empty() {
        return found;
    }
    let mut rests: Vec<(&str, &str)> = parts.map(|(prefix, rest)| (rest, prefix)).collect();
    rests.sort_unstable();
    for beginning in beginnings {
        let start = rests.partition_point(|(rest, _)| *rest < beginning.as_str());
        let here = rests[start..].iter().take_while(|(rest, _)| rest.starts_with(beginning.as_str()));
        for prefix in here.map(|(_, prefix)| *prefix).collect::<BTreeSet<_>>() {
            *found.entry(prefix).or_default() += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: every prefix is tried with every layer.
    fn tried_one_by_one(layers: &BTreeSet<&str>, names: &BTreeSet<&str>) -> Naming {
        let first = |name: &&str| name.split_once('.').map(|(first, _)| first.to_owned());
        let mut candidates = vec![Naming::Same];
        let model: BTreeSet<String> = layers.iter().filter_map(first).collect();
        candidates.extend(model.into_iter().map(Naming::ModelHasPrefix));
        let file: BTreeSet<String> = names.iter().filter_map(first).collect();
        candidates.extend(file.into_iter().map(Naming::CheckpointHasPrefix));
        let mut best = (Naming::Same, 0);
        for naming in candidates {
            let is_found = |layer: &&&str| {
                let weight = format!("{}.weight", layer.trim_end_matches(".base_layer"));
                let file = match &naming {
                    Naming::CheckpointHasPrefix(prefix) if !names.contains(weight.as_str()) => {
                        format!("{prefix}.{weight}")
                    }
                    Naming::ModelHasPrefix(prefix) => {
                        weight.strip_prefix(&format!("{prefix}.")).unwrap_or(&weight).to_owned()
                    }
                    _ => weight,
                };
                let inside = format!("{}.", file.trim_end_matches(".weight"));
                names.iter().any(|name| name.starts_with(&inside))
            };
            let count = layers.iter().filter(is_found).count();
            if count > best.1 {
                best = (naming, count);
            }
        }
        best.0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_naming_is_that_of_trying_all_prefixes(
            layers in prop::collection::btree_set("(model|a|weight|)(\\.(model|a|b|weight|base_layer)){0,3}", 0..8),
            names in prop::collection::btree_set("(model|a|b|weight|)(\\.(model|a|b|weight|bias)){0,4}", 0..12),
        ) {
            let layers: BTreeSet<&str> = layers.iter().map(String::as_str).collect();
            let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            prop_assert_eq!(most_found(&layers, &names).0, tried_one_by_one(&layers, &names));
        }
    }

    /// Trying each of the 100,000 prefixes with each of the layers would not come to an end.
    #[test]
    fn as_many_prefixes_as_layers_are_no_burden() {
        let layers: Vec<String> = (0..50_000).map(|i| format!("m{i}.q")).collect();
        let names: Vec<String> = (0..50_000).map(|i| format!("c{i}.m{i}.q.weight")).collect();
        let (naming, _) = most_found(
            &layers.iter().map(String::as_str).collect(),
            &names.iter().map(String::as_str).collect(),
        );
        assert_eq!(naming, Naming::CheckpointHasPrefix("c0".into()));
    }
}

//! Parts of a checkpoint that an adapter lacks wholly: modules that are in the file and not in the class that it was trained
//! with, for which PEFT made no layers.

use crate::adapter::{Adapter, without_base_layer};
use crate::checkpoint::{Checkpoint, Unbuilt};
use crate::note::Note;
use std::collections::{BTreeMap, BTreeSet};

/// What an adapter has something for, and what was found without.
pub(super) struct Absent {
    /// Paths of modules that have a layer or a replaced tensor.
    present: BTreeSet<String>,
    unbuilt: Unbuilt,
    /// Whether some of them are in numbered layers.
    has_layers: bool,
    /// Whether some of them are what the class is said not to have.
    has_passed_over: bool,
    found: BTreeMap<String, usize>,
}

impl Absent {
    pub fn of(adapter: &Adapter, checkpoint: &Checkpoint) -> Self {
        let layers = adapter.layers.keys().map(|key| without_base_layer(key));
        let replaced =
            adapter.replaced.keys().map(|name| name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path));
        let present: BTreeSet<String> = layers.chain(replaced).map(str::to_owned).collect();
        let unbuilt = Unbuilt::of(checkpoint.model_config());
        Absent {
            has_layers: present.iter().any(|path| path.split('.').any(is_number)),
            has_passed_over: present.iter().any(|path| unbuilt.is_passed_over(path)),
            present,
            unbuilt,
            found: BTreeMap::new(),
        }
    }

    /// Whether a module that the configuration means is of a part that the adapter lacks wholly, so that it is not missing.
    pub fn covers(&mut self, module: &str) -> bool {
        let Some(part) = self.part(module).map(str::to_owned) else { return false };
        *self.found.entry(part).or_default() += 1;
        true
    }

    /// The largest part with this module for which the adapter has nothing, if that is a part of the model that its class may
    /// lack: neither the module alone, nor something inside of a numbered layer, nor one of the layers that the class has.
    fn part<'m>(&self, module: &'m str) -> Option<&'m str> {
        let ends = module.match_indices('.').map(|(dot, _)| dot).chain([module.len()]);
        let part = ends.map(|end| &module[..end]).find(|part| !self.has_below(part))?;
        if !self.has_passed_over && self.unbuilt.is_passed_over(module) {
            return Some(part);
        }
        let (parent, last) = part.rsplit_once('.').unwrap_or(("", part));
        let is_whole = part != module && !parent.split('.').any(is_number) && self.has_layers;
        (is_whole && (!is_number(last) || self.unbuilt.is_beyond(part))).then_some(part)
    }

    fn has_below(&self, part: &str) -> bool {
        let inside = format!("{part}.");
        self.present.contains(part)
            || self.present.range(inside.clone()..).next().is_some_and(|path| path.starts_with(&inside))
    }

    /// What was found, for the user.
    pub fn note(&self) -> Option<Note> {
        (!self.found.is_empty()).then(|| Note::AbsentSubtrees {
            subtrees: self.found.keys().cloned().collect(),
            targets: self.found.values().sum(),
        })
    }
}

fn is_number(component: &str) -> bool {
    !component.is_empty() && component.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn absent(present: &[&str]) -> Absent {
        let config = json!({ "model_type": "llama", "num_hidden_layers": 2 });
        let present: BTreeSet<String> = present.iter().map(|path| (*path).to_owned()).collect();
        Absent {
            has_layers: present.iter().any(|path| path.split('.').any(is_number)),
            has_passed_over: false,
            present,
            unbuilt: Unbuilt::of(config.as_object().unwrap()),
            found: BTreeMap::new(),
        }
    }

    #[test]
    fn whole_parts_are_told_from_what_is_missing() {
        let both = ["model.layers.0.attn.q", "model.layers.0.mlp.up", "model.layers.1.attn.q"];
        // Present, module, part.
        let cases: [(&[&str], &str, Option<&str>); 13] = [
            (&both, "mtp.layers.0.attn.q", Some("mtp")),
            (&both, "mtp.fc", Some("mtp")),
            (&both, "model.layers.2.eh_proj", Some("model.layers.2")),
            (&both, "model.vision_tower.layers.0.attn.q", Some("model.vision_tower")),
            (&both, "pooler.dense", Some("pooler")),
            // A module alone, or inside of a layer.
            (&both, "lm_head", None),
            (&both, "model.embed", None),
            (&both, "model.layers.1.attn.k", None),
            (&both, "model.layers.1.mlp.up", None),
            // A layer that the class has.
            (&both[..1], "model.layers.1.attn.q", None),
            (&["mtp.layers.0.attn.q"], "mtp.layers.0.attn.k", None),
            (&["model.layers.0.q", "model.vision.layers.0.q"], "model.vision.layers.1.q", None),
            // The head's adapter alone does not make the model a part.
            (&["lm_head"], "model.layers.0.attn.q", None),
        ];
        for (present, module, part) in cases {
            assert_eq!(absent(present).part(module), part, "{module}");
        }
    }

    #[test]
    fn what_was_found_is_counted() {
        let mut absent = absent(&["model.layers.0.q"]);
        assert!(absent.note().is_none());
        assert!(
            absent.covers("mtp.a")
                && absent.covers("mtp.b")
                && absent.covers("visual.a.b")
                && !absent.covers("c")
        );
        let note = absent.note().unwrap();
        assert_eq!(note, Note::AbsentSubtrees { subtrees: vec!["mtp".into(), "visual".into()], targets: 3 });
        assert!(note.to_string().contains("`mtp`, `visual`") && note.to_string().contains("3 modules"));
    }
}

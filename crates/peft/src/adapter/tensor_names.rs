//! Names of an adapter's tensors as they are in memory, where the adapter's own name and wrappers are a part of them.

use crate::checkpoint::wrapped;
use crate::files::WEIGHTS_FILE;
use crate::note::Note;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

/// What adapters are called that have no name.
const DEFAULT: &str = "default";

/// Takes out of names what PEFT leaves out of them when it saves an adapter.
pub(super) struct TensorNames {
    parts: BTreeSet<&'static str>,
    has_module: bool,
    name: Option<String>,
}

impl TensorNames {
    /// Looks through all names of a file.
    ///
    /// # Errors
    /// There are tensors of several adapters.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self> {
        let (mut parts, mut has_module) = (BTreeSet::new(), false);
        let mut adapters: BTreeSet<String> = BTreeSet::new();
        for name in names {
            let name = unwrapped(name, &mut parts, &mut has_module);
            let components: Vec<&str> = name.split('.').collect();
            adapters.extend(place_of_name(&components).map(|place| components[place].to_owned()));
            if components.windows(2).any(|pair| pair == ["modules_to_save", DEFAULT]) {
                adapters.insert(DEFAULT.to_owned());
            }
        }
        let mut adapters = adapters.into_iter();
        match (adapters.next(), adapters.next()) {
            (Some(one), Some(two)) => Err(Error::malformed(
                Path::new(WEIGHTS_FILE),
                format!(
                    "holds tensors of several adapters, `{one}` and `{two}`; save them one by one with `save_pretrained`"
                ),
            )),
            (name, _) => Ok(TensorNames { parts, has_module, name }),
        }
    }

    /// A name as PEFT saves it.
    pub fn clean<'a>(&mut self, name: &'a str) -> Cow<'a, str> {
        let name = unwrapped(name, &mut self.parts, &mut self.has_module);
        let Some(adapter) = &self.name else { return name };
        let mut components: Vec<&str> = name.split('.').collect();
        let saved = components.windows(2).position(|pair| pair == ["modules_to_save", adapter.as_str()]);
        match place_of_name(&components).or(saved.map(|place| place + 1)) {
            Some(place) => {
                components.remove(place);
                Cow::Owned(components.join("."))
            }
            None => name,
        }
    }

    /// The adapter's name, if it is a part of the names.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub fn notes(&self) -> Vec<Note> {
        let mut notes = wrapped::notes(&self.parts);
        if self.has_module {
            notes.push(Note::Wrapped { part: wrapped::MODULE.into(), by: "DDP".into() });
        }
        notes.extend(self.name.clone().map(|name| Note::AdapterName { name }));
        notes
    }
}

fn unwrapped<'a>(name: &'a str, parts: &mut BTreeSet<&'static str>, has_module: &mut bool) -> Cow<'a, str> {
    let name = wrapped::without_components(name, parts);
    match name.strip_prefix(wrapped::MODULE) {
        Some(inner) if inner.starts_with("base_model.") => {
            *has_module = true;
            Cow::Owned(inner.to_owned())
        }
        _ => name,
    }
}

/// Where an adapter's name stands in the name of a tensor of its layer: `….lora_A.NAME.weight`, `….lora_embedding_A.NAME`.
fn place_of_name(components: &[&str]) -> Option<usize> {
    let count = components.len();
    let from_the_end = |back: usize| count.checked_sub(back).map(|place| components[place]);
    match (from_the_end(3), from_the_end(2), from_the_end(1)) {
        (Some("lora_A" | "lora_B"), _, Some("weight" | "bias"))
        | (Some("lora_magnitude_vector"), _, Some("weight")) => Some(count - 2),
        (_, Some("lora_embedding_A" | "lora_embedding_B"), Some(_)) => Some(count - 1),
        (_, Some("lora_magnitude_vector"), Some(last)) if last != "weight" => Some(count - 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(names: &[&str]) -> (Vec<String>, usize) {
        let mut clean = TensorNames::of(names.iter().copied()).unwrap();
        let cleaned = names.iter().map(|name| clean.clean(name).into_owned()).collect();
        (cleaned, clean.notes().len())
    }

    #[test]
    fn names_of_adapters_are_left_out() {
        let names = [
            "base_model.model.q.lora_A.default.weight",
            "base_model.model.q.lora_B.default.bias",
            "base_model.model.e.lora_embedding_A.default",
            "base_model.model.q.lora_magnitude_vector.default.weight",
            "base_model.model.k.lora_magnitude_vector.default",
            "base_model.model.head.modules_to_save.default.weight",
        ];
        let saved = [
            "base_model.model.q.lora_A.weight",
            "base_model.model.q.lora_B.bias",
            "base_model.model.e.lora_embedding_A",
            "base_model.model.q.lora_magnitude_vector.weight",
            "base_model.model.k.lora_magnitude_vector",
            "base_model.model.head.modules_to_save.weight",
        ];
        let (found, notes) = cleaned(&names);
        assert_eq!((found, notes), (saved.map(str::to_owned).to_vec(), 1));
        // As PEFT saves them, they stay.
        assert_eq!(cleaned(&saved), (saved.map(str::to_owned).to_vec(), 0));
        let other =
            ["base_model.model.q.lora_A.mine.weight", "base_model.model.h.modules_to_save.mine.weight"];
        assert_eq!(cleaned(&other).0[1], "base_model.model.h.modules_to_save.weight");
    }

    #[test]
    fn wrappers_are_left_out() {
        for name in [
            "_orig_mod.base_model.model.q.lora_A.weight",
            "base_model.model._orig_mod.q.lora_A.weight",
            "module.base_model.model.q.lora_A.weight",
            "_fsdp_wrapped_module.base_model.model.q.lora_A.weight",
        ] {
            assert_eq!(cleaned(&[name]), (vec!["base_model.model.q.lora_A.weight".to_owned()], 1), "{name}");
        }
        assert_eq!(cleaned(&["module.q.lora_A.weight"]).1, 0);
    }

    #[test]
    fn several_adapters_in_a_file_are_refused() {
        let names = ["a.lora_A.one.weight", "a.lora_A.two.weight"];
        let error = TensorNames::of(names.into_iter()).err().unwrap().to_string();
        assert!(error.contains("`one` and `two`"), "{error}");
    }
}

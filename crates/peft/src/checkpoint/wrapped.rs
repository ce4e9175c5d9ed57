//! What wrappers around a model put into the names of its tensors: `torch.compile`, DDP, FSDP, PEFT.

use crate::note::Note;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// Components that stand wherever a module was wrapped, and what puts them there.
const COMPONENTS: [(&str, &str); 3] = [
    ("_orig_mod", "torch.compile"),
    ("_fsdp_wrapped_module", "FSDP"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
];
/// What stands in front of every name.
pub(crate) const MODULE: &str = "module.";
const PEFT: &str = "base_model.model.";
/// Where PEFT keeps the weights of modules that have an adapter.
const BASE_LAYER: &str = ".base_layer.";
/// Tensors of PEFT's layers.
const LORA: [&str; 5] =
    [".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector"];
/// Modules that are there twice.
const COPIES: [&str; 2] = [".modules_to_save.", ".original_module."];

/// A name without the components of wrappers, which are added to `parts`.
pub(crate) fn without_components<'a>(name: &'a str, parts: &mut BTreeSet<&'static str>) -> Cow<'a, str> {
    let is_in = |part: &&str| name.contains(part) && name.split('.').any(|one| one == *part);
    let found: Vec<&'static str> = COMPONENTS.iter().map(|(part, _)| *part).filter(is_in).collect();
    if found.is_empty() {
        return Cow::Borrowed(name);
    }
    parts.extend(&found);
    let rest: Vec<&str> = name.split('.').filter(|one| !found.contains(one)).collect();
    Cow::Owned(rest.join("."))
}

/// The notes about components that were left out.
pub(crate) fn notes(parts: &BTreeSet<&'static str>) -> Vec<Note> {
    let by = |part: &str| COMPONENTS.iter().find(|(known, _)| *known == part).map_or("DDP", |(_, by)| *by);
    parts.iter().map(|part| Note::Wrapped { part: format!("{part}."), by: by(part).to_owned() }).collect()
}

/// Names without what wrappers have put there.
pub(super) struct Unwrapped {
    /// By the name in the file; those that are missing are not the model's.
    pub names: HashMap<String, String>,
    pub notes: Vec<Note>,
}

/// The names of a checkpoint's tensors without wrappers; `None` if there are none.
///
/// # Errors
/// Which of two copies of a module is meant cannot be known.
pub(super) fn unwrapped<'a>(names: impl Iterator<Item = &'a str>) -> Result<Option<Unwrapped>> {
    let mut parts = BTreeSet::new();
    let mut names: Vec<(&str, Cow<'_, str>)> =
        names.map(|name| (name, without_components(name, &mut parts))).collect();
    let mut notes = notes(&parts);
    if !names.is_empty() && names.iter().all(|(_, name)| name.starts_with(MODULE)) {
        names.iter_mut().for_each(|(_, name)| *name = Cow::Owned(name[MODULE.len()..].to_owned()));
        notes.push(Note::Wrapped { part: MODULE.into(), by: "DDP".into() });
    }
    let is_lora = |name: &str| LORA.iter().any(|part| name.contains(part));
    // An adapter's file has these names too; it lacks the weights that its layers stand on.
    let is_peft = names.iter().any(|(_, name)| name.ends_with(".base_layer.weight"))
        || !names.is_empty() && names.iter().all(|(_, name)| name.starts_with(PEFT) && !is_lora(name));
    let mut lora = 0;
    if is_peft {
        notes.push(Note::Wrapped { part: format!("{PEFT}` or `{}", &BASE_LAYER[1..]), by: "PEFT".into() });
        if let Some((name, _)) = names.iter().find(|(_, name)| COPIES.iter().any(|copy| name.contains(copy)))
        {
            return Err(Error::tensor(
                *name,
                "the checkpoint is of a model in PEFT's wrapper, with modules twice: as they were and as they were trained; \
                 save what `unload()` or `merge_and_unload()` returns",
            ));
        }
        let before = names.len();
        names.retain(|(_, name)| !is_lora(name));
        lora = before - names.len();
        for (_, name) in &mut names {
            let inner = match name.strip_prefix(PEFT) {
                Some(inner) => inner.to_owned(),
                None => name.replacen(&format!(".{PEFT}"), ".", 1),
            };
            *name = Cow::Owned(inner.replace(BASE_LAYER, "."));
        }
    }
    if lora > 0 {
        notes.push(Note::UnmergedAdapter { tensors: lora });
    }
    if notes.is_empty() {
        return Ok(None);
    }
    let names = names.into_iter().map(|(name, inner)| (name.to_owned(), inner.into_owned())).collect();
    Ok(Some(Unwrapped { names, notes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner(names: &[&str]) -> Vec<String> {
        let Some(unwrapped) = unwrapped(names.iter().copied()).unwrap() else { return Vec::new() };
        assert!(!unwrapped.notes.is_empty());
        names.iter().filter_map(|name| unwrapped.names.get(*name).cloned()).collect()
    }

    #[test]
    fn wrappers_are_left_out() {
        assert_eq!(inner(&["_orig_mod.a.weight", "_orig_mod.b"]), ["a.weight", "b"]);
        assert_eq!(inner(&["a.0._orig_mod.q.weight", "b"]), ["a.0.q.weight", "b"]);
        assert_eq!(inner(&["_fsdp_wrapped_module.a._checkpoint_wrapped_module.q"]), ["a.q"]);
        assert_eq!(inner(&["module._orig_mod.a", "module.b.module.c"]), ["a", "b.module.c"]);
        assert_eq!(
            inner(&[
                "base_model.model.a.q.base_layer.weight",
                "base_model.model.a.q.lora_A.default.weight",
                "base_model.model.n"
            ]),
            ["a.q.weight", "n"]
        );
        assert_eq!(
            inner(&["vision.q", "llm.base_model.model.a.q.base_layer.weight"]),
            ["vision.q", "llm.a.q.weight"]
        );
    }

    #[test]
    fn names_without_wrappers_stay() {
        for names in [&["a.weight", "module.b"][..], &["my_orig_mod.a"], &["base_model.model.a", "b"], &[]] {
            assert!(inner(names).is_empty(), "{names:?}");
        }
    }

    #[test]
    fn modules_that_are_there_twice_are_refused() {
        let names = [
            "base_model.model.head.original_module.weight",
            "base_model.model.head.modules_to_save.default.weight",
        ];
        assert!(unwrapped(names.into_iter()).is_err());
    }
}

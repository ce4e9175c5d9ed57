//! What becomes of tensors that a model ties when an adapter changes some of them.
//!
//! They stay tied where the adapter changes them alike: tokens of an embedding that are trained by themselves, layers or copies
//! that are equal. Otherwise they part ways: those that the adapter does not name keep their values.

use super::bind::{Binder, Binding, TieOutcome};
use crate::adapter::{AdapterLayer, TOKEN_ROWS};
use crate::checkpoint;
use crate::families::ties::{self, Flag, Tied, Ties};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::collections::BTreeSet;

impl Binder<'_> {
    /// Whether the model ties a tensor to others.
    pub fn is_tied(&self, name: &str) -> bool {
        self.ties.contain(name)
    }

    /// A tensor of the file that one which it lacks is tied to.
    pub fn known_source(&self, name: &str) -> Option<String> {
        let Ties::Known(groups) = &self.ties else { return None };
        let group = groups.iter().find(|group| group.names.iter().any(|other| other == name))?;
        group.names.iter().find(|other| *other != name && self.shape(other).is_some()).cloned()
    }

    /// Decides which tied tensors stay tied, and gives those that part ways tensors of their own.
    pub fn settle_ties(&self, binding: &mut Binding) -> Result<()> {
        let groups = match &self.ties {
            Ties::Known(groups) => {
                binding.ties = TieOutcome::Kept;
                groups.clone()
            }
            Ties::Unknown => self.guessed_ties(binding)?,
        };
        for group in &groups {
            let changed: Vec<&String> =
                group.names.iter().filter(|name| self.is_changed(name, binding)).collect();
            let missing: Vec<&String> =
                group.names.iter().filter(|name| self.shape(name).is_none()).collect();
            let tied = match ties::flag(self.checkpoint.model_config()) {
                Flag::Tied => true,
                Flag::Untied => false,
                // Files leave out what is tied.
                Flag::Unsaid => !missing.is_empty() || group.by_default,
            };
            let Some(source) = group.names.iter().find(|name| self.shape(name).is_some()) else { continue };
            if changed.is_empty() || !tied {
                continue;
            }
            if self.stays_tied(group, &changed, binding) {
                self.change_alike(group, binding);
            } else {
                binding.ties = TieOutcome::Parted;
                let before = self.brought_along(&changed, binding);
                for name in missing.into_iter().filter(|name| !changed.contains(name)) {
                    if group.always.contains(name) {
                        continue;
                    }
                    match &before {
                        Some(key) => drop(binding.replaced.insert(name.clone(), key.clone())),
                        None => drop(binding.untied.insert(name.clone(), source.clone())),
                    }
                }
            }
        }
        if binding.ties == TieOutcome::Parted {
            self.write_out(&groups, binding);
        }
        Ok(())
    }

    /// Where `config.json` says that nothing is tied, models do not find what does not change under its other names either: the
    /// bias of a head, for instance.
    fn write_out(&self, groups: &[Tied], binding: &mut Binding) {
        for group in groups {
            let Some(source) = group.names.iter().find(|name| self.shape(name).is_some()) else { continue };
            let untouched = !group
                .names
                .iter()
                .any(|name| self.is_changed(name, binding) || binding.untied.contains_key(name));
            let missing =
                group.names.iter().filter(|name| self.shape(name).is_none() && !group.always.contains(*name));
            if untouched {
                binding.untied.extend(missing.map(|name| (name.clone(), source.clone())));
            } else {
                // What changes alike, and is one with it no longer by what `config.json` says.
                for name in missing.filter(|name| binding.kept.contains(*name)).cloned().collect::<Vec<_>>() {
                    binding.kept.remove(&name);
                    if !self.is_changed(&name, binding) {
                        copy_change(source, &name, binding);
                        binding.untied.insert(name, source.clone());
                    }
                }
            }
        }
    }

    fn is_changed(&self, name: &String, binding: &Binding) -> bool {
        binding.replaced.contains_key(name)
            || binding.rows.contains_key(name)
            || binding.sites.iter().any(|site| site.weight == *name)
    }

    /// What tied tensors were before adapters, if the adapter brings it along: PEFT saves it as the `base_layer` of an adapted
    /// embedding.
    fn brought_along(&self, changed: &[&String], binding: &Binding) -> Option<String> {
        let adapted = |name: &&&String| binding.sites.iter().any(|site| site.weight == ***name);
        let rows = |name: &&&String| binding.rows.contains_key(**name);
        let name = changed.iter().find(|name| adapted(name) || rows(name))?;
        binding.replaced.get(*name).cloned()
    }

    fn stays_tied(&self, group: &Tied, changed: &[&String], binding: &Binding) -> bool {
        if changed.iter().skip(1).any(|name| !self.change_equally(changed[0], name, binding)) {
            return false;
        }
        // Biases are one whatever else is; PEFT may save them under one name.
        if group.names[0].ends_with(".bias") {
            return true;
        }
        let only_embedding = changed.len() == 1 && *changed[0] == group.names[0];
        let only_rows = changed.iter().all(|name| binding.rows.contains_key(*name));
        let follows =
            only_rows || self.adapter.config.ensure_weight_tying || self.is_unasked(changed[0], binding);
        changed.len() > 1 || only_embedding && follows
    }

    /// Whether a tensor is replaced only because the adapter's file has one of its name, and no key of the configuration asks
    /// for it: it takes the place of the base's own, with which PEFT leaves tied what is tied.
    fn is_unasked(&self, name: &String, binding: &Binding) -> bool {
        let module =
            |key: &String| key.rsplit_once('.').map_or(String::new(), |(module, _)| module.to_owned());
        let replaced = binding.replaced.get(name).is_some_and(|key| !self.saves(&module(key)));
        replaced && !binding.rows.contains_key(name) && binding.sites.iter().all(|site| site.weight != *name)
    }

    /// Whether an adapter makes the same of two tensors that are one.
    fn change_equally(&self, one: &String, two: &String, binding: &Binding) -> bool {
        let replaced = |name| binding.replaced.get(name).map(|key| &self.adapter.replaced[key]);
        let rows = |name| {
            let key = binding.rows.get(name)?;
            let module = key.strip_suffix(TOKEN_ROWS)?;
            Some((self.adapter.config.tokens_of(module), &self.adapter.replaced[key]))
        };
        let site = |name: &String| binding.sites.iter().find(|site| site.weight == *name);
        let sites_agree = match (site(one), site(two)) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                let (a, b) = (&self.adapter.layers[&one.layer], &self.adapter.layers[&two.layer]);
                one.scale == two.scale && are_one(a, b)
            }
            _ => false,
        };
        sites_agree && replaced(one) == replaced(two) && rows(one) == rows(two)
    }

    /// Changes of some tied tensors are changes of all that the file has; the others need none of their own.
    fn change_alike(&self, group: &Tied, binding: &mut Binding) {
        let changed = group.names.iter().find(|name| self.is_changed(name, binding)).cloned();
        let Some(changed) = changed else { return };
        for name in &group.names {
            if self.shape(name).is_none() {
                binding.kept.insert(name.clone());
            } else if !self.is_changed(name, binding) {
                copy_change(&changed, name, binding);
            }
        }
    }

    /// The output head that a changed input embedding is tied to where the class of the model is not known.
    fn guessed_ties(&self, binding: &Binding) -> Result<Vec<Tied>> {
        let changed = binding
            .sites
            .iter()
            .map(|site| &site.weight)
            .chain(binding.replaced.keys())
            .chain(binding.rows.keys());
        let embedding = changed
            .filter_map(|name| name.strip_suffix(".weight"))
            .find(|path| checkpoint::is_input_embedding(path));
        let Some(embedding) = embedding else { return Ok(Vec::new()) };
        let has_head = |name: &String| name.strip_suffix(".weight").is_some_and(checkpoint::is_output_head);
        let head_is_there = self.checkpoint.tensors().keys().any(has_head)
            || binding.replaced.keys().any(has_head)
            || binding.untied.keys().any(has_head);
        if head_is_there {
            return Ok(Vec::new());
        }
        let Some(head) = ties::usual_head(embedding) else {
            return Err(Error::module(
                embedding,
                "is tied to an output head of unknown name; untie them in the base checkpoint first",
            ));
        };
        Ok(vec![Tied {
            names: vec![format!("{embedding}.weight"), head],
            always: BTreeSet::new(),
            by_default: true,
        }])
    }
}

/// What is done to a tensor is done to another too.
fn copy_change(from: &str, to: &str, binding: &mut Binding) {
    for names in [&mut binding.replaced, &mut binding.rows] {
        if let Some(key) = names.get(from).cloned() {
            names.insert(to.to_owned(), key);
        }
    }
}

/// Whether two layers add the same to one weight, of which one may take it for an embedding and the other for a linear layer.
fn are_one(one: &AdapterLayer, two: &AdapterLayer) -> bool {
    if one.bias.is_some() || two.bias.is_some() || one.magnitude != two.magnitude {
        return false;
    }
    match one.embedding == two.embedding {
        true => one.a == two.a && one.b == two.b,
        false => is_transpose(&one.a, &two.b) && is_transpose(&one.b, &two.a),
    }
}

fn is_transpose(one: &Tensor, two: &Tensor) -> bool {
    let ([rows, columns], [two_rows, two_columns]) = (one.shape(), two.shape()) else { return false };
    (rows, columns) == (two_columns, two_rows)
        && (0..one.len()).all(|at| one.at(at) == two.at(at % columns * rows + at / columns))
}

//! Merging the active adapters into the weights in memory, and taking them out again.

use super::LoraModel;
use crate::adapter::AdapterLayer;
use crate::binding::Site;
use crate::checkpoint::checksum;
use crate::tensor::Tensor;
use crate::update::{
    HostBackend, Part, UpdateOptions, merge_recorded, unmerge_recorded, update, update_bias, update_dora,
};
use crate::{Error, Result};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use std::collections::{BTreeMap, BTreeSet};

/// What is merged, and how to undo it.
#[derive(Debug)]
pub(super) struct Merged {
    pub names: Vec<String>,
    undo: BTreeMap<String, Undo>,
}

#[derive(Debug)]
enum Undo {
    /// Subtract: as close as rounding allows.
    Subtract,
    /// Exact: what the merge was asked to keep, the records of the weight's blocks, and the old weight's checksum.
    Records(RestoreMethod, Vec<RestoreRecord>, u64),
    /// Exact, and the only way for DoRA and replaced tensors.
    Original(Tensor),
}

/// Adapters on one weight: site, layer, adapter's name.
type OnWeight<'a> = Vec<(&'a Site, &'a AdapterLayer)>;

impl LoraModel {
    /// Merges the active adapters into the weights. With a restore method, unmerging is exact.
    ///
    /// # Errors
    /// Nothing is active, adapters are merged already, or a DoRA adapter meets another on one module. The weights are
    /// then as before.
    pub fn merge(&mut self, backend: &mut HostBackend<'_>, restore: Option<RestoreMethod>) -> Result<()> {
        self.check_not_merged("merging others")?;
        let names = self.active().to_vec();
        if names.is_empty() {
            return Err(Error::adapter("", "none is active"));
        }
        let (weights, undo) = self.merged_weights(backend, &names, restore)?;
        self.weights.extend(weights);
        self.merged = Some(Merged { names, undo });
        Ok(())
    }

    /// Names of the merged adapters.
    pub fn merged(&self) -> &[String] {
        self.merged.as_ref().map_or(&[], |merged| &merged.names)
    }

    /// Whether an unmerge would give back exactly the weights from before the merge.
    pub fn restores_exactly(&self) -> bool {
        self.merged
            .as_ref()
            .is_none_or(|merged| !merged.undo.values().any(|undo| matches!(undo, Undo::Subtract)))
    }

    /// Takes the merged adapters out of the weights.
    ///
    /// # Errors
    /// Nothing is merged, or a record does not fit because a weight or an adapter was changed.
    pub fn unmerge(&mut self, backend: &mut HostBackend<'_>) -> Result<()> {
        let Some(merged) = &self.merged else {
            return Err(Error::adapter("", "none is merged"));
        };
        let mut restored = BTreeMap::new();
        for (name, undo) in &merged.undo {
            let tensor = match undo {
                Undo::Original(original) => original.clone(),
                Undo::Subtract => {
                    let on_weight = self.on_weight(&merged.names, name);
                    let mut weight = self.weight(name)?.clone();
                    update(backend, &mut weight, &parts(&on_weight), &[], UpdateOptions::default())?;
                    weight
                }
                Undo::Records(_, records, original) => {
                    let on_weight = self.on_weight(&merged.names, name);
                    take_back(backend, name, self.weight(name)?, &parts(&on_weight), records, *original)?
                }
            };
            restored.insert(name.clone(), tensor);
        }
        self.weights.extend(restored);
        self.merged = None;
        Ok(())
    }

    /// Exchanges the merged adapters for others. Plain adapters without bias that act on the same weights are exchanged
    /// in one pass over each weight; exact where the merge was.
    ///
    /// # Errors
    /// Nothing is merged, a name is unknown, or as [`merge`](Self::merge) and [`unmerge`](Self::unmerge).
    pub fn switch(&mut self, backend: &mut HostBackend<'_>, to: &[&str]) -> Result<()> {
        let to: Vec<String> = to.iter().map(|name| (*name).to_owned()).collect();
        for name in &to {
            self.loaded(name)?;
        }
        let Some(merged) = &self.merged else {
            return Err(Error::adapter("", "none is merged"));
        };
        let restore = merged.undo.values().find_map(|undo| match undo {
            Undo::Records(method, ..) => Some(*method),
            _ => None,
        });
        let in_one_pass = merged.undo.iter().all(|(name, undo)| {
            let from = self.on_weight(&merged.names, name);
            let to = self.on_weight(&to, name);
            !matches!(undo, Undo::Original(_))
                && !from.is_empty()
                && !to.is_empty()
                && to.iter().all(is_plain)
        });
        let same_weights = to.iter().all(|name| {
            self.loaded(name).is_ok_and(|loaded| {
                loaded.adapter.replaced.is_empty()
                    && loaded.binding.sites.iter().all(|site| merged.undo.contains_key(&site.weight))
                    && loaded.adapter.layers.values().all(|layer| layer.bias.is_none())
            })
        });
        if !in_one_pass || !same_weights {
            self.unmerge(backend)?;
            self.active = to;
            return self.merge(backend, restore);
        }
        let mut switched = BTreeMap::new();
        let mut undo = BTreeMap::new();
        for (name, old) in &merged.undo {
            let (from, into) = (self.on_weight(&merged.names, name), self.on_weight(&to, name));
            let (from, into) = (parts(&from), parts(&into));
            let options = UpdateOptions::default();
            let (weight, how) = match old {
                Undo::Records(method, records, original) => {
                    let mut weight = take_back(backend, name, self.weight(name)?, &from, records, *original)?;
                    let (_, records) = merge_recorded(backend, &mut weight, &into, options, *method)?;
                    (weight, Undo::Records(*method, records, *original))
                }
                _ => {
                    let mut weight = self.weight(name)?.clone();
                    update(backend, &mut weight, &from, &into, options)?;
                    (weight, Undo::Subtract)
                }
            };
            undo.insert(name.clone(), how);
            switched.insert(name.clone(), weight);
        }
        self.weights.extend(switched);
        self.active = to.clone();
        self.merged = Some(Merged { names: to, undo });
        Ok(())
    }

    fn merged_weights(
        &self,
        backend: &mut HostBackend<'_>,
        names: &[String],
        restore: Option<RestoreMethod>,
    ) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, Undo>)> {
        let mut weights: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut undo = BTreeMap::new();
        for name in names {
            let loaded = self.loaded(name)?;
            for (module, layer) in &loaded.adapter.layers {
                layer.check(module)?;
            }
            for (tensor, key) in &loaded.binding.replaced {
                let new = &loaded.adapter.replaced[key];
                let old = match self.weights.get(tensor) {
                    Some(old) => old.clone(),
                    None if self.checkpoint.tensors().contains_key(tensor) => {
                        self.checkpoint.tensor(tensor)?
                    }
                    None => new.clone(),
                };
                if undo.contains_key(tensor) {
                    return Err(Error::tensor(tensor, "two active adapters replace it"));
                }
                weights.insert(tensor.clone(), new.cast(old.dtype()));
                undo.insert(tensor.clone(), Undo::Original(old));
            }
        }
        let mut done = BTreeSet::new();
        for name in names {
            for site in &self.loaded(name)?.binding.sites {
                if !done.insert(&site.weight) {
                    continue;
                }
                let on_weight = self.on_weight(names, &site.weight);
                let mut weight = match weights.get(&site.weight) {
                    Some(replaced) => replaced.clone(),
                    None => self.weight(&site.weight)?.clone(),
                };
                let options = UpdateOptions::default();
                let parts = parts(&on_weight);
                let already = undo.contains_key(&site.weight);
                let how = if let Some(dora) = parts.iter().find(|part| part.layer.magnitude.is_some()) {
                    if parts.len() > 1 {
                        return Err(Error::module(
                            &site.layer,
                            "a DoRA adapter of it cannot be merged with others",
                        ));
                    }
                    let original = weight.clone();
                    update_dora(backend, &mut weight, *dora, options)?;
                    Undo::Original(original)
                } else if let (Some(method), false) = (restore, already) {
                    let original = checksum::of(&weight);
                    let (_, records) = merge_recorded(backend, &mut weight, &parts, options, method)?;
                    Undo::Records(method, records, original)
                } else {
                    update(backend, &mut weight, &[], &parts, options)?;
                    Undo::Subtract
                };
                weights.insert(site.weight.clone(), weight);
                undo.entry(site.weight.clone()).or_insert(how);
                if let Some(bias) = &site.bias
                    && on_weight.iter().any(|(_, layer)| layer.bias.is_some())
                {
                    let old = self.weight(bias)?.clone();
                    let mut new = weights.get(bias).unwrap_or(&old).clone();
                    update_bias(&mut new, &parts, 1.0);
                    weights.insert(bias.clone(), new);
                    undo.entry(bias.clone()).or_insert(Undo::Original(old));
                }
            }
        }
        Ok((weights, undo))
    }

    /// The layers of these adapters that act on a weight.
    fn on_weight(&self, names: &[String], weight: &str) -> OnWeight<'_> {
        let loaded = names.iter().filter_map(|name| self.adapters.get(name));
        loaded
            .flat_map(|loaded| {
                let sites = loaded.binding.sites.iter().filter(move |site| site.weight == weight);
                sites.filter_map(|site| Some((site, loaded.adapter.layers.get(&site.layer)?)))
            })
            .collect()
    }
}

/// A weight from before a merge, or an error.
fn take_back(
    backend: &mut HostBackend<'_>,
    name: &str,
    merged: &Tensor,
    parts: &[Part<'_>],
    records: &[RestoreRecord],
    original: u64,
) -> Result<Tensor> {
    let mut weight = merged.clone();
    unmerge_recorded(backend, &mut weight, parts, records.to_vec())?;
    match checksum::of(&weight) == original {
        true => Ok(weight),
        false => Err(Error::Record(format!("it does not give back what `{name}` was before the merge"))),
    }
}

fn parts<'a>(on_weight: &OnWeight<'a>) -> Vec<Part<'a>> {
    on_weight.iter().map(|&(site, layer)| Part { site, layer, weight: 1.0 }).collect()
}

fn is_plain((_, layer): &(&Site, &AdapterLayer)) -> bool {
    layer.magnitude.is_none()
}

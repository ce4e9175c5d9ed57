//! Merging the active adapters into the weights in memory, and taking them out again.

use super::LoraModel;
use crate::adapter::Weighted;
use crate::merge::{Bound, Exchange, Exchanged, Keep, Undo, add_additions, removals};
use crate::tensor::Tensor;
use crate::update::{HostBackend, UpdateOptions};
use crate::{Error, Result};
use lora_kernels::restore::RestoreMethod;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What is merged, and how to undo it.
#[derive(Debug)]
pub(super) struct Merged {
    pub names: Vec<String>,
    /// How the merge was asked to keep the old weights.
    restore: Option<RestoreMethod>,
    undo: UndoByTensor,
}

/// What takes the adapters out of each tensor again: what was kept of it, or subtraction.
type UndoByTensor = BTreeMap<String, Option<Undo>>;

impl LoraModel {
    /// Merges the active adapters into the weights. With a restore method, unmerging is exact.
    ///
    /// # Errors
    /// Nothing is active, adapters are merged already, or a DoRA adapter meets another on one module. The weights are
    /// then as before.
    pub fn merge(&mut self, backend: &HostBackend<'_>, restore: Option<RestoreMethod>) -> Result<()> {
        self.check_not_merged("merging others")?;
        let names = self.active().to_vec();
        if names.is_empty() {
            return Err(Error::adapter("", "none is active"));
        }
        let (weights, undo) = self.exchanged(backend, None, &names, restore)?;
        self.weights.extend(weights);
        self.merged = Some(Merged { names, restore, undo });
        Ok(())
    }

    /// Names of the merged adapters.
    pub fn merged(&self) -> &[String] {
        self.merged.as_ref().map_or(&[], |merged| &merged.names)
    }

    /// Whether an unmerge would give back exactly the weights from before the merge.
    pub fn restores_exactly(&self) -> bool {
        self.merged.as_ref().is_none_or(|merged| merged.undo.values().all(Option::is_some))
    }

    /// Bytes of memory that the records of the merged adapters take: codes, escapes, and old weights where these are kept.
    pub fn record_bytes(&self) -> u64 {
        let kept = self.merged.iter().flat_map(|merged| merged.undo.values()).flatten();
        kept.map(Undo::bytes).sum()
    }

    /// Takes the merged adapters out of the weights.
    ///
    /// # Errors
    /// Nothing is merged, or a record does not fit because a weight or an adapter was changed. The weights are then as
    /// before.
    pub fn unmerge(&mut self, backend: &HostBackend<'_>) -> Result<()> {
        let (weights, _) = self.exchanged(backend, Some(self.merge_to_undo()?), &[], None)?;
        self.weights.extend(weights);
        self.merged = None;
        Ok(())
    }

    /// Exchanges the merged adapters for others, which become the active ones; exact where the merge was. Without records,
    /// plain adapters on one weight are exchanged with one rounding.
    ///
    /// # Errors
    /// Nothing is merged, a name is unknown, or as [`merge`](Self::merge) and [`unmerge`](Self::unmerge). The weights are
    /// then as before.
    pub fn switch(&mut self, backend: &HostBackend<'_>, to: &[&str]) -> Result<()> {
        let names: Vec<String> = to.iter().map(|name| (*name).to_owned()).collect();
        let merged = self.merge_to_undo()?;
        let restore = merged.restore;
        let (weights, undo) = self.exchanged(backend, Some(merged), &names, restore)?;
        self.weights.extend(weights);
        self.active = names.clone();
        self.merged = Some(Merged { names, restore, undo });
        Ok(())
    }

    fn merge_to_undo(&self) -> Result<&Merged> {
        self.merged.as_ref().ok_or_else(|| Error::adapter("", "none is merged"))
    }

    /// The tensors that change when merged adapters are taken out and others put in, and how to undo that.
    fn exchanged(
        &self,
        backend: &HostBackend<'_>,
        merged: Option<&Merged>,
        add: &[String],
        restore: Option<RestoreMethod>,
    ) -> Result<(BTreeMap<String, Tensor>, UndoByTensor)> {
        let (remove, add) = (self.bound(merged.map_or(&[], |merged| &merged.names))?, self.bound(add)?);
        // Layers can be changed from outside.
        for (module, layer) in add.iter().flat_map(|bound| &bound.adapter.layers) {
            layer.check(module)?;
        }
        let mut changes = removals(&remove);
        // What was replaced comes back.
        for name in merged.iter().flat_map(|merged| merged.undo.keys()) {
            changes.entry(name.clone()).or_default();
        }
        add_additions(&mut changes, &add)?;
        let keep = restore.map_or(Keep::WhatIsNeeded, Keep::Everything);
        let (mut weights, mut undo) = (BTreeMap::new(), BTreeMap::new());
        for (name, change) in &changes {
            let exchange = Exchange::new(name, change, &remove, &add);
            let mut tensor = self.weight_or(name, exchange.replacement())?;
            let old = merged.and_then(|merged| merged.undo.get(name).cloned().flatten());
            let Exchanged { undo: new, .. } =
                exchange.run(backend, &mut tensor, old, keep, UpdateOptions::default())?;
            weights.insert(name.clone(), tensor);
            if !exchange.adds_nothing() {
                undo.insert(name.clone(), new);
            }
        }
        Ok((weights, undo))
    }

    /// A tensor of the base as it is now. One that the base does not have is what replaces it.
    fn weight_or(&self, name: &str, replacement: Option<&Tensor>) -> Result<Tensor> {
        match (self.weights.get(name), replacement) {
            (Some(weight), _) => Ok(weight.clone()),
            (None, Some(replacement)) if !self.checkpoint.tensors().contains_key(name) => {
                Ok(replacement.clone())
            }
            (None, _) => self.checkpoint.tensor(name),
        }
    }

    fn bound(&self, names: &[String]) -> Result<Vec<Bound<'_>>> {
        let bound = |name: &String| {
            let loaded = self.loaded(name)?;
            Ok(Bound {
                weighted: Weighted { name: name.clone(), adapter: &loaded.adapter, weight: 1.0 },
                adapter: Cow::Borrowed(&loaded.adapter),
                binding: Cow::Borrowed(&loaded.binding),
                weights_hold_start: false,
            })
        };
        names.iter().map(bound).collect()
    }
}

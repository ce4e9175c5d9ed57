//! An adapter from layers that bring their α along.

use crate::adapter::{Adapter, AdapterConfig, AdapterLayer, ModuleNames};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A layer and its α: it adds (α / r)·B·A.
#[derive(Clone, Debug)]
pub(super) struct Scaled {
    pub layer: AdapterLayer,
    pub alpha: f64,
}

/// An adapter of these layers, with a configuration that says their ranks, their α and their names, and is otherwise
/// `config`.
///
/// # Errors
/// Some of the layers have DoRA's magnitudes and others have not.
pub(super) fn assemble(layers: BTreeMap<String, Scaled>, config: AdapterConfig) -> Result<Adapter> {
    let rank = |scaled: &Scaled| scaled.layer.a.shape()[0];
    let dora = layers.values().any(|scaled| scaled.layer.magnitude.is_some());
    if let Some((module, _)) = layers.iter().find(|(_, scaled)| scaled.layer.magnitude.is_some() != dora) {
        return Err(Error::module(
            module,
            "has no DoRA magnitudes while other modules have; such an adapter has no configuration in PEFT",
        ));
    }
    let common_rank = most_common(layers.values().map(rank)).unwrap_or(config.rank);
    let bits = most_common(layers.values().map(|scaled| scaled.alpha.to_bits()));
    let common_alpha = bits.map_or(config.alpha, f64::from_bits);
    let keys = pattern_keys(layers.keys());
    let mut config = AdapterConfig {
        rank: common_rank,
        alpha: common_alpha,
        rank_stabilized: false,
        dora,
        target_modules: Some(ModuleNames::List(layers.keys().cloned().collect())),
        exclude_modules: None,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        rank_pattern: Vec::new(),
        alpha_pattern: Vec::new(),
        ..config
    };
    let mut placed = BTreeMap::new();
    for ((module, scaled), key) in layers.into_iter().zip(keys) {
        if rank(&scaled) != common_rank {
            config.rank_pattern.push((key.clone(), rank(&scaled)));
        }
        if scaled.alpha.to_bits() != common_alpha.to_bits() {
            config.alpha_pattern.push((key, scaled.alpha));
        }
        placed.insert(module, scaled.layer);
    }
    config.check()?;
    Ok(Adapter { config, layers: placed, replaced: BTreeMap::new(), notes: Vec::new() })
}

/// The most frequent value; of several the smallest.
fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

/// Patterns, each of which means one of the modules alone: PEFT takes a pattern for every path that ends with it.
fn pattern_keys<'a>(modules: impl Iterator<Item = &'a String> + Clone) -> Vec<String> {
    let endings: BTreeSet<&str> = modules
        .clone()
        .flat_map(|module| module.match_indices('.').map(|(dot, _)| &module[dot + 1..]))
        .collect();
    let key = |module: &String| {
        let start = if endings.contains(module.as_str()) { "^" } else { "" };
        format!("{start}{}", escaped(module))
    };
    modules.map(key).collect()
}

/// A name as a regular expression. A dot stays, as PEFT writes it: it means itself among others.
pub(super) fn escaped(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if r"\^$|?*+()[]{}".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

//! The adapter that says what was found.

use super::factors::Layers;
use super::plan::Plan;
use super::whole::{Wholes, ask_for};
use crate::adapter::{Adapter, AdapterConfig, AdapterLayer, ModuleNames};
use crate::checkpoint::{Checkpoint, is_transposed_type};
use crate::note::Note;
use crate::tensor::float_type;
use crate::{Error, Result};
use fancy_regex::escape;
use std::collections::{BTreeMap, BTreeSet};

/// What PEFT takes for `target_modules` where there is nothing but modules that are saved.
const NO_MODULES: &str = "dummy-target-modules";

/// Puts the adapter together, with the notes on it.
pub(super) fn assemble(
    plan: Plan,
    layers: Layers,
    rank: usize,
    base: &Checkpoint,
    tuned: &Checkpoint,
) -> Result<(Adapter, Vec<Note>)> {
    let Layers { mut modules, stacked } = layers;
    let ranks = |(name, layer): (&String, &AdapterLayer)| (name.clone(), layer.a.shape()[0]);
    let mut smaller: Vec<(String, usize)> = modules.iter().map(ranks).collect();
    let mut config = AdapterConfig {
        rank,
        alpha: rank as f64,
        target_modules: Some(targets(&modules, &plan, stacked.is_empty())),
        fan_in_fan_out: stacked.is_empty() && is_transposed_type(base.model_config()),
        ..AdapterConfig::default()
    };
    for (module, parameters) in stacked {
        let count = parameters.len();
        for (index, (name, found)) in parameters.into_iter().enumerate() {
            // The last of a module's parameters has the module's own path.
            modules.insert(format!("{module}{}", ".base_layer".repeat(count - 1 - index)), found.layer);
            smaller.push((name.clone(), found.rank));
            config.target_parameters.push(name);
        }
    }
    smaller.retain(|(_, own)| *own != rank);
    config.rank_pattern =
        smaller.into_iter().map(|(name, own)| (format!("^{}", escape(&name)), own)).collect();
    config.alpha_pattern =
        config.rank_pattern.iter().map(|(name, own)| (name.clone(), *own as f64)).collect();
    let adapted: BTreeSet<String> = modules.keys().cloned().collect();
    let Wholes { names, in_place } = ask_for(&mut config, &plan, &adapted);
    let replaced = names
        .into_iter()
        .map(|name| {
            let whole = plan.whole.get(&name).map(|(file, _)| file);
            let file = whole.or_else(|| plan.tuned_files.get(&name)).unwrap_or(&name);
            if float_type(tuned.info(file)?.dtype).is_none() {
                return Err(Error::tensor(
                    file,
                    "is needed with others of its module, but is not floating-point",
                ));
            }
            let tensor = tuned.tensor(file)?;
            Ok((name, tensor))
        })
        .collect::<Result<_>>()?;
    let mut notes = plan.notes;
    if !in_place.is_empty() {
        notes.push(Note::InPlace(in_place));
    }
    Ok((Adapter { config, layers: modules, replaced }, notes))
}

/// The modules by their full paths. Where one ends as another does that has no adapter, a pattern tells them apart.
fn targets(modules: &BTreeMap<String, AdapterLayer>, plan: &Plan, is_all: bool) -> ModuleNames {
    if modules.is_empty() && is_all {
        return ModuleNames::Pattern(NO_MODULES.into());
    }
    let others = plan.names.iter().filter_map(|name| name.rsplit_once('.')).map(|(module, _)| module);
    let others = others.filter(|other| !modules.contains_key(*other));
    let has_namesake = others
        .flat_map(|other| other.match_indices('.').map(move |(dot, _)| &other[dot + 1..]))
        .any(|end| modules.contains_key(end));
    let paths = modules.keys();
    match has_namesake {
        true => ModuleNames::Pattern(paths.map(|path| escape(path)).collect::<Vec<_>>().join("|")),
        false => ModuleNames::List(paths.cloned().collect()),
    }
}

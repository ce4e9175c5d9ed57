//! The adapter that says what was found.

use super::factors::Layers;
use super::plan::Plan;
use super::whole::{Wholes, ask_for};
use crate::adapter::{Adapter, AdapterConfig, AdapterLayer, ModuleNames};
use crate::checkpoint::{Checkpoint, is_transposed_type};
use crate::families::class_facts::is_converted_target;
use crate::note::Note;
use crate::tensor::float_type;
use crate::{Error, Result};
use fancy_regex::escape;
use std::collections::{BTreeSet, HashSet};

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
    // Those that PEFT would not find as modules it finds by their weights.
    let (by_weight, by_module): (Vec<String>, Vec<String>) =
        modules.keys().cloned().partition(|path| is_converted_target(base.model_config(), path));
    let ranks = |(name, layer): (&String, &AdapterLayer)| {
        let name = if by_weight.contains(name) { format!("{name}.weight") } else { name.clone() };
        (name, layer.a.shape()[0])
    };
    let mut smaller: Vec<(String, usize)> = modules.iter().map(ranks).collect();
    let mut config = AdapterConfig {
        rank,
        alpha: rank as f64,
        target_modules: Some(targets(&by_module, &plan, stacked.is_empty() && by_weight.is_empty())),
        target_parameters: by_weight.iter().map(|path| format!("{path}.weight")).collect(),
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
    Ok((Adapter { config, layers: modules, replaced, notes: Vec::new() }, notes))
}

/// The modules by their full paths. Where one ends as another does that has no adapter, a pattern tells them apart.
fn targets(modules: &[String], plan: &Plan, is_all: bool) -> ModuleNames {
    if modules.is_empty() && is_all {
        return ModuleNames::Pattern(NO_MODULES.into());
    }
    let others = plan.names.iter().filter_map(|name| name.rsplit_once('.')).map(|(module, _)| module);
    let own: HashSet<&str> = modules.iter().map(String::as_str).collect();
    let others = others.filter(|other| !own.contains(other));
    let has_namesake = others
        .flat_map(|other| other.match_indices('.').map(move |(dot, _)| &other[dot + 1..]))
        .any(|end| own.contains(end));
    match has_namesake {
        true => ModuleNames::Pattern(modules.iter().map(|path| escape(path)).collect::<Vec<_>>().join("|")),
        false => ModuleNames::List(modules.to_vec()),
    }
}

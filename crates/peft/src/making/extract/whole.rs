//! Tensors that go along whole, and the keys of a configuration that ask for them.

use super::plan::{Plan, Way};
use crate::adapter::{AdapterConfig, BiasMode};
use std::collections::{BTreeMap, BTreeSet};

/// What a configuration asks for, and what comes without being asked for.
#[derive(Debug, Default)]
pub(super) struct Wholes {
    /// Names of the class of everything that goes along.
    pub names: BTreeSet<String>,
    /// Those of them that no key asks for.
    pub in_place: Vec<String>,
}

/// Finds keys for the plan's whole tensors, and whatever else PEFT expects with these.
pub(super) fn ask_for(config: &mut AdapterConfig, plan: &Plan, adapted: &BTreeSet<String>) -> Wholes {
    let mut wholes = Wholes::default();
    let modules = modules(plan);
    let (biases, others): (Vec<_>, Vec<_>) = plan.whole.iter().partition(|(name, _)| is_bias(name));
    // `bias: all` asks for every bias of the model.
    let all_biases = || plan.names.iter().filter(|name| is_bias(name));
    if biases.iter().any(|(_, (_, way))| *way == Way::Asked)
        && all_biases().all(|name| !plan.unusable.contains(name))
    {
        config.bias = BiasMode::All;
        wholes.names.extend(all_biases().cloned());
    } else {
        wholes.in_place.extend(biases.iter().map(|(name, _)| (*name).clone()));
    }
    wholes.names.extend(biases.into_iter().map(|(name, _)| name.clone()));
    for (name, (_, way)) in others {
        match name.strip_suffix(".weight") {
            Some(module) if *way == Way::Asked && can_be_saved(module, &modules, adapted, plan) => {
                config.modules_to_save.push(module.to_owned());
                wholes.names.extend(inside(module, plan));
            }
            _ => wholes.in_place.push(name.clone()),
        }
        wholes.names.insert(name.clone());
    }
    wholes
}

/// Every module that has tensors of its own: their last names.
fn modules(plan: &Plan) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut modules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, last) in plan.names.iter().chain(plan.whole.keys()).filter_map(|name| name.rsplit_once('.'))
    {
        modules.entry(module).or_default().insert(last);
    }
    modules
}

/// Whether `modules_to_save` can name a module: it has a weight and a bias and nothing else, and no other module's path
/// ends as its does, which PEFT would save too.
fn can_be_saved(
    module: &str,
    modules: &BTreeMap<&str, BTreeSet<&str>>,
    adapted: &BTreeSet<String>,
    plan: &Plan,
) -> bool {
    let within = format!("{module}.");
    let is_simple = modules[module].iter().all(|last| ["weight", "bias"].contains(last));
    let has_modules =
        modules.range(within.as_str()..).next().is_some_and(|(other, _)| other.starts_with(&within));
    let has_namesake = modules.keys().any(|other| *other != module && other.ends_with(module));
    let is_usable = inside(module, plan).iter().all(|name| !plan.unusable.contains(name));
    is_usable && is_simple && !has_modules && !has_namesake && !adapted.contains(module)
}

fn inside(module: &str, plan: &Plan) -> Vec<String> {
    let within = format!("{module}.");
    let names = plan.names.range(within.clone()..);
    names.take_while(|name| name.starts_with(&within)).cloned().collect()
}

fn is_bias(name: &str) -> bool {
    name == "bias" || name.ends_with(".bias")
}

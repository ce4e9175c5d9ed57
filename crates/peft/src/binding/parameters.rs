//! Parameters that `target_parameters` names, and where PEFT keeps their layers.

use super::expert_names;
use super::naming::Naming;
use super::site::Site;
use crate::adapter::{AdapterConfig, Matcher};
use crate::checkpoint::{Checkpoint, LayerKind, is_transposed_model, is_transposed_module, quantized};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};

/// Last names of parameters that stand together in one module, in the order in which the classes of transformers 5.24
/// define them.
const IN_ORDER: [&str; 8] =
    ["gate_up_proj", "gate_up_proj_bias", "up_proj", "down_proj", "down_proj_bias", "w1", "v1", "w2"];

/// Every parameter of the checkpoint that the configuration targets: key of its layer, name in the model.
///
/// # Errors
/// A name of `target_parameters` fits no parameter, or several of one module are targeted whose order is not known.
pub(crate) fn targeted(
    config: &AdapterConfig,
    matcher: &Matcher,
    checkpoint: &Checkpoint,
    naming: &Naming,
) -> Result<BTreeMap<String, String>> {
    let mut modules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in checkpoint.tensors().keys() {
        let name = naming.to_model(name);
        if matcher.targets_parameter(&name)
            && let Some((module, _)) = name.rsplit_once('.')
        {
            modules.entry(module.to_owned()).or_default().push(name.clone());
        }
    }
    let mut found = BTreeMap::new();
    for (module, names) in modules {
        let count = names.len();
        for (index, name) in in_order(&module, names)?.into_iter().enumerate() {
            found.insert(layer_key(&module, index, count), name);
        }
    }
    let ends: HashSet<&str> = found.values().flat_map(|name: &String| ends(name)).collect();
    if let Some(unfound) = config.target_parameters.iter().find(|target| !ends.contains(target.as_str())) {
        quantized::check_missing_parameter(checkpoint, unfound)?;
        return Err(Error::NoMatch(format!(
            "the checkpoint has no parameter `{unfound}` (`target_parameters`){}",
            expert_names::hint(checkpoint)
        )));
    }
    Ok(found)
}

/// A name, and what follows each of its dots.
pub(crate) fn ends(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(name.match_indices('.').map(|(dot, _)| &name[dot + 1..]))
}

/// Key of the layer of the parameter at `index` of the `count` that are targeted in a module.
///
/// PEFT wraps a module once for each of its targeted parameters, in the order of their definition. The last wrapper is
/// the outermost and has the module's own path; each one further in has `.base_layer` more.
pub(crate) fn layer_key(module: &str, index: usize, count: usize) -> String {
    format!("{module}{}", ".base_layer".repeat(count - 1 - index))
}

/// The bias that a module adds to what it makes of a targeted `weight`, if it has one.
pub(crate) fn bias_beside(checkpoint: &Checkpoint, weight: &str) -> Option<String> {
    let bias = format!("{}.bias", weight.strip_suffix(".weight")?);
    checkpoint.tensors().contains_key(&bias).then_some(bias)
}

/// Whether a site is a `Conv1D`'s W \[in, out\] that is adapted as a parameter, which PEFT takes for \[out, in\].
pub(crate) fn is_exchanged_matrix(checkpoint: &Checkpoint, site: &Site) -> bool {
    site.kind == LayerKind::Linear
        && is_transposed_model(checkpoint) == Some(true)
        && site.weight.strip_suffix(".weight").is_some_and(is_transposed_module)
}

/// The place of a parameter among those of its module, by its last name; `None` where that is not known.
pub(crate) fn order_of_parameters(name: &str) -> Option<usize> {
    let last = name.rsplit('.').next();
    IN_ORDER.iter().position(|known| Some(*known) == last)
}

pub(super) fn in_order(module: &str, mut names: Vec<String>) -> Result<Vec<String>> {
    let position = |name: &String| order_of_parameters(name);
    if names.len() > 1
        && let Some(unknown) = names.iter().find(|name| position(name).is_none())
    {
        return Err(Error::module(
            module,
            format!(
                "several of its parameters are targeted, `{unknown}` for one. Which layer is whose depends on the order \
                 in which the model's class defines them, which is not known"
            ),
        ));
    }
    names.sort_by_key(position);
    Ok(names)
}

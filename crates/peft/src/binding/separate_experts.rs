//! Experts that are one parameter in memory and apart in the files.
//!
//! transformers 5 stacks the experts of a layer when it loads a model (`experts.gate_up_proj` \[experts, 2·inner, hidden\],
//! `experts.down_proj` \[experts, hidden, inner\]) and takes them apart when it saves one. Adapters of the stacked
//! parameters (`target_parameters`) become adapters of the single matrices here.

use super::absent::Absent;
use super::expert_names::ExpertNames;
use super::naming::Naming;
use super::parameters::{ends, layer_key};
use crate::adapter::{ALL_LINEAR, Adapter, AdapterConfig, AdapterLayer, Matcher, ModuleNames};
use crate::checkpoint::Checkpoint;
use crate::tensor::{Tensor, each_type};
use crate::{Error, Result};
use fancy_regex::escape;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The adapter as it applies to this checkpoint: with a layer for each expert's matrix if the experts are apart in the
/// files, and otherwise as it is.
///
/// # Errors
/// A tensor is missing or has the wrong shape; the error names it.
pub fn apart<'a>(adapter: &'a Adapter, checkpoint: &Checkpoint) -> Result<Cow<'a, Adapter>> {
    let Some(names) = ExpertNames::of(checkpoint) else {
        return Ok(Cow::Borrowed(adapter));
    };
    let naming = match Naming::find(adapter, checkpoint) {
        // Parts have the names of the files, as adapters of transformers 4.
        Naming::Class(_) if names.renames_block() => Naming::Same,
        naming => naming,
    };
    let experts = names.find(checkpoint, &naming)?;
    if experts.is_empty() || adapter.config.target_parameters.is_empty() {
        return Ok(Cow::Borrowed(adapter));
    }
    let mut taken = TakenApart {
        names: &names,
        absent: Absent::of(adapter, checkpoint),
        matcher: Matcher::new(&adapter.config)?,
        adapter: adapter.clone(),
        parameters: Vec::new(),
        targeted: BTreeSet::new(),
        patterns: BTreeMap::new(),
    };
    for (module, count) in &experts {
        taken.take_experts(module, *count)?;
    }
    taken.rename_others(checkpoint, &naming)?;
    taken.configure(&experts)?;
    taken.adapter.notes.extend(taken.absent.note());
    Ok(Cow::Owned(taken.adapter))
}

struct TakenApart<'a> {
    names: &'a ExpertNames,
    absent: Absent,
    matcher: Matcher,
    adapter: Adapter,
    /// The parameters that were taken apart, under their names in memory.
    parameters: Vec<String>,
    /// Modules that have an adapter now.
    targeted: BTreeSet<String>,
    /// Rank and α of the matrices of a parameter: by parameter and module.
    patterns: BTreeMap<&'a str, Vec<(String, usize, f64)>>,
}

impl<'a> TakenApart<'a> {
    fn take_experts(&mut self, module: &str, experts: usize) -> Result<()> {
        let in_memory = self.names.in_memory(module);
        let names = self.names.parameters().iter();
        let targeted: Vec<&'a (String, Vec<String>)> = names
            .filter(|(name, _)| self.matcher.targets_parameter(&format!("{in_memory}.{name}")))
            .collect();
        for (index, (name, matrices)) in targeted.iter().copied().enumerate() {
            let parameter = format!("{in_memory}.{name}");
            let key = layer_key(&in_memory, index, targeted.len());
            let Some(layer) = self.adapter.layers.remove(&key) else {
                if self.absent.covers(&in_memory) {
                    continue;
                }
                return Err(Error::tensor(
                    format!("base_model.model.{key}.lora_A.weight"),
                    format!("missing, although the configuration targets the parameter `{parameter}`"),
                ));
            };
            let rank = self.matcher.rank(&parameter)?;
            let fits = matches!((layer.a.shape(), layer.b.shape()), (&[a, _], &[out, b])
                if a == experts * rank && b == a && out.is_multiple_of(matrices.len()));
            if !fits {
                return Err(Error::module(
                    key,
                    format!(
                        "A {:?} and B {:?} do not fit `{parameter}`: {experts} experts of rank {rank}",
                        layer.a.shape(),
                        layer.b.shape()
                    ),
                ));
            }
            for expert in 0..experts {
                for (position, matrix) in matrices.iter().enumerate() {
                    let path = format!("{module}.{expert}.{matrix}");
                    let layer = of_expert(&layer, (expert, experts), (position, matrices.len()));
                    self.adapter.layers.insert(path.clone(), layer);
                    self.targeted.insert(path);
                }
            }
            let alpha = self.matcher.alpha(&parameter)?;
            self.patterns.entry(name.as_str()).or_default().push((module.to_owned(), rank, alpha));
            self.parameters.push(parameter);
        }
        Ok(())
    }

    /// Other parameters, such as the router's, have no more than another name in the files.
    fn rename_others(&mut self, checkpoint: &Checkpoint, naming: &Naming) -> Result<()> {
        for name in checkpoint.tensors().keys() {
            let name = naming.to_model(name);
            let parameter = self.names.in_memory(&name);
            let Some(module) = name.strip_suffix(".weight").filter(|_| parameter != name) else { continue };
            if let Some(in_memory) = parameter.strip_suffix(".weight")
                && self.matcher.targets_parameter(&parameter)
                && let Some(layer) = self.adapter.layers.remove(in_memory)
            {
                let pattern = format!("^{}", escape(module));
                let config = &mut self.adapter.config;
                config.rank_pattern.insert(0, (pattern.clone(), self.matcher.rank(&parameter)?));
                config.alpha_pattern.insert(0, (pattern, self.matcher.alpha(&parameter)?));
                self.adapter.layers.insert(module.to_owned(), layer);
                self.targeted.insert(module.to_owned());
                self.parameters.push(parameter);
            }
        }
        Ok(())
    }

    /// The configuration that says of the single matrices what the old one says of the parameters.
    fn configure(&mut self, experts: &BTreeMap<String, usize>) -> Result<()> {
        let config = &mut self.adapter.config;
        for (parameter, places) in &self.patterns {
            let matrices = self.names.parameters().iter().find(|(name, _)| name == parameter);
            let matrices = matrices.map(|(_, matrices)| matrices.join("|")).unwrap_or_default();
            let mut add = |module: &str, rank: usize, alpha: f64| {
                let pattern = format!(r"{module}\.\d+\.(?:{matrices})");
                config.rank_pattern.insert(0, (pattern.clone(), rank));
                config.alpha_pattern.insert(0, (pattern, alpha));
            };
            let same = |one: &(String, usize, f64)| one.1 == places[0].1 && one.2 == places[0].2;
            if places.iter().all(same) {
                add("experts", places[0].1, places[0].2);
            } else {
                places
                    .iter()
                    .for_each(|(module, rank, alpha)| add(&format!("^{}", escape(module)), *rank, *alpha));
            }
        }
        let taken: HashSet<&str> = self.parameters.iter().flat_map(|name| ends(name)).collect();
        config.target_parameters.retain(|target| !taken.contains(target.as_str()));
        // In memory the others are no modules that `all-linear` or a pattern could mean.
        let all = experts.iter().flat_map(|(module, count)| {
            let matrices = self.names.all_matrices();
            matrices
                .flat_map(move |matrix| (0..*count).map(move |expert| format!("{module}.{expert}.{matrix}")))
        });
        let others: Vec<String> = all.filter(|path| !self.targeted.contains(path)).collect();
        add_names(config, &self.targeted, others);
        Ok(())
    }
}

pub(super) fn add_names(config: &mut AdapterConfig, targeted: &BTreeSet<String>, others: Vec<String>) {
    match &mut config.target_modules {
        _ if targeted.is_empty() => {}
        Some(ModuleNames::List(list)) => list.extend(targeted.iter().cloned()),
        Some(ModuleNames::Pattern(pattern)) if pattern.to_lowercase() != ALL_LINEAR => {
            let names: Vec<_> = targeted.iter().map(|name| escape(name).into_owned()).collect();
            *pattern = format!("(?:{pattern})|{}", names.join("|"));
        }
        _ => {}
    }
    if others.is_empty() {
        return;
    }
    match &mut config.exclude_modules {
        Some(ModuleNames::List(list)) => list.extend(others),
        Some(ModuleNames::Pattern(pattern)) => {
            let names: Vec<_> = others.iter().map(|name| escape(name).into_owned()).collect();
            *pattern = format!("(?:{pattern})|{}", names.join("|"));
        }
        None => config.exclude_modules = Some(ModuleNames::List(others)),
    }
}

/// One expert's A \[r, in\], and the rows of its B \[out, r\] that belong to one of the matrices. The expert is the slowest
/// index of A's rows and the fastest of B's columns.
fn of_expert(
    layer: &AdapterLayer,
    (expert, experts): (usize, usize),
    (matrix, matrices): (usize, usize),
) -> AdapterLayer {
    let (stacked, input, output) = (layer.a.shape()[0], layer.a.shape()[1], layer.b.shape()[0]);
    let (rank, rows) = (stacked / experts, output / matrices);
    let b_columns: Vec<usize> = (expert..stacked).step_by(experts).collect();
    AdapterLayer {
        a: select(&layer.a, expert * rank..(expert + 1) * rank, &(0..input).collect::<Vec<_>>()),
        b: select(&layer.b, matrix * rows..(matrix + 1) * rows, &b_columns),
        bias: None,
        magnitude: None,
        embedding: false,
    }
}

fn select(matrix: &Tensor, rows: std::ops::Range<usize>, columns: &[usize]) -> Tensor {
    let width = matrix.shape()[1];
    let shape = [rows.len(), columns.len()];
    each_type!(matrix.values(), values => {
        let row = |row: usize| columns.iter().map(move |column| values[row * width + column]);
        Tensor::of(&shape, rows.flat_map(row).collect())
    })
}

//! Experts that are one parameter in memory and apart in the files.
//!
//! transformers 5 stacks the experts of a layer when it loads a model (`experts.gate_up_proj` \[experts, 2·inner, hidden\],
//! `experts.down_proj` \[experts, hidden, inner\]) and takes them apart when it saves one. Adapters of the stacked
//! parameters (`target_parameters`) become adapters of the single matrices here. The layouts are those of
//! `conversion_mapping.py` in transformers 5.24.

use crate::adapter::{Adapter, AdapterLayer};
use crate::checkpoint::Checkpoint;
use crate::config::{AdapterConfig, ModuleNames};
use crate::matching::Matcher;
use crate::naming::Naming;
use crate::parameters::{ends, layer_key};
use crate::tensor::{Tensor, each_type};
use crate::{Error, Result};
use fancy_regex::escape;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// How models of some types name the experts in their files.
struct Layout {
    model_types: &'static [&'static str],
    /// What `.mlp.` is called in the files.
    block: &'static str,
    /// Matrices that `gate_up_proj` consists of, in the order of its rows.
    gate_up: [&'static str; 2],
    down: &'static str,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        model_types: &["mixtral", "minimax"],
        block: ".block_sparse_moe.",
        gate_up: ["w1", "w3"],
        down: "w2",
    },
    Layout {
        model_types: &[
            "deepseek_v2",
            "deepseek_v3",
            "dots1",
            "ernie4_5_moe",
            "flex_olmo",
            "glm4_moe",
            "hunyuan_v1_moe",
            "olmoe",
            "qwen2_moe",
            "qwen3_moe",
            "qwen3_next",
        ],
        block: MLP,
        gate_up: ["gate_proj", "up_proj"],
        down: "down_proj",
    },
];
const MLP: &str = ".mlp.";

/// The adapter as it applies to this checkpoint: with a layer for each expert's matrix if the experts are apart in the
/// files, and otherwise as it is.
///
/// # Errors
/// A tensor is missing or has the wrong shape; the error names it.
pub fn apart<'a>(adapter: &'a Adapter, checkpoint: &Checkpoint) -> Result<Cow<'a, Adapter>> {
    let model_type = checkpoint.model_config().get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(layout) = LAYOUTS.iter().find(|layout| layout.model_types.contains(&model_type)) else {
        return Ok(Cow::Borrowed(adapter));
    };
    let naming = Naming::find(adapter, checkpoint);
    let experts = layout.find(checkpoint, &naming)?;
    if experts.is_empty() || adapter.config.target_parameters.is_empty() {
        return Ok(Cow::Borrowed(adapter));
    }
    let mut taken = TakenApart {
        layout,
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
    Ok(Cow::Owned(taken.adapter))
}

/// What to say of experts that are apart in the files where a stacked parameter was sought; empty if they are not.
pub(crate) fn hint(checkpoint: &Checkpoint) -> String {
    let Some(name) = checkpoint.tensors().keys().find(|name| name.contains(".experts.0.")) else {
        return String::new();
    };
    let model_type = checkpoint.model_config().get("model_type").unwrap_or(&Value::Null);
    match LAYOUTS.iter().any(|layout| layout.model_types.iter().any(|known| model_type == known)) {
        true => format!(
            "; it keeps the experts apart (`{name}`), and so a new adapter names them in `target_modules`"
        ),
        false => format!(
            "; it keeps the experts apart (`{name}`), and how models of type {model_type} stack them is not known"
        ),
    }
}

impl Layout {
    fn matrices(&self, parameter: &str) -> &[&'static str] {
        if parameter == "down_proj" { std::slice::from_ref(&self.down) } else { &self.gate_up }
    }

    /// Modules with experts, under their names in the file, and how many experts each has.
    fn find(&self, checkpoint: &Checkpoint, naming: &Naming) -> Result<BTreeMap<String, usize>> {
        let mut found: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        let ending = format!(".{}.weight", self.down);
        for name in checkpoint.tensors().keys() {
            let name = naming.to_model(name);
            let expert = name.strip_suffix(&ending).and_then(|path| path.rsplit_once('.'));
            if let Some((module, index)) = expert
                && module.ends_with(".experts")
                && let Ok(index) = index.parse()
            {
                found.entry(module.to_owned()).or_default().insert(index);
            }
        }
        let count =
            |(module, indices): (String, BTreeSet<usize>)| match (0..).zip(&indices).find(|(i, j)| i != *j) {
                Some((missing, _)) => Err(Error::tensor(
                    format!("{module}.{missing}{ending}"),
                    "missing between the other experts",
                )),
                None => Ok((module, indices.len())),
            };
        found.into_iter().map(count).collect()
    }

    /// The name in memory of what the files call `name`.
    fn in_memory(&self, name: &str) -> String {
        name.replacen(self.block, MLP, 1)
    }
}

struct TakenApart<'a> {
    layout: &'a Layout,
    matcher: Matcher,
    adapter: Adapter,
    /// The parameters that were taken apart, under their names in memory.
    parameters: Vec<String>,
    /// Modules that have an adapter now.
    targeted: BTreeSet<String>,
    /// Rank and α of the matrices of a parameter: by parameter and module.
    patterns: BTreeMap<&'static str, Vec<(String, usize, f64)>>,
}

impl TakenApart<'_> {
    fn take_experts(&mut self, module: &str, experts: usize) -> Result<()> {
        let in_memory = self.layout.in_memory(module);
        // In the order of their definition.
        let names: Vec<&'static str> = ["gate_up_proj", "down_proj"]
            .into_iter()
            .filter(|name| self.matcher.targets_parameter(&format!("{in_memory}.{name}")))
            .collect();
        for (index, name) in names.iter().enumerate() {
            let parameter = format!("{in_memory}.{name}");
            let key = layer_key(&in_memory, index, names.len());
            let Some(layer) = self.adapter.layers.remove(&key) else {
                return Err(Error::tensor(
                    format!("base_model.model.{key}.lora_A.weight"),
                    format!("missing, although the configuration targets the parameter `{parameter}`"),
                ));
            };
            let rank = self.matcher.rank(&parameter)?;
            let matrices = self.layout.matrices(name);
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
                    let layer = part(&layer, (expert, experts), (position, matrices.len()));
                    self.adapter.layers.insert(path.clone(), layer);
                    self.targeted.insert(path);
                }
            }
            let alpha = self.matcher.alpha(&parameter)?;
            self.patterns.entry(name).or_default().push((module.to_owned(), rank, alpha));
            self.parameters.push(parameter);
        }
        Ok(())
    }

    /// Other parameters, such as the router's, have no more than another name in the files.
    fn rename_others(&mut self, checkpoint: &Checkpoint, naming: &Naming) -> Result<()> {
        for name in checkpoint.tensors().keys() {
            let name = naming.to_model(name);
            let parameter = self.layout.in_memory(&name);
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
            let matrices = self.layout.matrices(parameter).join("|");
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
            let matrices = self.layout.gate_up.into_iter().chain([self.layout.down]);
            matrices
                .flat_map(move |matrix| (0..*count).map(move |expert| format!("{module}.{expert}.{matrix}")))
        });
        let others: Vec<String> = all.filter(|path| !self.targeted.contains(path)).collect();
        add_names(config, &self.targeted, others);
        Ok(())
    }
}

fn add_names(config: &mut AdapterConfig, targeted: &BTreeSet<String>, others: Vec<String>) {
    match &mut config.target_modules {
        Some(ModuleNames::List(list)) => list.extend(targeted.iter().cloned()),
        Some(ModuleNames::Pattern(pattern)) if pattern.to_lowercase() != crate::matching::ALL_LINEAR => {
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
fn part(
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

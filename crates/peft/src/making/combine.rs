//! New adapters from weighted old ones, as PEFT's `add_weighted_adapter` makes them.

use super::linalg::truncated_svd;
use crate::adapter::{Adapter, AdapterLayer, ModuleNames, Weighted};
use crate::binding::Site;
use crate::tensor::Tensor;
use crate::update::Term;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// How adapters are combined into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// A = Σ ±√|w·s|·A, B = Σ √|w·s|·B: cheap, of the same rank, and a rough approximation. Ranks must be equal.
    Linear,
    /// A and B side by side, A scaled by w·s: exact; the rank is the sum of ranks.
    Cat,
    /// The truncated singular value decomposition of Σ w·s·B·A: the best adapter of its rank.
    Svd {
        /// The new rank; the largest of the old ones if `None`.
        rank: Option<usize>,
    },
}

/// Combines adapters whose sites are given beside them. The new adapter has α = r, so that its s is 1.
///
/// PEFT keeps `use_rslora` of the first adapter, which would scale the new one by √r; here it is switched off.
///
/// # Errors
/// An adapter has DoRA magnitudes, a bias, experts, or tensors of its own for the base model; or ranks do not go
/// together.
pub(crate) fn combine(inputs: &[(Weighted<'_>, &[Site])], how: Combination) -> Result<Adapter> {
    let Some((first, _)) = inputs.first() else {
        return Err(Error::adapter("", "nothing to combine"));
    };
    for (input, _) in inputs {
        let config = &input.adapter.config;
        for (key, present) in [
            ("use_dora", config.dora),
            ("lora_bias", config.lora_bias),
            ("target_parameters", !config.target_parameters.is_empty()),
            ("modules_to_save", !input.adapter.replaced.is_empty()),
        ] {
            if present {
                return Err(Error::adapter(&input.name, format!("cannot be combined: it uses `{key}`")));
            }
        }
    }
    let ranks: Vec<usize> = inputs.iter().map(|(input, sites)| largest_rank(input.adapter, sites)).collect();
    let rank = match how {
        Combination::Linear if ranks.iter().any(|rank| *rank != ranks[0]) => {
            return Err(Error::adapter(
                &first.name,
                format!("linear combination needs equal ranks, found {ranks:?}"),
            ));
        }
        Combination::Linear => ranks[0],
        Combination::Cat => ranks.iter().sum(),
        Combination::Svd { rank } => rank.unwrap_or(ranks.iter().copied().max().unwrap_or(1)),
    };
    if rank == 0 {
        return Err(Error::config("r", "must be at least 1"));
    }
    let modules: BTreeSet<&String> =
        inputs.iter().flat_map(|(input, _)| input.adapter.layers.keys()).collect();
    let mut layers = BTreeMap::new();
    for module in &modules {
        let terms: Vec<Term<'_>> = inputs
            .iter()
            .filter_map(|(input, sites)| {
                let site = sites.iter().find(|site| site.layer == **module)?;
                Some(Term { weight: input.weight, ..Term::new(site, &input.adapter.layers[*module]) })
            })
            .collect();
        layers.insert((*module).clone(), combine_layer(module, &terms, how, rank)?);
    }
    let mut config = first.adapter.config.clone();
    config.rank = rank;
    config.alpha = rank as f64;
    config.rank_stabilized = false;
    config.rank_pattern.clear();
    config.alpha_pattern.clear();
    config.layers_to_transform = None;
    config.layers_pattern.clear();
    config.exclude_modules = None;
    config.target_modules = Some(ModuleNames::List(modules.into_iter().cloned().collect()));
    Ok(Adapter { config, layers, replaced: BTreeMap::new(), notes: Vec::new() })
}

fn largest_rank(adapter: &Adapter, sites: &[Site]) -> usize {
    sites.iter().map(|site| site.rank).max().unwrap_or(adapter.config.rank)
}

fn combine_layer(module: &str, terms: &[Term<'_>], how: Combination, rank: usize) -> Result<AdapterLayer> {
    let first = terms.first().ok_or_else(|| Error::module(module, "has no adapter"))?.layer;
    let input: usize = first.a.shape()[1..].iter().product();
    let output = first.b.shape()[0];
    let fits = |term: &Term<'_>| {
        (term.layer.a.shape()[1..] == first.a.shape()[1..]) && term.layer.b.shape()[0] == output
    };
    if !terms.iter().all(fits) {
        return Err(Error::module(module, "the adapters have different shapes"));
    }
    let (mut a, mut b) = (vec![0.0f64; rank * input], vec![0.0f64; output * rank]);
    match how {
        Combination::Linear => {
            for term in terms {
                if term.layer.a.shape()[0] != rank {
                    return Err(Error::module(module, "linear combination needs equal ranks"));
                }
                let root = term.factor().abs().sqrt();
                let signed = if term.factor() < 0.0 { -root } else { root };
                a.iter_mut()
                    .zip(term.layer.a.to_f32())
                    .for_each(|(sum, value)| *sum += signed * f64::from(value));
                b.iter_mut()
                    .zip(term.layer.b.to_f32())
                    .for_each(|(sum, value)| *sum += root * f64::from(value));
            }
        }
        Combination::Cat => {
            let mut start = 0;
            for term in terms {
                let own = term.layer.a.shape()[0];
                for (index, value) in term.layer.a.to_f32().into_iter().enumerate() {
                    a[start * input + index] = term.factor() * f64::from(value);
                }
                for (index, value) in term.layer.b.to_f32().into_iter().enumerate() {
                    b[index / own * rank + start + index % own] = f64::from(value);
                }
                start += own;
            }
        }
        Combination::Svd { .. } => {
            let svd = truncated_svd(&sum_of(terms, output, input), output, input, rank)?;
            let found = svd.values.len();
            a[..found * input].copy_from_slice(&svd.right);
            for (index, value) in svd.left.iter().enumerate() {
                b[index / found * rank + index % found] = value * svd.values[index % found];
            }
        }
    }
    let (mut a_shape, mut b_shape) = (first.a.shape().to_vec(), first.b.shape().to_vec());
    (a_shape[0], b_shape[1]) = (rank, rank);
    let tensor = |shape: &[usize], values: Vec<f64>| {
        Tensor::of(shape, values.into_iter().map(|value| value as f32).collect()).cast(first.a.dtype())
    };
    Ok(AdapterLayer {
        a: tensor(&a_shape, a),
        b: tensor(&b_shape, b),
        bias: None,
        magnitude: None,
        embedding: first.embedding,
    })
}

/// Σ w·s·B·A \[out, in\].
fn sum_of(terms: &[Term<'_>], output: usize, input: usize) -> Vec<f64> {
    let mut sum = vec![0.0; output * input];
    for term in terms {
        let (a, b) = (term.layer.a.to_f32(), term.layer.b.to_f32());
        let rank = term.layer.a.shape()[0];
        for (row, b) in sum.chunks_mut(input).zip(b.chunks(rank)) {
            for (k, b) in b.iter().enumerate() {
                let factor = term.factor() * f64::from(*b);
                let a = &a[k * input..(k + 1) * input];
                row.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * f64::from(*a));
            }
        }
    }
    sum
}

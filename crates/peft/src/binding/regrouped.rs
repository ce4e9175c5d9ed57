//! Matrices that the adapter's model has apart and the checkpoint as one, and the other way round: queries, keys and values,
//! gate and up, and the experts of a layer.
//!
//! Several adapters of parts become one adapter of the whole: W + s·B·A with the As one below another and the Bs along the
//! diagonal. An adapter of the whole becomes one for each part, with the same A and the part's rows of B. The sums are the same.

use super::naming::Naming;
use super::parameters::{in_order, layer_key};
use super::separate_experts::add_names;
use crate::adapter::{Adapter, AdapterConfig, AdapterLayer, Match, Matcher};
use crate::checkpoint::Checkpoint;
use crate::families::{self, Fused};
use crate::tensor::Tensor;
use crate::{Error, Result};
use fancy_regex::escape;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The adapter with layers for what the checkpoint has as one matrix where it had some for its parts, and for parts where it
/// had one for the whole; as it is if there is no such thing.
///
/// # Errors
/// A part is missing although the configuration targets it, shapes do not fit, or the adapter is of a kind that cannot be put
/// together or taken apart.
pub(super) fn regrouped<'a>(adapter: &'a Adapter, checkpoint: &Checkpoint) -> Result<Cow<'a, Adapter>> {
    let naming = Naming::find(adapter, checkpoint);
    let base = Base { checkpoint, naming };
    let without: Vec<&String> =
        adapter.layers.keys().filter(|key| base.shape(&format!("{key}.weight")).is_none()).collect();
    if without.is_empty() {
        return Ok(Cow::Borrowed(adapter));
    }
    let matcher = Matcher::new(&adapter.config)?;
    let mut regroup =
        Regroup { base, matcher, old: adapter, new: adapter.clone(), targeted: BTreeSet::new() };
    let fused = families::fused(checkpoint.model_config());
    let mut experts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in without {
        if !regroup.new.layers.contains_key(key) {
            continue;
        }
        if let Some((whole, parts)) = fused.iter().find_map(|fused| regroup.whole_of(key, fused)) {
            regroup.join_rows(&whole, &parts)?;
        } else if let Some(parts) = fused.iter().find_map(|fused| regroup.parts_of(key, fused)) {
            regroup.split_rows(key, &parts)?;
        } else if let Some((module, parameter)) = regroup.stacked_of(key) {
            experts.entry(module).or_default().insert(parameter);
        } else {
            regroup.check_not_fused(key)?;
        }
    }
    for (module, parameters) in experts {
        regroup.stack_experts(&module, parameters)?;
    }
    if regroup.targeted.is_empty() && regroup.new.layers.len() == adapter.layers.len() {
        return Ok(Cow::Borrowed(adapter));
    }
    add_names(&mut regroup.new.config, &regroup.targeted, Vec::new());
    Ok(Cow::Owned(regroup.new))
}

struct Base<'a> {
    checkpoint: &'a Checkpoint,
    naming: Naming,
}

impl Base<'_> {
    /// The shape of what the model calls `name`.
    fn shape(&self, name: &str) -> Option<&[usize]> {
        let file = self.naming.to_file(name, self.checkpoint);
        self.checkpoint.tensors().get(&file).map(|info| info.shape.as_slice())
    }
}

struct Regroup<'a> {
    base: Base<'a>,
    matcher: Matcher,
    old: &'a Adapter,
    new: Adapter,
    /// Modules that have a layer now.
    targeted: BTreeSet<String>,
}

/// A part, with the rows of the whole that are its.
struct Part<'a> {
    layer: &'a AdapterLayer,
    rows: Range<usize>,
    scale: f64,
}

impl Regroup<'_> {
    /// The matrix that has `key` as a part, and all of its parts in the order of its rows.
    fn whole_of(&self, key: &str, fused: &Fused) -> Option<(String, Vec<String>)> {
        let parent = fused.parts.iter().find_map(|part| before(key, part))?;
        let whole = format!("{parent}{}", fused.whole);
        let is_there = self.base.shape(&format!("{whole}.weight")).is_some_and(|shape| shape.len() == 2);
        is_there.then(|| (whole, fused.parts.iter().map(|part| format!("{parent}{part}")).collect()))
    }

    /// The matrices that `key` is the whole of, if the checkpoint has all of them.
    fn parts_of(&self, key: &str, fused: &Fused) -> Option<Vec<String>> {
        let parent = before(key, &fused.whole)?;
        let parts: Vec<String> = fused.parts.iter().map(|part| format!("{parent}{part}")).collect();
        parts.iter().all(|part| self.base.shape(&format!("{part}.weight")).is_some()).then_some(parts)
    }

    /// The module and the stacked parameter that a layer of one expert is a part of: `experts.down_projs.3`, `experts.3.w2`.
    fn stacked_of(&self, key: &str) -> Option<(String, String)> {
        let mut parts = key.rsplitn(3, '.');
        let (last, middle, module) = (parts.next()?, parts.next()?, parts.next()?);
        if module.rsplit('.').next() != Some("experts") {
            return None;
        }
        let parameter = match (last.parse::<usize>(), middle.parse::<usize>()) {
            (Ok(_), _) => middle.strip_suffix('s')?.to_owned(),
            (_, Ok(_)) => {
                let known = families::experts(self.base.checkpoint.model_config())?.parameters;
                known.into_iter().find(|(_, matrices)| matrices.iter().any(|matrix| matrix == last))?.0
            }
            _ => return None,
        };
        let shape = self.base.shape(&format!("{module}.{parameter}"))?;
        (shape.len() == 3).then(|| (module.to_owned(), parameter))
    }

    fn join_rows(&mut self, whole: &str, parts: &[String]) -> Result<()> {
        self.check_kind(whole)?;
        let total = self.base.shape(&format!("{whole}.weight")).map_or(0, |shape| shape[0]);
        let layers: Vec<Option<&AdapterLayer>> = parts.iter().map(|part| self.old.layers.get(part)).collect();
        for (part, layer) in parts.iter().zip(&layers) {
            if layer.is_none() && self.matcher.matches(part)? == Match::Targeted {
                return Err(missing(part));
            }
        }
        if self.old.config.dora && layers.iter().any(Option::is_none) {
            return Err(Error::module(
                whole,
                "the checkpoint has it as one matrix, and a DoRA adapter of some of its parts cannot be merged into it",
            ));
        }
        let known: Vec<Option<usize>> =
            layers.iter().map(|layer| Some(layer.as_ref()?.b.shape()[0])).collect();
        let sizes = sizes(&known, total).ok_or_else(|| {
            Error::module(
                whole,
                format!("the adapters of its parts, with {known:?} rows, do not fit its {total} rows"),
            )
        })?;
        let mut found = Vec::new();
        let mut start = 0;
        for ((part, layer), size) in parts.iter().zip(layers).zip(sizes) {
            if let Some(layer) = layer {
                found.push(Part { layer, rows: start..start + size, scale: self.matcher.scale(part)? });
            }
            start += size;
        }
        let (layer, scale) = joined(whole, &found, total)?;
        let rank = layer.a.shape()[0];
        parts.iter().for_each(|part| {
            self.new.layers.remove(part);
        });
        self.new.layers.insert(whole.to_owned(), layer);
        set_scale(&mut self.new.config, whole, rank, scale);
        self.targeted.insert(whole.to_owned());
        Ok(())
    }

    fn split_rows(&mut self, whole: &str, parts: &[String]) -> Result<()> {
        self.check_kind(whole)?;
        let layer = &self.old.layers[whole];
        let sizes: Vec<usize> = parts
            .iter()
            .map(|part| self.base.shape(&format!("{part}.weight")).map_or(0, |shape| shape[0]))
            .collect();
        let out = layer.b.shape()[0];
        if layer.a.shape().len() != 2 || sizes.iter().sum::<usize>() != out {
            return Err(Error::module(
                whole,
                format!(
                    "its adapter has {out} rows, but the checkpoint keeps it as matrices of {sizes:?} rows"
                ),
            ));
        }
        let (rank, alpha) = (self.matcher.rank(whole)?, self.matcher.alpha(whole)?);
        let mut start = 0;
        for (part, size) in parts.iter().zip(sizes) {
            let rows = start..start + size;
            let vector = |tensor: &Tensor| rows_of(tensor, &rows);
            let layer = AdapterLayer {
                a: layer.a.clone(),
                b: rows_of(&layer.b, &rows),
                bias: layer.bias.as_ref().map(vector),
                magnitude: layer.magnitude.as_ref().map(vector),
                embedding: false,
            };
            self.new.layers.insert(part.clone(), layer);
            set_alpha(&mut self.new.config, part, rank, alpha);
            self.targeted.insert(part.clone());
            start += size;
        }
        self.new.layers.remove(whole);
        Ok(())
    }

    /// Puts the layers of single experts of a module together to layers of its stacked parameters.
    fn stack_experts(&mut self, module: &str, parameters: BTreeSet<String>) -> Result<()> {
        let names = parameters.iter().map(|parameter| format!("{module}.{parameter}")).collect();
        let names = in_order(module, names)?;
        for (index, name) in names.iter().enumerate() {
            let (layer, rank, scale) = self.stacked(module, name)?;
            let key = layer_key(module, index, names.len());
            if self.new.layers.insert(key.clone(), layer).is_some() {
                return Err(Error::module(key, "has adapters of single experts and of all of them"));
            }
            set_scale(&mut self.new.config, name, rank, scale);
            self.new.config.target_parameters.push(name.clone());
        }
        Ok(())
    }

    /// The layer of a stacked parameter, the rank of each expert, and the scale.
    fn stacked(&mut self, module: &str, name: &str) -> Result<(AdapterLayer, usize, f64)> {
        self.check_kind(name)?;
        if self.old.config.dora || self.old.config.lora_bias {
            return Err(Error::module(
                name,
                "the checkpoint has one parameter for all experts, into which DoRA and `lora_bias` of single ones cannot be merged",
            ));
        }
        let parameter = &name[module.len() + 1..];
        let experts = self.base.shape(name).map_or(0, |shape| shape[0]);
        let matrices = families::experts(self.base.checkpoint.model_config()).and_then(|known| {
            known.parameters.into_iter().find(|(known, _)| known == parameter).map(|(_, matrices)| matrices)
        });
        let mut all = Vec::new();
        for expert in 0..experts {
            let one = format!("{module}.{parameter}s.{expert}");
            let several = matrices.iter().flatten().map(|matrix| format!("{module}.{expert}.{matrix}"));
            let several: Vec<String> = several.collect();
            let paths =
                if self.old.layers.contains_key(&one) || several.is_empty() { vec![one] } else { several };
            all.push(self.of_expert(&paths)?);
        }
        let placed = all.iter().flatten().flat_map(|expert| &expert.parts);
        let Some((input, out)) = all.iter().flatten().map(|expert| (expert.input, expert.out)).next() else {
            return Err(Error::module(name, "no expert of the checkpoint has an adapter"));
        };
        if let Some((path, ..)) = placed.clone().find(|(_, layer, _)| layer.a.shape()[1] != input) {
            return Err(Error::module(path, "its adapter has another shape than those of other experts"));
        }
        if all.iter().flatten().any(|expert| expert.out != out) {
            return Err(Error::module(name, "the adapters of its experts have different shapes"));
        }
        let found: Vec<Part<'_>> =
            placed.clone().map(|(_, layer, scale)| Part { layer, rows: 0..out, scale: *scale }).collect();
        let scale = common_scale(&found);
        let rank = all.iter().flatten().map(|expert| expert.rank).max().unwrap_or(0);
        let mut a = vec![0.0; experts * rank * input];
        let mut b = vec![0.0; out * rank * experts];
        for (expert, parts) in all.iter().enumerate() {
            let (mut place, mut row) = (0, 0);
            for (_, layer, own) in parts.iter().flat_map(|expert| &expert.parts) {
                let (r, rows) = (layer.a.shape()[0], layer.b.shape()[0]);
                let start = (expert * rank + place) * input;
                a[start..start + r * input].copy_from_slice(&layer.a.to_f32());
                for (index, value) in layer.b.to_f32().into_iter().enumerate() {
                    // The expert is the slowest index of A's rows and the fastest of B's columns.
                    let column = (place + index % r) * experts + expert;
                    b[(row + index / r) * rank * experts + column] = rescaled(value, *own, scale);
                }
                (place, row) = (place + r, row + rows);
            }
        }
        let keys: Vec<String> = placed.map(|(path, ..)| path.clone()).collect();
        let layer = AdapterLayer {
            a: in_type_of(Tensor::of(&[experts * rank, input], a), &found, |layer| &layer.a),
            b: in_type_of(Tensor::of(&[out, rank * experts], b), &found, |layer| &layer.b),
            bias: None,
            magnitude: None,
            embedding: false,
        };
        keys.iter().for_each(|key| {
            self.new.layers.remove(key);
        });
        Ok((layer, rank, scale))
    }

    /// The layers of one expert, which has all or none.
    fn of_expert(&self, paths: &[String]) -> Result<Option<Expert<'_>>> {
        let found: Vec<(&String, Option<&AdapterLayer>)> =
            paths.iter().map(|path| (path, self.old.layers.get(path))).collect();
        let has_some = found.iter().any(|(_, layer)| layer.is_some());
        let mut parts = Vec::new();
        for (path, layer) in found {
            match layer {
                Some(layer) if layer.a.shape().len() == 2 => {
                    parts.push((path.clone(), layer, self.matcher.scale(path)?));
                }
                Some(_) => return Err(Error::module(path, "its adapter is none of a linear layer")),
                // Where a part's rows lie is known by those of the others.
                None if has_some || self.matcher.matches(path)? == Match::Targeted => {
                    return Err(missing(path));
                }
                None => {}
            }
        }
        Ok((!parts.is_empty()).then(|| Expert {
            input: parts[0].1.a.shape()[1],
            out: parts.iter().map(|(_, layer, _)| layer.b.shape()[0]).sum(),
            rank: parts.iter().map(|(_, layer, _)| layer.a.shape()[0]).sum(),
            parts,
        }))
    }

    fn check_kind(&self, name: &str) -> Result<()> {
        match self.old.config.init.takes_from_base() {
            true => Err(Error::module(
                name,
                "the checkpoint has it otherwise, as one matrix or as several, and PiSSA and OLoRA adapters cannot be made to fit",
            )),
            false => Ok(()),
        }
    }

    /// Where the checkpoint has a matrix that may well be this one's and others' in one, the error says so.
    fn check_not_fused(&self, key: &str) -> Result<()> {
        let (parent, last) = key.rsplit_once('.').map_or(("", key), |(parent, last)| (parent, last));
        let wholes: &[&str] = match last {
            "q_proj" | "k_proj" | "v_proj" | "query" | "key" | "value" => {
                &["qkv_proj", "query_key_value", "Wqkv", "qkv", "c_attn", "in_proj", "att_proj"]
            }
            "gate_proj" | "up_proj" => &["gate_up_proj", "up_gate_proj", "w12", "wi"],
            _ => return Ok(()),
        };
        let path =
            |whole: &&str| if parent.is_empty() { (*whole).to_owned() } else { format!("{parent}.{whole}") };
        let whole =
            wholes.iter().map(path).find(|whole| self.base.shape(&format!("{whole}.weight")).is_some());
        let model_type =
            self.base.checkpoint.model_config().get("model_type").unwrap_or(&serde_json::Value::Null);
        match whole {
            Some(whole) => Err(Error::module(
                key,
                format!(
                    "the checkpoint has it fused with others in `{whole}`, and in which order models of type {model_type} do \
                     that is not known; train an adapter of `{whole}`, or take a base that has them apart"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// The layers of one expert's matrices, one below the other.
struct Expert<'a> {
    /// Path, layer and scale of each.
    parts: Vec<(String, &'a AdapterLayer, f64)>,
    input: usize,
    out: usize,
    rank: usize,
}

fn missing(path: &str) -> Error {
    Error::tensor(
        format!("base_model.model.{path}.lora_A.weight"),
        "missing, although the configuration targets this module, which the checkpoint has fused with others",
    )
}

/// What stands before a name at the end of a path, with the dot.
fn before<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    path.strip_suffix(name).filter(|parent| parent.is_empty() || parent.ends_with('.'))
}

/// The rows of each part, where only those with an adapter are known: keys and values have the same, and otherwise all have.
fn sizes(known: &[Option<usize>], total: usize) -> Option<Vec<usize>> {
    let sizes = match *known {
        [queries, keys, values] => {
            let (keys, values) = (keys.or(values), values.or(keys));
            match (queries, keys, values) {
                (Some(queries), Some(keys), Some(values)) => vec![queries, keys, values],
                (Some(queries), ..) => {
                    let rest = total.checked_sub(queries)?;
                    vec![queries, rest / 2, rest - rest / 2]
                }
                (None, Some(keys), Some(values)) => vec![total.checked_sub(keys + values)?, keys, values],
                _ => return None,
            }
        }
        _ => vec![total / known.len().max(1); known.len()],
    };
    let fits = sizes.iter().sum::<usize>() == total
        && sizes.iter().zip(known).all(|(size, known)| known.is_none_or(|known| known == *size))
        && (sizes.len() != 3 || sizes[1] == sizes[2]);
    fits.then_some(sizes)
}

/// The scale of all parts; that of the first which does something if they differ.
fn common_scale(parts: &[Part<'_>]) -> f64 {
    parts.iter().map(|part| part.scale).find(|scale| *scale != 0.0).unwrap_or(0.0)
}

/// A value of B so that the common scale means what its own did.
fn rescaled(value: f32, own: f64, common: f64) -> f32 {
    if own == common || common == 0.0 { value } else { (f64::from(value) * own / common) as f32 }
}

/// One layer that does to the rows of each part what the part's does; and its scale.
fn joined(whole: &str, parts: &[Part<'_>], total: usize) -> Result<(AdapterLayer, f64)> {
    let input = parts[0].layer.a.shape().get(1).copied().unwrap_or(0);
    if parts.iter().any(|part| part.layer.a.shape().len() != 2 || part.layer.a.shape()[1] != input) {
        return Err(Error::module(whole, "the adapters of its parts have different inputs"));
    }
    let scale = common_scale(parts);
    let rank: usize = parts.iter().map(|part| part.layer.a.shape()[0]).sum();
    let mut a = Vec::with_capacity(rank * input);
    let mut b = vec![0.0; total * rank];
    let (mut bias, mut magnitude) = (vec![0.0; total], vec![0.0; total]);
    let (mut has_bias, mut has_magnitude) = (false, false);
    for Part { layer, rows, scale: own } in parts {
        let (place, r) = (a.len() / input.max(1), layer.a.shape()[0]);
        a.extend(layer.a.to_f32());
        for (index, value) in layer.b.to_f32().into_iter().enumerate() {
            b[(rows.start + index / r) * rank + place + index % r] = rescaled(value, *own, scale);
        }
        if let Some(tensor) = &layer.bias {
            has_bias = true;
            for (to, value) in bias[rows.clone()].iter_mut().zip(tensor.to_f32()) {
                *to = rescaled(value, *own, scale);
            }
        }
        if let Some(tensor) = &layer.magnitude {
            has_magnitude = true;
            magnitude[rows.clone()].copy_from_slice(&tensor.to_f32());
        }
    }
    let layer = AdapterLayer {
        a: in_type_of(Tensor::of(&[rank, input], a), parts, |layer| &layer.a),
        b: in_type_of(Tensor::of(&[total, rank], b), parts, |layer| &layer.b),
        bias: has_bias.then(|| Tensor::of(&[total], bias)),
        magnitude: has_magnitude.then(|| Tensor::of(&[total], magnitude)),
        embedding: false,
    };
    Ok((layer, scale))
}

/// A tensor in the element type of all parts, if they have one and the same scale, so that nothing is rounded.
fn in_type_of(tensor: Tensor, parts: &[Part<'_>], of: impl Fn(&AdapterLayer) -> &Tensor) -> Tensor {
    let Some(first) = parts.first() else { return tensor };
    let dtype = of(first.layer).dtype();
    match parts.iter().all(|part| of(part.layer).dtype() == dtype && part.scale == first.scale) {
        true => tensor.cast(dtype),
        false => tensor,
    }
}

fn rows_of(tensor: &Tensor, rows: &Range<usize>) -> Tensor {
    let width = tensor.shape().get(1).copied().unwrap_or(1);
    let mut shape = tensor.shape().to_vec();
    shape[0] = rows.len();
    let values = tensor.to_f32()[rows.start * width..rows.end * width].to_vec();
    Tensor::of(&shape, values).cast(tensor.dtype())
}

fn set_scale(config: &mut AdapterConfig, name: &str, rank: usize, scale: f64) {
    let rank_of = rank as f64;
    let alpha = scale * if config.rank_stabilized { rank_of.sqrt() } else { rank_of };
    set_alpha(config, name, rank, alpha);
}

fn set_alpha(config: &mut AdapterConfig, name: &str, rank: usize, alpha: f64) {
    let pattern = format!("^{}", escape(name));
    config.rank_pattern.insert(0, (pattern.clone(), rank));
    config.alpha_pattern.insert(0, (pattern, alpha));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_parts_without_an_adapter_follow_from_the_others() {
        type Case<'a> = (&'a [Option<usize>], usize, Option<&'a [usize]>);
        let cases: [Case<'_>; 10] = [
            (&[Some(16), Some(8), Some(8)], 32, Some(&[16, 8, 8])),
            (&[Some(16), None, Some(8)], 32, Some(&[16, 8, 8])),
            (&[Some(16), None, None], 32, Some(&[16, 8, 8])),
            (&[None, Some(8), None], 32, Some(&[16, 8, 8])),
            (&[None, None, Some(8)], 32, Some(&[16, 8, 8])),
            (&[None, Some(3)], 6, Some(&[3, 3])),
            // Nothing fits.
            (&[Some(16), Some(8), Some(9)], 33, None),
            (&[Some(40), None, None], 32, None),
            (&[Some(2), None], 6, None),
            (&[Some(15), None, None], 32, None),
        ];
        for (known, total, expected) in cases {
            assert_eq!(sizes(known, total).as_deref(), expected, "{known:?} of {total}");
        }
    }
}

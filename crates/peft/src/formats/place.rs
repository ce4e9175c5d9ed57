//! Fitting the names of kohya's and diffusers' modules to a checkpoint.

use super::assemble::{Scaled, assemble, escaped};
use super::endings::is_flattened;
use super::parts::{self, Part, TRANSFORMER};
use super::{flux_names, ldm_names};
use crate::adapter::{Adapter, AdapterLayer, Matcher, ModuleNames};
use crate::checkpoint::{Checkpoint, adaptable_modules};
use crate::error::{Error, Result};
use crate::note::Note;
use crate::tensor::Tensor;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The adapter with the checkpoint's names, if its own are kohya's or name a pipeline's parts; otherwise as it is.
///
/// Layers for other parts of a pipeline are left out, which the notes say. Query, key and value that are one matrix in the
/// adapter and three in the checkpoint are taken apart.
///
/// # Errors
/// The checkpoint is none of the parts that the adapter has layers for; the error names a module that it lacks.
pub fn place<'a>(adapter: &'a Adapter, checkpoint: &Checkpoint) -> Result<(Cow<'a, Adapter>, Vec<Note>)> {
    let has = |module: &str| checkpoint.tensors().contains_key(&format!("{module}.weight"));
    let is_pipeline_part = checkpoint.model_config().contains_key("_class_name");
    let is_foreign = |module: &String| {
        let named = match parts::split(module) {
            Some(_) => !module.starts_with(TRANSFORMER) || is_pipeline_part,
            None => flux_names::is_original(module),
        };
        named && !has(module)
    };
    if !adapter.layers.keys().any(is_foreign) {
        return Ok((Cow::Borrowed(adapter), Vec::new()));
    }
    if let Some(name) = adapter.replaced.keys().next() {
        return Err(Error::tensor(
            name,
            "whole tensors in an adapter for a pipeline's part are not supported",
        ));
    }
    let mut by_part: BTreeMap<Option<Part>, Vec<(&str, &String)>> = BTreeMap::new();
    for module in adapter.layers.keys() {
        let (part, name) = match parts::split(module) {
            Some((part, name)) => (Some(part), name),
            None => (None, module.as_str()),
        };
        by_part.entry(part).or_default().push((name, module));
    }
    let index = Index::new(checkpoint);
    let matcher = Matcher::new(&adapter.config)?;
    let resolved = |modules: &[(&str, &String)]| -> Result<BTreeMap<String, Scaled>> {
        let mut layers = BTreeMap::new();
        for (name, module) in modules {
            let layer = &adapter.layers[*module];
            let alpha = match adapter.config.rank_stabilized {
                true => matcher.scale(module)? * layer.a.shape()[0] as f64,
                false => matcher.alpha(module)?,
            };
            for (found, layer) in index.layers(name, module, layer)? {
                if layers.insert(found.clone(), Scaled { layer, alpha }).is_some() {
                    return Err(Error::module(*module, format!("another layer is for `{found}` too")));
                }
            }
        }
        Ok(layers)
    };
    let mut fitting = Vec::new();
    let mut failures = Vec::new();
    for (part, modules) in &by_part {
        match resolved(modules) {
            Ok(layers) => fitting.push((*part, layers)),
            Err(error) => failures.push((index.known(modules), error)),
        }
    }
    // The same text encoder may stand in a pipeline twice; the directory tells them apart.
    if fitting.len() > 1 {
        let directory = checkpoint.directory().canonicalize().unwrap_or_default();
        let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let called = |part: &Option<Part>| part.is_some_and(|part| part.is_called(&name));
        if fitting.iter().any(|(part, _)| called(part)) {
            fitting.retain(|(part, _)| called(part));
        }
    }
    let (part, layers) = match (fitting.len(), failures.into_iter().max_by_key(|(known, _)| *known)) {
        (1, _) => fitting.swap_remove(0),
        (0, Some((_, error))) => return Err(error),
        _ => {
            return Err(Error::NoMatch(format!(
                "the adapter's layers for {} fit this checkpoint equally well; give the pipeline's own directory of \
                 that name",
                fitting.iter().map(|(part, _)| called(*part)).collect::<Vec<_>>().join(" and for ")
            )));
        }
    };
    let notes = by_part
        .iter()
        .filter(|(other, _)| **other != part)
        .map(|(other, modules)| Note::OtherParts { part: called(*other).to_owned(), layers: modules.len() });
    let notes = notes.collect();
    let mut placed = assemble(layers, adapter.config.clone())?;
    name_exactly(&mut placed, &index);
    Ok((Cow::Owned(placed), notes))
}

fn called(part: Option<Part>) -> &'static str {
    part.map_or("the model itself", Part::directory)
}

/// A list of names also means modules that end with one of them: where the checkpoint has such, a pattern is needed.
fn name_exactly(adapter: &mut Adapter, index: &Index<'_>) {
    let means_more = index.modules.iter().any(|module| {
        !adapter.layers.contains_key(module)
            && module.match_indices('.').any(|(dot, _)| adapter.layers.contains_key(&module[dot + 1..]))
    });
    if means_more {
        let names: Vec<String> =
            adapter.layers.keys().map(|module| escaped(module).replace('.', r"\.")).collect();
        adapter.config.target_modules = Some(ModuleNames::Pattern(format!("(?:{})", names.join("|"))));
    }
}

/// The modules of a checkpoint by every name that adapters have for them, with underscores for dots.
struct Index<'a> {
    checkpoint: &'a Checkpoint,
    modules: BTreeSet<String>,
    /// Nothing where two modules have one name.
    names: HashMap<String, Option<Vec<String>>>,
}

impl<'a> Index<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Self {
        let modules: Vec<String> =
            adaptable_modules(checkpoint).into_iter().map(|(module, _)| module).collect();
        let mut index =
            Index { checkpoint, modules: modules.iter().cloned().collect(), names: HashMap::new() };
        for module in &modules {
            index.add(module, vec![module.clone()]);
        }
        let layers_per_block = checkpoint.model_config().get("layers_per_block").and_then(Value::as_u64);
        let layers_per_block = layers_per_block.and_then(|count| count.try_into().ok()).unwrap_or(2);
        for module in &modules {
            if let Some(original) = ldm_names::original(module, layers_per_block) {
                index.add(&original, vec![module.clone()]);
                // In blocks without attention.
                if let Some(block) = original.strip_suffix(".2.conv") {
                    index.add(&format!("{block}.1.conv"), vec![module.clone()]);
                }
            }
            // Versions of transformers differ in this.
            match module.strip_prefix("text_model.") {
                Some(inner) => index.add(inner, vec![module.clone()]),
                None => index.add(&format!("text_model.{module}"), vec![module.clone()]),
            }
        }
        let originals = flux_names::originals(&modules, |module| index.modules.contains(module));
        for (original, parts) in originals {
            index.add(&original, parts);
        }
        index
    }

    fn add(&mut self, name: &str, modules: Vec<String>) {
        let place = self.names.entry(name.replace('.', "_")).or_insert_with(|| Some(modules.clone()));
        if place.as_ref() != Some(&modules) {
            *place = None;
        }
    }

    fn find(&self, name: &str) -> Option<&[String]> {
        self.names.get(&name.replace('.', "_"))?.as_deref()
    }

    fn shape(&self, module: &str) -> &'a [usize] {
        let info = self.checkpoint.tensors().get(&format!("{module}.weight"));
        info.map_or(&[0, 0], |info| info.shape.as_slice())
    }

    /// How many of an adapter's modules there are here.
    fn known(&self, modules: &[(&str, &String)]) -> usize {
        modules.iter().filter(|(name, _)| self.find(name).is_some()).count()
    }

    /// The layers of the checkpoint's modules that a layer of an adapter stands for.
    fn layers(&self, name: &str, module: &str, layer: &AdapterLayer) -> Result<Vec<(String, AdapterLayer)>> {
        let Some(found) = self.find(name) else {
            let why = match is_flattened(module) {
                true => {
                    "the checkpoint has no module whose name becomes this one with `_` for dots, or more than one"
                }
                false => "the checkpoint has no such module",
            };
            return Err(Error::module(module, why));
        };
        let shape = |module: &str| self.shape(module);
        if let ([one], true) = (found, layer.embedding) {
            return Ok(vec![(one.clone(), layer.clone())]);
        }
        let unfit = |base: &[usize]| {
            let (a, b) = (layer.a.shape(), layer.b.shape());
            Error::module(module, format!("A {a:?} and B {b:?} do not fit the base weight {base:?}"))
        };
        let rows: usize = found.iter().map(|module| shape(module)[0]).sum();
        if rows != layer.b.shape()[0] || found.iter().any(|module| shape(module)[1] != layer.a.shape()[1]) {
            return Err(unfit(shape(&found[0])));
        }
        let mut start = 0;
        let mut layers = Vec::new();
        for module in found {
            let end = start + shape(module)[0];
            let part = rows_of(layer, start..end);
            layers.push((
                module.clone(),
                with_dimensions(part, shape(module)).ok_or_else(|| unfit(shape(module)))?,
            ));
            start = end;
        }
        Ok(layers)
    }
}

/// The layer of these outputs alone.
fn rows_of(layer: &AdapterLayer, rows: std::ops::Range<usize>) -> AdapterLayer {
    if rows == (0..layer.b.shape()[0]) {
        return layer.clone();
    }
    let cut = |tensor: &Tensor, dimension: usize| {
        let shape = tensor.shape();
        let size: usize = shape[dimension + 1..].iter().product();
        let mut new = shape.to_vec();
        new[dimension] = rows.len();
        let values = tensor.f32_range(rows.start * size..rows.end * size).into_owned();
        Tensor::of(&new, values).cast(tensor.dtype())
    };
    let magnitude_dimension = if layer.a.shape().len() == 2 { 0 } else { 1 };
    AdapterLayer {
        a: layer.a.clone(),
        b: cut(&layer.b, 0),
        bias: layer.bias.as_ref().map(|bias| cut(bias, 0)),
        magnitude: layer.magnitude.as_ref().map(|magnitude| cut(magnitude, magnitude_dimension)),
        embedding: layer.embedding,
    }
}

/// The layer for a weight that has more or fewer sizes of 1 behind: linear layers of some models are convolutions with
/// kernels of one element in others.
fn with_dimensions(layer: AdapterLayer, shape: &[usize]) -> Option<AdapterLayer> {
    if layer.a.shape().len() == shape.len() || layer.embedding {
        return Some(layer);
    }
    if shape[2..].iter().chain(&layer.a.shape()[2..]).any(|&size| size != 1) {
        return None;
    }
    let sized = |tensor: Tensor| {
        let mut new = tensor.shape()[..2].to_vec();
        new.resize(shape.len(), 1);
        tensor.reshape(&new).ok()
    };
    let mut new = AdapterLayer { a: sized(layer.a)?, b: sized(layer.b)?, magnitude: None, ..layer };
    if let Some(magnitude) = layer.magnitude {
        new.magnitude = Some(magnitude.reshape(&new.magnitude_shape()).ok()?);
    }
    Some(new)
}

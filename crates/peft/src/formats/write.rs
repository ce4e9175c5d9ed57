//! Writing an adapter in another program's format.

use super::endings::is_flattened;
use super::mlx::transposed;
use super::parts::{self, Part};
use crate::adapter::{Adapter, AdapterLayer, Matcher};
use crate::error::{AtPath, Error, Result};
use crate::files::{CONFIG_FILE, WEIGHTS_FILE};
use crate::tensor::{Tensor, file_type};
use lora_kernels::DType;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// A format that adapters are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// `lora.safetensors`, for sd-scripts and what reads its files.
    Kohya,
    /// `pytorch_lora_weights.safetensors`. B holds the scale: every version of diffusers takes it for 1.
    Diffusers,
    /// mlx-lm's `adapter_config.json` and `adapters.safetensors`.
    Mlx,
}

/// Writes the files of an adapter into a directory, and syncs them.
///
/// # Errors
/// The format has no place for something in the adapter, which the error names; or a file cannot be written.
pub fn write(adapter: &Adapter, target: Target, directory: &Path) -> Result<()> {
    let files: Vec<(&str, Vec<u8>)> = match target {
        Target::Peft => {
            let adapter = for_peft(adapter)?;
            let config = format!("{:#}\n", adapter.config.to_json());
            vec![(CONFIG_FILE, config.into_bytes()), (WEIGHTS_FILE, adapter.to_bytes()?)]
        }
        Target::Kohya => vec![("lora.safetensors", serialized(&kohya(adapter)?)?)],
        Target::Diffusers => {
            vec![("pytorch_lora_weights.safetensors", serialized(&diffusers(adapter)?)?)]
        }
        Target::Mlx => {
            let (config, tensors) = mlx(adapter)?;
            vec![(CONFIG_FILE, config.into_bytes()), ("adapters.safetensors", serialized(&tensors)?)]
        }
    };
    for (name, bytes) in files {
        let path = directory.join(name);
        std::fs::write(&path, bytes).at(&path)?;
        std::fs::File::open(&path).and_then(|file| file.sync_all()).at(&path)?;
    }
    Ok(())
}

fn serialized(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let malformed = |error| Error::malformed(Path::new(WEIGHTS_FILE), format!("{error:?}"));
    let views = tensors
        .iter()
        .map(|(name, tensor)| {
            let view = TensorView::new(file_type(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes());
            Ok((name.as_str(), view.map_err(malformed)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(malformed)
}

/// Only layers of A, B and magnitudes have a place in other formats.
fn check_plain(adapter: &Adapter, format: &str) -> Result<()> {
    if let Some(name) = adapter.replaced.keys().next() {
        return Err(Error::tensor(name, format!("{format} has no place for whole tensors")));
    }
    if !adapter.config.target_parameters.is_empty() {
        return Err(Error::config("target_parameters", format!("{format} has no place for stacked experts")));
    }
    if adapter.config.init.takes_from_base() {
        return Err(Error::config(
            "init_lora_weights",
            format!("{format} cannot say that the base weights are left with less (PiSSA, OLoRA)"),
        ));
    }
    for (module, layer) in &adapter.layers {
        if layer.bias.is_some() || layer.embedding {
            return Err(Error::module(module, format!("{format} has no place for a bias or an embedding")));
        }
    }
    Ok(())
}

fn check_dotted(adapter: &Adapter) -> Result<()> {
    match adapter.layers.keys().find(|module| is_flattened(module)) {
        Some(module) => Err(Error::module(
            module,
            "kohya's names have `_` for dots, which only the model's own names can undo; give its checkpoint with --base",
        )),
        None => Ok(()),
    }
}

/// PEFT's names are those of one model.
fn for_peft(adapter: &Adapter) -> Result<Adapter> {
    check_dotted(adapter)?;
    let named: BTreeSet<Option<Part>> = adapter.layers.keys().map(|module| part_in_front(module)).collect();
    if named.len() > 1 {
        let names: Vec<&str> = named.iter().map(|part| part.map_or("the model", Part::directory)).collect();
        return Err(Error::NoMatch(format!(
            "the adapter is for several parts of a pipeline ({}), and PEFT's adapters are for one model; choose with --base",
            names.join(", ")
        )));
    }
    Ok(adapter.clone())
}

/// GPT-2's modules too begin with `transformer.`.
fn part_in_front(module: &str) -> Option<Part> {
    parts::split(module).filter(|_| !module.starts_with(parts::TRANSFORMER)).map(|(part, _)| part)
}

/// The part that a module without a part's name in front belongs to.
fn likely_part(module: &str) -> Part {
    let of_text =
        ["text_model.", "encoder.block.", "encoder.layers."].iter().any(|start| module.starts_with(start));
    if of_text { Part::Text(1) } else { Part::Denoiser }
}

fn kohya(adapter: &Adapter) -> Result<BTreeMap<String, Tensor>> {
    check_plain(adapter, "kohya's format")?;
    let matcher = Matcher::new(&adapter.config)?;
    let placed = |module: &String| match parts::split(module) {
        Some((part, name)) => (part, name.to_owned()),
        None => (likely_part(module), module.clone()),
    };
    let only_one = !adapter.layers.keys().any(|module| matches!(placed(module).0, Part::Text(2..)));
    let mut tensors = BTreeMap::new();
    for (module, layer) in &adapter.layers {
        let name = if is_flattened(module) {
            module.clone()
        } else {
            let (part, name) = placed(module);
            format!("{}{}", part.kohya_prefix(only_one), name.replace('.', "_"))
        };
        let rank = layer.a.shape()[0];
        let alpha = match adapter.config.rank_stabilized {
            true => matcher.scale(module)? * rank as f64,
            false => matcher.alpha(module)?,
        };
        let mut add = |ending: &str, tensor: Tensor| match tensors.insert(format!("{name}.{ending}"), tensor)
        {
            Some(_) => Err(Error::module(module, format!("another module too becomes `{name}`"))),
            None => Ok(()),
        };
        add("lora_down.weight", layer.a.clone())?;
        add("lora_up.weight", layer.b.clone())?;
        add("alpha", Tensor::of(&[], vec![alpha as f32]))?;
        if let Some(magnitude) = &layer.magnitude {
            let mut shape = vec![1; layer.a.shape().len()];
            shape[0] = magnitude.len();
            add("dora_scale", magnitude.clone().reshape(&shape)?)?;
        }
    }
    Ok(tensors)
}

fn diffusers(adapter: &Adapter) -> Result<BTreeMap<String, Tensor>> {
    check_plain(adapter, "diffusers' format")?;
    check_dotted(adapter)?;
    let matcher = Matcher::new(&adapter.config)?;
    let is_unet = adapter.layers.keys().any(|module| {
        ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|start| module.starts_with(start))
    });
    let mut tensors = BTreeMap::new();
    for (module, layer) in &adapter.layers {
        let front = match (parts::split(module), likely_part(module)) {
            (Some(_), _) => "",
            (None, Part::Text(_)) => "text_encoder.",
            (None, Part::Denoiser) if is_unet => "unet.",
            (None, Part::Denoiser) => "transformer.",
        };
        let name = format!("{front}{module}");
        tensors.insert(format!("{name}.lora_A.weight"), layer.a.clone());
        tensors.insert(format!("{name}.lora_B.weight"), scaled(&layer.b, matcher.scale(module)?));
        if let Some(magnitude) = &layer.magnitude {
            tensors.insert(format!("{name}.lora_magnitude_vector"), magnitude.clone());
        }
    }
    Ok(tensors)
}

/// mlx-lm has one rank and one scale for all modules; where scales differ B holds them.
fn mlx(adapter: &Adapter) -> Result<(String, BTreeMap<String, Tensor>)> {
    let format = "mlx-lm's format";
    check_plain(adapter, format)?;
    check_dotted(adapter)?;
    let matcher = Matcher::new(&adapter.config)?;
    let mut ranks: Option<(usize, &String)> = None;
    let scales: BTreeSet<u64> =
        adapter.layers.keys().map(|module| Ok(matcher.scale(module)?.to_bits())).collect::<Result<_>>()?;
    let common = match scales.len() {
        1 => scales.first().map_or(1.0, |bits| f64::from_bits(*bits)),
        _ => 1.0,
    };
    let mut tensors = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for (module, layer) in &adapter.layers {
        let rank = layer.a.shape()[0];
        if layer.a.shape().len() != 2 {
            return Err(Error::module(module, format!("{format} has no place for convolutions")));
        }
        match ranks {
            Some((other, first)) if other != rank => {
                return Err(Error::module(
                    module,
                    format!(
                        "has rank {rank} and `{first}` has {other}; {format} has one rank for all modules"
                    ),
                ));
            }
            _ => ranks = Some((rank, module)),
        }
        let b = if scales.len() == 1 { layer.b.clone() } else { scaled(&layer.b, matcher.scale(module)?) };
        let AdapterLayer { a, magnitude, .. } = layer;
        tensors.insert(format!("{module}.lora_a"), transposed(a));
        tensors.insert(format!("{module}.lora_b"), transposed(&b));
        if let Some(magnitude) = magnitude {
            tensors.insert(format!("{module}.m"), magnitude.clone());
        }
        keys.insert(within_layer(module));
    }
    let config = json!({
        "fine_tune_type": if adapter.config.dora { "dora" } else { "lora" },
        // All of them.
        "num_layers": -1,
        "lora_parameters": {
            "rank": ranks.map_or(adapter.config.rank, |(rank, _)| rank),
            "scale": common,
            "dropout": f64::from(adapter.config.dropout),
            "keys": keys,
        },
    });
    Ok((format!("{config:#}\n"), tensors))
}

/// The path of a module inside its layer: what follows the first number.
fn within_layer(module: &str) -> &str {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut start = 0;
    for part in module.split('.') {
        start += part.len() + 1;
        if is_number(part) && start < module.len() {
            return &module[start..];
        }
    }
    module
}

/// B with the scale in it: in its own type if that holds every product exactly, else in `f32`.
fn scaled(b: &Tensor, scale: f64) -> Tensor {
    let exact: Vec<f64> = b.to_f32().into_iter().map(|value| f64::from(value) * scale).collect();
    let wide = Tensor::of(b.shape(), exact.iter().map(|value| *value as f32).collect::<Vec<f32>>());
    let narrow = wide.cast(b.dtype());
    let holds = narrow.to_f32().iter().zip(&exact).all(|(value, exact)| f64::from(*value) == *exact);
    if holds && b.dtype() != DType::F32 { narrow } else { wide }
}

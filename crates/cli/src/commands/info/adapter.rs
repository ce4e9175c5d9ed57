//! What an adapter holds, and what it does to a base.

use super::base::{kind_name, parameters};
use super::grouped::{counted, grouped, pattern};
use crate::failure::{About, Failure, Result};
use crate::table::Table;
use crate::units;
use lora_peft::adapter::Matcher;
use lora_peft::adapter::ModuleNames;
use lora_peft::binding::{Binding, fit};
use lora_peft::formats::Format;
use lora_peft::printable::{self, PARAGRAPH, PATH, line};
use lora_peft::{Adapter, AdapterLayer, Checkpoint, Note, Tensor};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug)]
pub struct AdapterInfo<'a> {
    path: &'a Path,
    format: Format,
    adapter: &'a Adapter,
    layers: Vec<Layer<'a>>,
    base: Option<BaseMatch>,
}

#[derive(Debug)]
struct Layer<'a> {
    module: Cow<'a, str>,
    scale: f64,
    tensors: Cow<'a, AdapterLayer>,
}

/// How the adapter fits a base, or why it does not.
#[derive(Debug)]
struct BaseMatch {
    base: String,
    parameters: u64,
    found: Result<Binding, String>,
}

impl<'a> AdapterInfo<'a> {
    pub fn new(path: &'a Path, format: Format, adapter: &'a Adapter) -> Result<Self> {
        let matcher = Matcher::new(&adapter.config).about(path)?;
        let layer = |(module, tensors): (&'a String, &'a AdapterLayer)| {
            Ok(Layer {
                module: Cow::Borrowed(module.as_str()),
                scale: matcher.scale(module).about(path)?,
                tensors: Cow::Borrowed(tensors),
            })
        };
        let layers = adapter.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(AdapterInfo { path, format, adapter, layers, base: None })
    }

    /// Looks for the adapter's modules in a base.
    pub fn match_with(&mut self, path: &Path, checkpoint: &Checkpoint) -> Result<()> {
        let bound = fit(self.adapter, checkpoint).map(|(adapter, binding)| {
            if let Cow::Owned(adapter) = adapter {
                // Stacked experts that the base keeps apart are shown as they are there.
                let layer = |(module, tensors): (String, AdapterLayer)| Layer {
                    module: Cow::Owned(module),
                    scale: 0.0,
                    tensors: Cow::Owned(tensors),
                };
                self.layers = adapter.layers.into_iter().map(layer).collect();
            }
            binding
        });
        // The scales of stacked experts are known by the parameter only.
        if let Ok(binding) = &bound {
            let scales: BTreeMap<&str, f64> =
                binding.sites.iter().map(|site| (site.layer.as_str(), site.scale)).collect();
            for layer in &mut self.layers {
                layer.scale = scales.get(&*layer.module).copied().unwrap_or(layer.scale);
            }
        }
        let error = bound.as_ref().err().map(|error| {
            Failure::Failed(format!("{} does not fit {}: {error}", self.path.display(), path.display()))
        });
        self.base = Some(BaseMatch {
            base: path.display().to_string(),
            parameters: parameters(checkpoint),
            found: bound.map_err(|error| error.to_string()),
        });
        error.map_or(Ok(()), Err)
    }

    /// What is to be said of how the adapter fits the base.
    pub fn notes(&self) -> &[Note] {
        match &self.base {
            Some(BaseMatch { found: Ok(binding), .. }) => &binding.notes,
            _ => &[],
        }
    }

    fn bytes(&self) -> u64 {
        let layer = |layer: &AdapterLayer| -> usize {
            let AdapterLayer { a, b, bias, magnitude, .. } = layer;
            [a, b].into_iter().chain(bias).chain(magnitude).map(|tensor| tensor.bytes().len()).sum()
        };
        let layers: usize = self.adapter.layers.values().map(layer).sum();
        let replaced: usize = self.adapter.replaced.values().map(|tensor| tensor.bytes().len()).sum();
        (layers + replaced) as u64
    }

    fn trainable_percent(&self, base: &BaseMatch) -> f64 {
        let own = self.adapter.parameters();
        100.0 * own as f64 / (base.parameters + own).max(1) as f64
    }

    pub fn json(&self) -> Value {
        let layer = |layer: &Layer<'_>| {
            let AdapterLayer { a, b, bias, magnitude, .. } = &*layer.tensors;
            json!({
                "module": layer.module, "rank": a.shape()[0], "scale": layer.scale, "dtype": a.dtype().to_string(),
                "a": a.shape(), "b": b.shape(), "lora_bias": bias.is_some(), "dora": magnitude.is_some(),
            })
        };
        let replaced =
            |(name, tensor): (&String, &Tensor)| json!({ "tensor": name, "shape": tensor.shape() });
        json!({
            "path": self.path.display().to_string(),
            "type": "adapter",
            "format": self.format.name(),
            "config": self.adapter.config.to_json(),
            "parameters": self.adapter.parameters(),
            "bytes": self.bytes(),
            "modules": self.layers.iter().map(layer).collect::<Vec<_>>(),
            "replaced": self.adapter.replaced.iter().map(replaced).collect::<Vec<_>>(),
            "match": self.base.as_ref().map(|base| self.match_json(base)),
        })
    }

    fn match_json(&self, base: &BaseMatch) -> Value {
        let binding = match &base.found {
            Ok(found) => found,
            Err(error) => return json!({ "base": base.base, "fits": false, "error": error }),
        };
        let site = |site: &lora_peft::binding::Site| {
            json!({
                "module": site.layer, "weight": site.weight, "kind": kind_name(site.kind), "rank": site.rank,
                "scale": site.scale,
            })
        };
        json!({
            "base": base.base,
            "fits": true,
            "trainable_percent": self.trainable_percent(base),
            "weights": binding.sites.iter().map(site).collect::<Vec<_>>(),
            "replaced": binding.replaced.keys().chain(binding.rows.keys()).collect::<Vec<_>>(),
            "untied": untied(binding),
            "excluded": binding.targets.excluded,
            "not_adapted": binding.targets.unmatched,
        })
    }

    pub fn text(&self) -> String {
        let config = &self.adapter.config;
        let name = |names: &ModuleNames| match names {
            ModuleNames::Pattern(pattern) => pattern.clone(),
            ModuleNames::List(list) => counted(list.iter().map(String::as_str)),
        };
        let mut lines = vec![(
            "base model",
            config
                .other
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .unwrap_or("not named")
                .to_owned(),
        )];
        lines.push(("rank, alpha", format!("{}, {}", config.rank, config.alpha)));
        let variants = [
            (config.rank_stabilized, "rsLoRA"),
            (config.dora, "DoRA"),
            (config.lora_bias, "bias on B"),
            (config.fan_in_fan_out, "fan_in_fan_out"),
        ];
        let variants: Vec<&str> = variants.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
        if !variants.is_empty() {
            lines.push(("variant", variants.join(", ")));
        }
        if let Some(targets) = &config.target_modules {
            lines.push(("targets", name(targets)));
        }
        if !config.target_parameters.is_empty() {
            lines.push(("parameters of", config.target_parameters.join(", ")));
        }
        if let Some(excluded) = &config.exclude_modules {
            lines.push(("excluded", name(excluded)));
        }
        if !self.adapter.replaced.is_empty() {
            lines.push(("whole tensors", counted(self.adapter.replaced.keys().map(String::as_str))));
        }
        lines.push(("parameters", units::count(self.adapter.parameters())));
        lines.push(("size", units::bytes(self.bytes())));
        let what = match self.format {
            Format::Peft => "LoRA adapter".to_owned(),
            format => format.to_string(),
        };
        let mut text = format!("{}: {what}\n", printable::path(self.path));
        for (label, value) in lines {
            text += &format!("  {label:<14}  {}\n", line(&value, PARAGRAPH));
        }
        let mut table = Table::new(&["module", "rank", "scale", "type", "count"]);
        let rows = self.layers.iter().map(|layer| {
            let a = &layer.tensors.a;
            ((pattern(&layer.module), a.shape()[0], layer.scale.to_bits(), a.dtype()), ())
        });
        for ((module, rank, scale, dtype), members) in grouped(rows) {
            let scale = (f64::from_bits(scale) * 1e6).round() / 1e6;
            let count = members.len().to_string();
            table.row(vec![module, rank.to_string(), scale.to_string(), dtype.to_string(), count]);
        }
        text += &format!("\n{}", table.text());
        if let Some(base) = &self.base {
            text += &self.match_text(base);
        }
        text
    }

    fn match_text(&self, base: &BaseMatch) -> String {
        let binding = match &base.found {
            Ok(found) => found,
            Err(_) => return format!("\n  Does not fit {}.\n", line(&base.base, PATH)),
        };
        let notes = binding.notes.iter().map(|note| format!("  Note: {note}\n"));
        let mut text = format!(
            "\n  Fits {}: {} weights change, {} tensors are replaced; {:.4} % of the parameters are trained.\n",
            line(&base.base, PATH),
            binding.sites.len(),
            binding.replaced.len() + binding.rows.len(),
            self.trainable_percent(base),
        );
        let lists = [
            ("parts from its tied tensor", untied(binding)),
            ("excluded", binding.targets.excluded.iter().map(String::as_str).collect()),
            ("not adapted", binding.targets.unmatched.iter().map(String::as_str).collect()),
        ];
        text.extend(notes);
        for (label, names) in lists {
            if !names.is_empty() {
                text += &format!("  {label}: {}\n", counted(names));
            }
        }
        text
    }
}

/// Names of tensors that the base does not have, as it has them under the name of what they are tied to.
fn untied(binding: &Binding) -> Vec<&str> {
    binding.untied.keys().filter(|name| !binding.kept.contains(*name)).map(String::as_str).collect()
}

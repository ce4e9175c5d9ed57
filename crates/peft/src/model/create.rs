//! New adapters of a model in memory.

use super::{Loaded, LoraModel};
use crate::adapter::{Adapter, AdapterConfig, AdapterLayer, BiasMode, Matcher};
use crate::binding::{
    Binding, Naming, Site, Target, TargetReport, default_targets, find_targets, parameters,
};
use crate::checkpoint::{LayerKind, marks_transposed_experts, quantized};
use crate::making::{cut_off, fresh};
use crate::tensor::Tensor;
use crate::update::{HostBackend, Term, direction_norms, name_stream, without_start};
use crate::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};

impl LoraModel {
    /// Finds the modules and parameters that a configuration targets and gives each a new layer; a configuration that
    /// names no modules gets PEFT's [defaults](default_targets) for the model's type. The same seed gives the same
    /// adapter, whatever else is in the model. The first adapter becomes active.
    ///
    /// Parameters (`target_parameters`) are matrices or stacked experts. PEFT keeps their layers under the path of
    /// their module, with `.base_layer` for each targeted parameter that the module has after them; in the report,
    /// which lists them after the modules, they have their own names.
    ///
    /// # Errors
    /// The name is taken, nothing matches, a module or parameter cannot be adapted that way (PEFT could not either), or
    /// adapters are merged.
    pub fn create_adapter(
        &mut self,
        backend: &HostBackend<'_>,
        name: &str,
        mut config: AdapterConfig,
        seed: u64,
    ) -> Result<TargetReport> {
        self.check_new(name)?;
        if config.target_modules.is_none() {
            let model_type =
                self.checkpoint.model_config().get("model_type").and_then(serde_json::Value::as_str);
            config.target_modules = model_type.and_then(default_targets);
        }
        config.check()?;
        let matcher = Matcher::new(&config)?;
        let mut report = find_targets(&matcher, &self.checkpoint, &Naming::Same)?;
        let parameters = self.parameter_sites(&config, &matcher, &report)?;
        if report.matched.is_empty() && parameters.is_empty() {
            return Err(Error::NoMatch(format!(
                "`target_modules` matches none of the {} modules that could be adapted, {} are excluded",
                report.unmatched.len() + report.excluded.len(),
                report.excluded.len()
            )));
        }
        let sites = report.matched.iter().map(|target| self.module_site(&config, target));
        let mut sites: Vec<Site> = sites.collect::<Result<_>>()?;
        for site in &parameters {
            let Site { weight, kind, rank, scale, .. } = site.clone();
            report.matched.push(Target { module: weight, kind, rank, scale });
        }
        sites.extend(parameters);
        let mut adapter = Adapter { config, layers: BTreeMap::new(), replaced: BTreeMap::new() };
        for site in &sites {
            self.load_weight(&site.weight)?;
            if let Some(bias) = &site.bias {
                self.load_weight(bias)?;
            }
            let layer = self.start(backend, &adapter.config, site, seed)?;
            adapter.layers.insert(site.layer.clone(), layer);
        }
        self.take_along(&mut adapter, &matcher)?;
        let binding = Binding {
            sites,
            replaced: adapter.replaced.keys().map(|name| (name.clone(), name.clone())).collect(),
            untied: BTreeMap::new(),
            naming: Naming::Same,
            targets: report.clone(),
            notes: Vec::new(),
        };
        self.take_start_off(backend, &adapter.config, &binding.sites)?;
        self.insert(name, Loaded { adapter, binding, trainable: true });
        Ok(report)
    }

    fn module_site(&self, config: &AdapterConfig, target: &Target) -> Result<Site> {
        let weight = format!("{}.weight", target.module);
        let bias = parameters::bias_beside(&self.checkpoint, &weight);
        if config.lora_bias && bias.is_none() && target.kind != LayerKind::Embedding {
            return Err(Error::module(&target.module, "has no bias that `lora_bias` could add to"));
        }
        let (layer, kind) = (target.module.clone(), target.kind);
        Ok(Site { layer, bias, weight, kind, rank: target.rank, scale: target.scale })
    }

    /// Where the layers for `target_parameters` act, and whether PEFT can have them there (`ParamWrapper`, 0.21).
    fn parameter_sites(
        &self,
        config: &AdapterConfig,
        matcher: &Matcher,
        modules: &TargetReport,
    ) -> Result<Vec<Site>> {
        let found = parameters::targeted(config, matcher, &self.checkpoint, &Naming::Same)?;
        let matched: BTreeSet<&str> = modules.matched.iter().map(|target| target.module.as_str()).collect();
        let site = |(layer, parameter): (String, String)| {
            let module = layer.trim_end_matches(".base_layer");
            let refused = |reason: &str| Err(Error::module(&parameter, reason));
            if matched.contains(module) {
                return refused("`target_modules` names its module already");
            }
            if is_saved(matcher, module) {
                return refused("`modules_to_save` names its module already");
            }
            quantized::check_tensor(&self.checkpoint, &parameter)?;
            let kind = match self.checkpoint.info(&parameter)?.shape.len() {
                2 => LayerKind::Linear,
                3 if marks_transposed_experts(&self.checkpoint) => LayerKind::TransposedExperts,
                3 => LayerKind::Experts,
                dimensions => {
                    return refused(&format!(
                        "has {dimensions} dimensions; parameters with 2 or 3 are adapted"
                    ));
                }
            };
            // PEFT takes the start off the module's `weight`, whatever the parameter is.
            if config.init.takes_from_base() && !parameter.ends_with(".weight") {
                return refused("PiSSA and OLoRA are for a module's `weight`");
            }
            Ok(Site {
                bias: parameters::bias_beside(&self.checkpoint, &parameter),
                rank: matcher.rank(&parameter)?,
                scale: matcher.scale(&parameter)?,
                layer,
                weight: parameter,
                kind,
            })
        };
        found.into_iter().map(site).collect()
    }

    /// A new layer for a site, with DoRA's magnitudes if asked for.
    fn start(
        &self,
        backend: &HostBackend<'_>,
        config: &AdapterConfig,
        site: &Site,
        seed: u64,
    ) -> Result<AdapterLayer> {
        let weight = self.weight(&site.weight)?;
        let mut layer = match config.init.takes_from_base() {
            true => cut_off(&config.init, site, weight)?,
            false => {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ name_stream(&site.layer));
                fresh(&config.init, site, weight.shape(), config.lora_bias, &mut random)?
            }
        };
        if config.dora {
            let residual = match config.init.takes_from_base() {
                true => Some(without_start(backend, weight, site, &layer)?),
                false => None,
            };
            let norms =
                direction_norms(backend, residual.as_ref().unwrap_or(weight), Term::new(site, &layer))?;
            let magnitude =
                Tensor::of(&layer.magnitude_shape(), norms.into_iter().map(|norm| norm as f32).collect());
            layer.magnitude = Some(magnitude);
        }
        Ok(layer)
    }

    /// PiSSA and OLoRA leave W − s·B₀·A₀ in the base.
    pub(super) fn take_start_off(
        &mut self,
        backend: &HostBackend<'_>,
        config: &AdapterConfig,
        sites: &[Site],
    ) -> Result<()> {
        if !config.init.takes_from_base() {
            return Ok(());
        }
        let residuals = sites
            .iter()
            .map(|site| {
                let weight = self.weight(&site.weight)?;
                let start = cut_off(&config.init, site, weight)?;
                Ok((site.weight.clone(), without_start(backend, weight, site, &start)?))
            })
            .collect::<Result<Vec<_>>>()?;
        self.weights.extend(residuals);
        Ok(())
    }

    /// Copies of the biases and whole modules that the adapter trains.
    fn take_along(&self, adapter: &mut Adapter, matcher: &Matcher) -> Result<()> {
        for name in self.checkpoint.tensors().keys() {
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let bias = name == "bias" || name.ends_with(".bias");
            let trained = match adapter.config.bias {
                BiasMode::All => bias,
                BiasMode::LoraOnly => bias && adapter.layers.contains_key(module),
                BiasMode::None => false,
            };
            if is_saved(matcher, module) || trained {
                adapter.replaced.insert(name.clone(), self.checkpoint.tensor(name)?);
            }
        }
        Ok(())
    }
}

/// Whether `modules_to_save` names a module or one that it is in.
fn is_saved(matcher: &Matcher, module: &str) -> bool {
    std::iter::successors(Some(module), |path| path.rsplit_once('.').map(|(parent, _)| parent))
        .any(|path| !path.is_empty() && matcher.saves(path))
}

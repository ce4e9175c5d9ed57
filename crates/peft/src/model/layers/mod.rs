//! One adapted layer's forward and backward through a backend.

mod convolution;
mod dora;
mod embedding;
mod experts;
mod linear;
mod masked;
mod patches;
mod products;

pub use patches::ConvolutionGeometry;

use super::LoraModel;
use crate::adapter::AdapterLayer;
use crate::binding::Site;
use crate::binding::parameters;
use crate::checkpoint::LayerKind;
use crate::tensor::Tensor;
use crate::{Error, Result};
use lora_kernels::DType;
use std::collections::BTreeMap;

/// Gradients of one adapter's layer, in `f32` and in the shapes of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGradients {
    /// dA.
    pub a: Tensor,
    /// dB.
    pub b: Tensor,
    /// Gradient of B's bias, where it has one.
    pub bias: Option<Tensor>,
    /// Gradient of DoRA's magnitudes, where there are any; the norm counts as constant, as in the paper (section 4.3).
    pub magnitude: Option<Tensor>,
}

/// Gradients of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// dX in the shape and type of X; `None` for embeddings.
    pub x: Option<Tensor>,
    /// By the name of the active adapter.
    pub adapters: BTreeMap<String, LayerGradients>,
    /// Sums of dY over all positions \[out\] in `f32`: the gradient of the layer's bias, should that be trained. Of
    /// stacked experts \[experts, out\], over each one's rows.
    pub bias: Tensor,
}

/// What takes part in one layer.
struct Layer<'a> {
    name: &'a str,
    site: Site,
    weight: &'a Tensor,
    bias: Option<Vec<f32>>,
    active: Vec<Active<'a>>,
}

struct Active<'a> {
    name: &'a str,
    site: &'a Site,
    layer: &'a AdapterLayer,
}

impl LoraModel {
    fn layer<'a>(&'a self, module: &'a str) -> Result<Layer<'a>> {
        let site = self.site(module)?.clone();
        if parameters::is_exchanged_matrix(&self.checkpoint, &site) {
            return Err(Error::module(module, "a `Conv1D` adapted as a parameter cannot be run; merge it"));
        }
        let mut weight = self.weight(&site.weight)?;
        let mut bias = match &site.bias {
            Some(name) => Some(self.weight(name)?.to_f32()),
            None => None,
        };
        let mut active = Vec::new();
        if self.merged.is_none() {
            for name in self.active() {
                let loaded = self.loaded(name)?;
                let replaced = |tensor: &String| {
                    loaded.binding.replaced.get(tensor).map(|key| &loaded.adapter.replaced[key])
                };
                if loaded.binding.rows.contains_key(&site.weight) {
                    return Err(Error::module(
                        module,
                        format!(
                            "adapter `{name}` replaces some of its rows (`trainable_token_indices`); merge it"
                        ),
                    ));
                }
                if let Some(tensor) = replaced(&site.weight) {
                    weight = tensor;
                }
                if let Some(tensor) = site.bias.as_ref().and_then(replaced) {
                    bias = Some(tensor.to_f32());
                }
                if let Some((site, layer)) = loaded.on(&site.weight) {
                    active.push(Active { name, site, layer });
                }
            }
        }
        for active in &active {
            if let (Some(bias), Some(added)) = (&mut bias, &active.layer.bias) {
                let scale = active.site.scale;
                bias.iter_mut()
                    .zip(added.to_f32())
                    .for_each(|(sum, value)| *sum = (f64::from(*sum) + scale * f64::from(value)) as f32);
            }
        }
        let layer = Layer { name: module, site, weight, bias, active };
        layer.check_adapters()?;
        Ok(layer)
    }
}

impl Layer<'_> {
    fn features(&self) -> (usize, usize) {
        let (rows, columns) = self.weight.rows_and_columns();
        if self.site.kind.is_input_major() { (rows, columns) } else { (columns, rows) }
    }

    /// Layers can be changed from outside.
    fn check_adapters(&self) -> Result<()> {
        if matches!(self.site.kind, LayerKind::Experts | LayerKind::TransposedExperts) {
            return Err(Error::module(
                self.name,
                "has experts; `forward_experts` and `backward_experts` take which one each row is for",
            ));
        }
        let (input, output) = self.features();
        for Active { name, layer, .. } in &self.active {
            layer.check(self.name)?;
            let found = (layer.a.shape()[1..].iter().product(), layer.b.shape()[0]);
            if found != (input, output) {
                return Err(Error::module(
                    self.name,
                    format!(
                        "adapter `{name}` is for {found:?} features, the layer has {:?}",
                        (input, output)
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Active<'_> {
    fn zeros(&self) -> LayerGradients {
        LayerGradients {
            a: Tensor::zeros(DType::F32, self.layer.a.shape()),
            b: Tensor::zeros(DType::F32, self.layer.b.shape()),
            bias: None,
            magnitude: None,
        }
    }
}

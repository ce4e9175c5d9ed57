//! DoRA: f·(X·W + s·X·A·B) with f = m/‖W + s·B·A‖ (Liu et al., arXiv 2402.09353).

use super::products::Order;
use super::{Active, Layer};
use crate::tensor::Tensor;
use crate::update::{HostBackend, Term, direction_norms, magnitude_factors, round_into};
use crate::{Error, Result};

/// f of each output, and the norms that it comes from.
pub(super) struct Magnitudes {
    pub factors: Vec<f64>,
    norms: Vec<f64>,
}

impl Layer<'_> {
    /// The magnitudes of the active DoRA adapter, if there is one.
    pub(super) fn magnitudes(&self, backend: &HostBackend<'_>) -> Result<Option<Magnitudes>> {
        let Some(Active { site, layer, .. }) =
            self.active.iter().find(|active| active.layer.magnitude.is_some())
        else {
            return Ok(None);
        };
        if self.active.len() > 1 {
            return Err(Error::module(
                self.name,
                "a DoRA adapter of it cannot be active together with others",
            ));
        }
        let norms = direction_norms(backend, self.weight, Term::new(site, layer))?;
        let factors =
            layer.magnitude.as_ref().map_or(Vec::new(), |magnitude| magnitude_factors(magnitude, &norms));
        Ok(Some(Magnitudes { factors, norms }))
    }
}

impl Magnitudes {
    /// dZ = f·dY.
    pub fn scaled(&self, dy: &Tensor, order: Order) -> Tensor {
        let scale = |(index, value): (usize, f32)| f64::from(value) * self.factors[order.feature(dy, index)];
        let exact: Vec<f64> = dy.to_f32().into_iter().enumerate().map(scale).collect();
        let mut dz = dy.clone();
        round_into(&mut dz, &exact);
        dz
    }

    /// Adds dm to `sums`.
    pub fn add_gradient(&self, dy: &Tensor, z: &Tensor, order: Order, sums: &mut [f64]) {
        for (index, (dy, z_value)) in dy.to_f32().into_iter().zip(z.to_f32()).enumerate() {
            let feature = order.feature(z, index);
            sums[feature] += self.gradient(feature, f64::from(dy), f64::from(z_value));
        }
    }

    /// What one element of dY and Z adds to dm = Σ dY·Z/‖·‖; the norm counts as constant.
    pub fn gradient(&self, feature: usize, dy: f64, z: f64) -> f64 {
        if self.norms[feature] == 0.0 { 0.0 } else { dy * z / self.norms[feature] }
    }
}

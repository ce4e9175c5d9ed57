//! Layers whose adapter sees a dropped-out input that the kernels cannot make: with DoRA, W sees it too, and with
//! convolutions one mask serves all patches.
//!
//! Y = (X − X′)·W + f·(X′·W + s·X′·A·B) + bias with X′ = drop(X), and f = 1 without DoRA: what PEFT computes as
//! X·W + bias + (f − 1)·X′·W + f·s·X′·A·B.

use super::Layer;
use super::dora::Magnitudes;
use super::products::{Order, Sums};
use crate::Result;
use crate::tensor::Tensor;
use crate::update::{HostBackend, round_into};
use lora_kernels::Dropout;

/// X in two parts.
pub(super) struct Parts {
    /// X′, which the adapter sees.
    pub dropped: Tensor,
    /// X − X′, which only W sees.
    pub rest: Tensor,
}

impl Parts {
    /// Splits X, which counts as \[first dimension, all others\].
    pub fn split(x: &Tensor, dropout: Dropout) -> Self {
        let values = x.to_f32();
        let kept = kept(x, dropout);
        let part = |share: &dyn Fn(f64) -> f64| {
            let exact: Vec<f64> =
                values.iter().zip(&kept).map(|(value, kept)| f64::from(*value) * share(*kept)).collect();
            let mut part = x.clone();
            round_into(&mut part, &exact);
            part
        };
        Parts { dropped: part(&|kept| kept), rest: part(&|kept| 1.0 - kept) }
    }

    /// dX from the gradients of both parts.
    pub fn join(gradients: &Parts, dropout: Dropout) -> Tensor {
        let Parts { dropped, rest } = gradients;
        let exact: Vec<f64> = kept(dropped, dropout)
            .into_iter()
            .zip(dropped.to_f32().into_iter().zip(rest.to_f32()))
            .map(|(kept, (dropped, rest))| kept * f64::from(dropped) + (1.0 - kept) * f64::from(rest))
            .collect();
        let mut dx = dropped.clone();
        round_into(&mut dx, &exact);
        dx
    }
}

/// The factor on each element: 0 or 1/(1 − p).
fn kept(x: &Tensor, dropout: Dropout) -> Vec<f64> {
    let (rows, columns) = x.rows_and_columns();
    let scale = f64::from(dropout.keep_scale());
    let draws = move |row, block| dropout.draws(row as u32, block as u32);
    let mut kept = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for block in 0..columns.div_ceil(8) {
            let draws = draws(row, block);
            let columns = 8.min(columns - block * 8);
            kept.extend(draws[..columns].iter().map(|draw| match u32::from(*draw) < dropout.threshold() {
                true => 0.0,
                false => scale,
            }));
        }
    }
    kept
}

impl Layer<'_> {
    /// Y of one matrix of inputs, in two parts or whole, by the formula above.
    pub(super) fn scaled_product(
        &self,
        backend: &mut HostBackend<'_>,
        dropped: &Tensor,
        rest: Option<&Tensor>,
        order: Order,
        magnitudes: Option<&Magnitudes>,
    ) -> Result<Tensor> {
        let mut y = self.product(backend, dropped, order, &self.stacked(), None, None)?;
        let rest = match rest {
            Some(rest) => Some(self.product(backend, rest, order, &self.no_adapter(), None, None)?.to_f32()),
            None => None,
        };
        let exact: Vec<f64> = y
            .to_f32()
            .into_iter()
            .enumerate()
            .map(|(index, z)| {
                let feature = order.feature(&y, index);
                let factor = magnitudes.map_or(1.0, |magnitudes| magnitudes.factors[feature]);
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[feature]));
                let rest = rest.as_ref().map_or(0.0, |rest| f64::from(rest[index]));
                f64::from(z) * factor + rest + bias
            })
            .collect();
        round_into(&mut y, &exact);
        Ok(y)
    }

    /// The gradient of X′ (or of X, if that is whole), with those of the adapter and of m added to `sums`.
    pub(super) fn scaled_gradients(
        &self,
        backend: &mut HostBackend<'_>,
        dropped: &Tensor,
        dy: &Tensor,
        order: Order,
        magnitudes: Option<&Magnitudes>,
        sums: &mut Sums,
    ) -> Result<Tensor> {
        let factors = self.stacked();
        let Some(magnitudes) = magnitudes else {
            return self.gradients(backend, dropped, [dy, dy], order, &factors, None, sums);
        };
        let z = self.product(backend, dropped, order, &factors, None, None)?;
        magnitudes.add_gradient(dy, &z, order, &mut sums.magnitude);
        let dz = magnitudes.scaled(dy, order);
        self.gradients(backend, dropped, [dy, &dz], order, &factors, None, sums)
    }
}

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
use crate::update::{HostBackend, round_block, round_into};
use lora_kernels::Dropout;

/// X in two parts.
pub(super) struct SplitInput {
    /// X′, which the adapter sees.
    pub dropped: Tensor,
    /// X − X′, which only W sees.
    pub rest: Tensor,
}

impl SplitInput {
    /// Splits rows \[M, columns\] of X, of which the first is row `first_row` for the mask.
    pub fn split(x: &Tensor, dropout: Dropout, first_row: usize) -> Self {
        let (mut dropped, mut rest) = (x.clone(), x.clone());
        let (rows, columns) = x.rows_and_columns();
        for row in 0..rows {
            let start = row * columns;
            let values = x.f32_range(start..start + columns);
            let kept = kept(dropout, first_row + row, columns);
            let part = |share: &dyn Fn(f64) -> f64| -> Vec<f64> {
                values.iter().zip(&kept).map(|(value, kept)| f64::from(*value) * share(*kept)).collect()
            };
            round_block(&mut dropped, start, &part(&|kept| kept), None);
            round_block(&mut rest, start, &part(&|kept| 1.0 - kept), None);
        }
        SplitInput { dropped, rest }
    }

    /// A row of dX, from the gradients of its two parts.
    pub fn join(dropped: &[f64], rest: &[f64], dropout: Dropout, row: usize) -> Vec<f64> {
        let kept = kept(dropout, row, dropped.len());
        let sum = |(kept, (dropped, rest)): (f64, (&f64, &f64))| kept * dropped + (1.0 - kept) * rest;
        kept.into_iter().zip(dropped.iter().zip(rest)).map(sum).collect()
    }

    /// All rows of dX, from the gradients of the two parts.
    pub fn join_rows(dropped: &Tensor, rest: &Tensor, dropout: Dropout) -> Tensor {
        let mut dx = dropped.clone();
        let (rows, columns) = dropped.rows_and_columns();
        for row in 0..rows {
            let range = row * columns..(row + 1) * columns;
            let [dropped, rest] = [dropped, rest].map(|part| -> Vec<f64> {
                part.f32_range(range.clone()).iter().map(|value| f64::from(*value)).collect()
            });
            round_block(&mut dx, range.start, &Self::join(&dropped, &rest, dropout, row), None);
        }
        dx
    }
}

/// The factor on each element of a row: 0 or 1/(1 − p).
fn kept(dropout: Dropout, row: usize, columns: usize) -> Vec<f64> {
    let scale = f64::from(dropout.keep_scale());
    let kept = |draw: u16| if u32::from(draw) < dropout.threshold() { 0.0 } else { scale };
    let blocks = 0..columns.div_ceil(8) as u32;
    let mut row: Vec<f64> = blocks.flat_map(|block| dropout.draws(row as u32, block).map(kept)).collect();
    row.truncate(columns);
    row
}

impl Layer<'_> {
    /// Y of one matrix of inputs, in two parts or whole, by the formula above.
    pub(super) fn scaled_product(
        &self,
        backend: &HostBackend<'_>,
        dropped: &Tensor,
        rest: Option<&Tensor>,
        order: Order,
        magnitudes: Option<&Magnitudes>,
    ) -> Result<Tensor> {
        let mut y = self.product(backend, dropped, order, self.concatenated().as_ref(), None, None)?;
        let rest = match rest {
            Some(rest) => Some(self.product(backend, rest, order, None, None, None)?.to_f32()),
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
        backend: &HostBackend<'_>,
        dropped: &Tensor,
        dy: &Tensor,
        order: Order,
        magnitudes: Option<&Magnitudes>,
        sums: &mut Sums,
    ) -> Result<Tensor> {
        let factors = self.concatenated();
        let Some(magnitudes) = magnitudes else {
            return self.gradients(backend, dropped, [dy, dy], order, factors.as_ref(), None, sums);
        };
        let z = self.product(backend, dropped, order, factors.as_ref(), None, None)?;
        magnitudes.add_gradient(dy, &z, order, &mut sums.magnitude);
        let dz = magnitudes.scaled(dy, order);
        self.gradients(backend, dropped, [dy, &dz], order, factors.as_ref(), None, sums)
    }
}

//! Products with the frozen weight and the active adapters, through the backend.

use super::{Gradients, Layer};
use crate::Result;
use crate::tensor::Tensor;
use crate::update::{Concatenated, HostBackend, Term};
use lora_kernels::ops::Output;
use lora_kernels::{Backward, DType, Dropout, Forward, Frozen, FrozenBackward, MatrixMut, MatrixRef};
use std::collections::BTreeMap;

/// How a matrix of M positions and their features lies in memory.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// \[M, features\].
    ByPosition,
    /// \[features, M\], as the channels of an image do.
    ByFeature,
}

impl Order {
    fn shape(self, positions: usize, features: usize) -> [usize; 2] {
        match self {
            Order::ByPosition => [positions, features],
            Order::ByFeature => [features, positions],
        }
    }

    fn positions(self, matrix: &Tensor) -> usize {
        matrix.shape()[usize::from(self == Order::ByFeature)]
    }

    /// The feature that an element of a matrix belongs to.
    pub fn feature(self, matrix: &Tensor, index: usize) -> usize {
        match self {
            Order::ByPosition => index % matrix.shape()[1],
            Order::ByFeature => index / matrix.shape()[1],
        }
    }

    fn view(self, matrix: &Tensor) -> Result<MatrixRef<'_>> {
        let view = matrix.matrix()?;
        Ok(if self == Order::ByFeature { view.t() } else { view })
    }

    fn view_mut(self, matrix: &mut Tensor) -> Result<MatrixMut<'_>> {
        let view = matrix.matrix_mut()?;
        Ok(if self == Order::ByFeature { view.t() } else { view })
    }
}

/// Gradients that any number of matrices of positions add to.
pub(super) struct Sums {
    rank: usize,
    a: Tensor,
    b: Tensor,
    /// Sums of dY.
    bias: Vec<f64>,
    /// dm of DoRA.
    pub magnitude: Vec<f64>,
}

impl Sums {
    fn add_bias(&mut self, dy: &Tensor, order: Order) {
        for (index, value) in dy.to_f32().into_iter().enumerate() {
            self.bias[order.feature(dy, index)] += f64::from(value);
        }
    }
}

impl Layer<'_> {
    /// The active adapters as one, if there are any.
    pub(super) fn concatenated(&self) -> Option<Concatenated<'_>> {
        let terms: Vec<Term<'_>> =
            self.active.iter().map(|active| Term::new(active.site, active.layer)).collect();
        (!terms.is_empty()).then(|| Concatenated::new(&terms, 0))
    }

    fn frozen(&self) -> Result<MatrixRef<'_>> {
        let matrix = self.weight.matrix()?;
        Ok(if self.site.kind.is_input_major() { matrix } else { matrix.t() })
    }

    /// X·W + s·drop(X)·A·B (+ bias).
    pub(super) fn product(
        &self,
        backend: &HostBackend<'_>,
        x: &Tensor,
        order: Order,
        factors: Option<&Concatenated>,
        dropout: Option<Dropout>,
        bias: Option<&[f32]>,
    ) -> Result<Tensor> {
        let mut y = Tensor::zeros(x.dtype(), &order.shape(order.positions(x), self.features().1));
        let (x, w, bias) = (order.view(x)?, self.frozen()?, bias.map(MatrixRef::row));
        let y_view = order.view_mut(&mut y)?;
        match factors {
            Some(factors) => {
                let adapter = factors.factors()?;
                backend.forward(Forward { x, w, adapter, bias, dropout, y: y_view, s: None })?;
            }
            None => backend.frozen(Frozen { x, w, bias, y: Output::overwrite(y_view) })?,
        }
        Ok(y)
    }

    /// dX of the frozen product alone.
    pub(super) fn frozen_gradient(
        &self,
        backend: &HostBackend<'_>,
        dy: &Tensor,
        order: Order,
    ) -> Result<Tensor> {
        let mut dx = Tensor::zeros(dy.dtype(), &order.shape(order.positions(dy), self.features().0));
        backend.frozen_backward(FrozenBackward {
            dy: order.view(dy)?,
            w: self.frozen()?,
            dx: Output::overwrite(order.view_mut(&mut dx)?),
        })?;
        Ok(dx)
    }

    /// Room for gradients that start at zero.
    pub(super) fn no_gradients(&self, factors: Option<&Concatenated>) -> Result<Sums> {
        let rank = factors.map_or(Ok(0), |factors| factors.factors().map(|factors| factors.rank()))?;
        let (input, output) = self.features();
        Ok(Sums {
            rank,
            a: Tensor::zeros(DType::F32, &[rank, input]),
            b: Tensor::zeros(DType::F32, &[output, rank]),
            bias: vec![0.0; output],
            magnitude: vec![0.0; output],
        })
    }

    /// dX, with dA and dB added to `sums`, of Z = X·W + s·drop(X)·A·B, given dZ; and the sums of dY, the gradient of
    /// what Z becomes.
    #[expect(clippy::too_many_arguments, reason = "gradients need what the product needs, and the sums")]
    pub(super) fn gradients(
        &self,
        backend: &HostBackend<'_>,
        x: &Tensor,
        [dy, dz]: [&Tensor; 2],
        order: Order,
        factors: Option<&Concatenated>,
        dropout: Option<Dropout>,
        sums: &mut Sums,
    ) -> Result<Tensor> {
        sums.add_bias(dy, order);
        let Some(factors) = factors else { return self.frozen_gradient(backend, dz, order) };
        let mut dx = Tensor::zeros(x.dtype(), x.shape());
        backend.backward(Backward {
            x: Some(order.view(x)?),
            w: self.frozen()?,
            adapter: factors.factors()?,
            dropout,
            dy: order.view(dz)?,
            s: None,
            dx: Some(Output::overwrite(order.view_mut(&mut dx)?)),
            da: Some(Output::accumulate(sums.a.matrix_mut()?.t())),
            db: Some(Output::accumulate(sums.b.matrix_mut()?.t())),
            dbias: None,
        })?;
        Ok(dx)
    }

    /// The gradients of each adapter. B has its s in it where there are several.
    pub(super) fn finish(&self, x: Tensor, sums: Sums) -> Gradients {
        let single = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
        let bias = Tensor::of(&[sums.bias.len()], single(sums.bias));
        let (da, db) = (sums.a.to_f32(), sums.b.to_f32());
        let input = self.features().0;
        let mut start = 0;
        let mut adapters = BTreeMap::new();
        for active in &self.active {
            let rank = active.layer.a.shape()[0];
            let scale = if self.active.len() > 1 { active.site.scale as f32 } else { 1.0 };
            let mut gradients = active.zeros();
            let a = da[start * input..(start + rank) * input].to_vec();
            let b = db
                .chunks(sums.rank)
                .flat_map(|row| row[start..start + rank].iter().map(|value| value * scale))
                .collect();
            gradients.a = Tensor::of(active.layer.a.shape(), a);
            gradients.b = Tensor::of(active.layer.b.shape(), b);
            if active.layer.bias.is_some() {
                let scale = active.site.scale as f32;
                let values: Vec<f32> = bias.to_f32().into_iter().map(|value| value * scale).collect();
                gradients.bias = Some(Tensor::of(bias.shape(), values));
            }
            if let Some(magnitude) = &active.layer.magnitude {
                gradients.magnitude = Some(Tensor::of(magnitude.shape(), single(sums.magnitude.clone())));
            }
            adapters.insert(active.name.to_owned(), gradients);
            start += rank;
        }
        Gradients { x: Some(x), adapters, bias }
    }
}

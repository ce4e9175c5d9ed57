//! One adapted layer's forward and backward through a backend.
//!
//! X is \[M, in\], one row a position. For a convolution, a row holds the unfolded patch \[in·kernel\] of one output
//! position: how patches are taken (stride, padding) is the caller's to know.

use super::LoraModel;
use crate::adapter::AdapterLayer;
use crate::binding::Site;
use crate::module::LayerKind;
use crate::tensor::Tensor;
use crate::update::{Directions, HostBackend, Part, Stacked, is_input_major, round_into};
use crate::{Error, Result, parameters};
use lora_kernels::ops::Output;
use lora_kernels::{Backward, DType, Dropout, Forward, MatrixRef};
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
    /// dX \[M, in\] in X's type; `None` for embeddings.
    pub x: Option<Tensor>,
    /// By the name of the active adapter.
    pub adapters: BTreeMap<String, LayerGradients>,
    /// Column sums of dY \[out\] in `f32`: the gradient of the layer's bias, should that be trained.
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
    /// Y \[M, out\] of a layer with the active adapters, in X's type. Merged adapters are in the weight already.
    ///
    /// `dropout` is the mask on the adapters' input in training; `None` for inference.
    ///
    /// # Errors
    /// No adapter has such a layer, X does not fit it, it is an embedding (see [`embed`](Self::embed)) or has experts
    /// (see [`forward_experts`](Self::forward_experts)), or DoRA meets another adapter or dropout.
    pub fn forward(
        &self,
        backend: &mut HostBackend<'_>,
        module: &str,
        x: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let layer = self.layer(module)?;
        layer.check_input(x)?;
        match layer.dora()? {
            Some(dora) => {
                layer.check_dora_dropout(dropout)?;
                let z = layer.product(backend, x, None, None)?;
                let factors = layer.dora_factors(backend, dora)?;
                Ok(layer.scaled(&z, &factors))
            }
            None => layer.product(backend, x, dropout, layer.bias.as_deref()),
        }
    }

    /// Gradients of a layer, given X and dY \[M, out\].
    ///
    /// # Errors
    /// As [`forward`](Self::forward); or adapters are merged, and so cannot be trained.
    pub fn backward(
        &self,
        backend: &mut HostBackend<'_>,
        module: &str,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Gradients> {
        self.check_not_merged("training")?;
        let layer = self.layer(module)?;
        layer.check_input(x)?;
        layer.check_rows(x.shape()[0], dy)?;
        let bias = column_sums(dy);
        let Some(dora) = layer.dora()? else {
            return layer.gradients(backend, x, dy, dropout, bias);
        };
        layer.check_dora_dropout(dropout)?;
        let z = layer.product(backend, x, None, None)?;
        let directions = layer.directions(backend, dora)?;
        let factors = factors(dora, &directions);
        // Y = f·Z + bias with f = m/‖·‖: dZ = f·dY, dm = Σ dY·Z/‖·‖.
        let scale = |(index, value): (usize, f32)| f64::from(value) * factors[index % factors.len()];
        let exact: Vec<f64> = dy.to_f32().into_iter().enumerate().map(scale).collect();
        let mut dz = dy.clone();
        round_into(&mut dz, &exact, false);
        let mut gradients = layer.gradients(backend, x, &dz, None, bias)?;
        let out = factors.len();
        let mut magnitude = vec![0.0f64; out];
        for (index, (dy, z)) in dy.to_f32().into_iter().zip(z.to_f32()).enumerate() {
            magnitude[index % out] += f64::from(dy) * f64::from(z) / directions.norms[index % out];
        }
        if let (Some(found), Some(shape)) = (gradients.adapters.get_mut(dora.name), &dora.layer.magnitude) {
            let values = magnitude.into_iter().map(|value| value as f32).collect();
            found.magnitude = Some(Tensor::of(shape.shape(), values));
        }
        Ok(gradients)
    }

    /// Rows \[M, features\] of an embedding with the active adapters, in the weight's type.
    ///
    /// # Errors
    /// No adapter has such a layer, it is no embedding, or an index is out of range.
    pub fn embed(&self, backend: &mut HostBackend<'_>, module: &str, indices: &[usize]) -> Result<Tensor> {
        let layer = self.layer(module)?;
        layer.check_indices(indices)?;
        let z = layer.looked_up(indices);
        let exact = match layer.dora()? {
            Some(dora) => {
                let factors = layer.dora_factors(backend, dora)?;
                z.iter().enumerate().map(|(index, z)| z * factors[index % factors.len()]).collect()
            }
            None => z,
        };
        let mut y = Tensor::zeros(layer.weight.dtype(), &[indices.len(), layer.weight.shape()[1]]);
        round_into(&mut y, &exact, false);
        Ok(y)
    }

    /// Gradients of an embedding, given dY \[M, features\]. `padding` is the index that is not trained: PyTorch's
    /// `padding_idx`, which checkpoints do not hold.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); or adapters are merged.
    pub fn embed_backward(
        &self,
        backend: &mut HostBackend<'_>,
        module: &str,
        indices: &[usize],
        padding: Option<usize>,
        dy: &Tensor,
    ) -> Result<Gradients> {
        self.check_not_merged("training")?;
        let layer = self.layer(module)?;
        layer.check_indices(indices)?;
        layer.check_rows(indices.len(), dy)?;
        let out = layer.weight.shape()[1];
        let dora = layer.dora()?;
        let mut dz: Vec<f64> = dy.to_f32().into_iter().map(f64::from).collect();
        let mut magnitude = None;
        if let Some(dora) = dora {
            let directions = layer.directions(backend, dora)?;
            let factors = factors(dora, &directions);
            let mut sums = vec![0.0; out];
            for (index, (dz, z)) in dz.iter_mut().zip(layer.looked_up(indices)).enumerate() {
                sums[index % out] += *dz * z / directions.norms[index % out];
                *dz *= factors[index % out];
            }
            magnitude = Some(Tensor::of(&[out], sums.into_iter().map(|sum| sum as f32).collect()));
        }
        let mut adapters = BTreeMap::new();
        for active in &layer.active {
            let (mut gradients, rank) = (active.zeros(), active.layer.a.shape()[0]);
            let (a, b) = (active.layer.a.to_f32(), active.layer.b.to_f32());
            let vocabulary = active.layer.a.shape()[1];
            let (mut da, mut db) = (vec![0.0f64; a.len()], vec![0.0f64; b.len()]);
            for (dz, &index) in dz.chunks(out).zip(indices) {
                for (o, dz) in dz.iter().enumerate() {
                    for k in 0..rank {
                        let scaled = active.site.scale * dz;
                        if padding != Some(index) {
                            da[k * vocabulary + index] += scaled * f64::from(b[o * rank + k]);
                        }
                        db[o * rank + k] += scaled * f64::from(a[k * vocabulary + index]);
                    }
                }
            }
            round_into(&mut gradients.a, &da, false);
            round_into(&mut gradients.b, &db, false);
            gradients.magnitude = magnitude.clone();
            adapters.insert(active.name.to_owned(), gradients);
        }
        Ok(Gradients { x: None, adapters, bias: column_sums(dy) })
    }

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

impl<'a> Layer<'a> {
    fn features(&self) -> (usize, usize) {
        let (rows, columns) = self.weight.rows_and_columns();
        if is_input_major(self.site.kind) { (rows, columns) } else { (columns, rows) }
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

    fn check_input(&self, x: &Tensor) -> Result<()> {
        if self.site.kind == LayerKind::Embedding {
            return Err(Error::module(self.name, "an embedding takes indices"));
        }
        let (input, _) = self.features();
        if x.shape().len() != 2 || x.shape()[1] != input || x.dtype() != self.weight.dtype() {
            return Err(Error::module(
                self.name,
                format!(
                    "X is {} {:?}, but {} [M, {input}] is needed",
                    x.dtype(),
                    x.shape(),
                    self.weight.dtype()
                ),
            ));
        }
        Ok(())
    }

    fn check_rows(&self, rows: usize, dy: &Tensor) -> Result<()> {
        let (_, output) = self.features();
        if dy.shape() != [rows, output] || dy.dtype() != self.weight.dtype() {
            return Err(Error::module(
                self.name,
                format!(
                    "dY is {} {:?}, but {} [{rows}, {output}] is needed",
                    dy.dtype(),
                    dy.shape(),
                    self.weight.dtype()
                ),
            ));
        }
        Ok(())
    }

    fn check_indices(&self, indices: &[usize]) -> Result<()> {
        if self.site.kind != LayerKind::Embedding {
            return Err(Error::module(self.name, "not an embedding"));
        }
        let vocabulary = self.weight.shape()[0];
        match indices.iter().find(|index| **index >= vocabulary) {
            Some(index) => {
                Err(Error::module(self.name, format!("index {index} of a vocabulary of {vocabulary}")))
            }
            None => Ok(()),
        }
    }

    /// The DoRA adapter, which then is the only one.
    fn dora(&self) -> Result<Option<&Active<'a>>> {
        let dora = self.active.iter().find(|active| active.layer.magnitude.is_some());
        if dora.is_some() && self.active.len() > 1 {
            return Err(Error::module(
                self.name,
                "a DoRA adapter of it cannot be active together with others",
            ));
        }
        Ok(dora)
    }

    fn check_dora_dropout(&self, dropout: Option<Dropout>) -> Result<()> {
        match dropout {
            Some(dropout) if !dropout.is_identity() => Err(Error::module(self.name, "DoRA with dropout")),
            _ => Ok(()),
        }
    }

    fn directions(&self, backend: &mut HostBackend<'_>, dora: &Active<'a>) -> Result<Directions> {
        let part = Part { site: dora.site, layer: dora.layer, weight: 1.0 };
        Directions::new(backend, self.weight, part)
    }

    fn dora_factors(&self, backend: &mut HostBackend<'_>, dora: &Active<'a>) -> Result<Vec<f64>> {
        Ok(factors(dora, &self.directions(backend, dora)?))
    }

    /// f·Z + bias, rounded once.
    fn scaled(&self, z: &Tensor, factors: &[f64]) -> Tensor {
        let out = factors.len();
        let bias = |column: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
        let exact: Vec<f64> = z
            .to_f32()
            .into_iter()
            .enumerate()
            .map(|(index, z)| f64::from(z) * factors[index % out] + bias(index % out))
            .collect();
        let mut y = z.clone();
        round_into(&mut y, &exact, false);
        y
    }

    fn stacked(&self) -> Stacked {
        let parts: Vec<Part<'_>> = self
            .active
            .iter()
            .map(|active| Part { site: active.site, layer: active.layer, weight: 1.0 })
            .collect();
        if parts.is_empty() {
            let (input, output) = self.features();
            return Stacked::nothing(input, output);
        }
        Stacked::new(&parts, 0)
    }

    fn frozen(&self) -> Result<MatrixRef<'_>> {
        let matrix = self.weight.matrix()?;
        Ok(if is_input_major(self.site.kind) { matrix } else { matrix.t() })
    }

    /// X·W + Σ s·drop(X)·A·B (+ bias).
    fn product(
        &self,
        backend: &mut HostBackend<'_>,
        x: &Tensor,
        dropout: Option<Dropout>,
        bias: Option<&[f32]>,
    ) -> Result<Tensor> {
        let mut y = Tensor::zeros(x.dtype(), &[x.shape()[0], self.features().1]);
        let stacked = self.stacked();
        backend.forward(Forward {
            x: x.matrix()?,
            w: self.frozen()?,
            adapter: stacked.factors()?,
            bias: bias.map(MatrixRef::row),
            dropout,
            y: y.matrix_mut()?,
            s: None,
        })?;
        Ok(y)
    }

    fn gradients(
        &self,
        backend: &mut HostBackend<'_>,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
        bias: Tensor,
    ) -> Result<Gradients> {
        let stacked = self.stacked();
        let factors = stacked.factors()?;
        let rank = factors.rank();
        let (input, output) = self.features();
        let mut dx = Tensor::zeros(x.dtype(), x.shape());
        let mut da = Tensor::zeros(DType::F32, &[rank, input]);
        let mut db = Tensor::zeros(DType::F32, &[output, rank]);
        backend.backward(Backward {
            x: Some(x.matrix()?),
            w: self.frozen()?,
            adapter: factors,
            dropout,
            dy: dy.matrix()?,
            s: None,
            dx: Some(Output::overwrite(dx.matrix_mut()?)),
            da: Some(Output::overwrite(da.matrix_mut()?.t())),
            db: Some(Output::overwrite(db.matrix_mut()?.t())),
            dbias: None,
        })?;
        let adapters = self.split(rank, &da, &db, &bias);
        Ok(Gradients { x: Some(dx), adapters, bias })
    }

    /// Gradients of stacked adapters, one by one. B was stacked with its s in it where there are several.
    fn split(
        &self,
        all: usize,
        da: &Tensor,
        db: &Tensor,
        dbias: &Tensor,
    ) -> BTreeMap<String, LayerGradients> {
        let (da, db) = (da.to_f32(), db.to_f32());
        let input = da.len() / all;
        let mut start = 0;
        let mut adapters = BTreeMap::new();
        for active in &self.active {
            let rank = active.layer.a.shape()[0];
            let scale = if self.active.len() > 1 { active.site.scale as f32 } else { 1.0 };
            let mut gradients = active.zeros();
            let a = da[start * input..(start + rank) * input].to_vec();
            let b = db
                .chunks(all)
                .flat_map(|row| row[start..start + rank].iter().map(|value| value * scale))
                .collect();
            gradients.a = Tensor::of(active.layer.a.shape(), a);
            gradients.b = Tensor::of(active.layer.b.shape(), b);
            if active.layer.bias.is_some() {
                let scale = active.site.scale as f32;
                let values: Vec<f32> = dbias.to_f32().into_iter().map(|value| value * scale).collect();
                gradients.bias = Some(Tensor::of(dbias.shape(), values));
            }
            adapters.insert(active.name.to_owned(), gradients);
            start += rank;
        }
        adapters
    }

    /// W\[i\] + Σ s·A\[:, i\]·B for each index, in `f64`.
    fn looked_up(&self, indices: &[usize]) -> Vec<f64> {
        let out = self.weight.shape()[1];
        let weight = self.weight.to_f32();
        let mut rows: Vec<f64> = indices
            .iter()
            .flat_map(|index| weight[index * out..(index + 1) * out].iter().map(|value| f64::from(*value)))
            .collect();
        for active in &self.active {
            let (a, b) = (active.layer.a.to_f32(), active.layer.b.to_f32());
            let (rank, vocabulary) = (active.layer.a.shape()[0], active.layer.a.shape()[1]);
            for (row, index) in rows.chunks_mut(out).zip(indices) {
                for (o, sum) in row.iter_mut().enumerate() {
                    let product: f64 = (0..rank)
                        .map(|k| f64::from(a[k * vocabulary + index]) * f64::from(b[o * rank + k]))
                        .sum();
                    *sum += active.site.scale * product;
                }
            }
        }
        rows
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

/// m/‖W + Δ‖ of each output.
fn factors(dora: &Active<'_>, directions: &Directions) -> Vec<f64> {
    let magnitude = dora.layer.magnitude.as_ref().map(Tensor::to_f32).unwrap_or_default();
    magnitude.into_iter().zip(&directions.norms).map(|(m, norm)| f64::from(m) / norm).collect()
}

fn column_sums(dy: &Tensor) -> Tensor {
    let columns = dy.shape()[1];
    let mut sums = vec![0.0f64; columns];
    for (index, value) in dy.to_f32().into_iter().enumerate() {
        sums[index % columns] += f64::from(value);
    }
    Tensor::of(&[columns], sums.into_iter().map(|sum| sum as f32).collect())
}

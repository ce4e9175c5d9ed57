//! Embeddings: rows of W \[vocabulary, features\] by their index.

use super::{Gradients, Layer};
use crate::checkpoint::LayerKind;
use crate::model::LoraModel;
use crate::tensor::Tensor;
use crate::update::{HostBackend, round_into};
use crate::{Error, Result};
use std::collections::BTreeMap;

impl LoraModel {
    /// Rows \[M, features\] of an embedding with the active adapters, in the weight's type.
    ///
    /// # Errors
    /// No adapter has such a layer, it is no embedding, an index is out of range, or DoRA meets another adapter.
    pub fn embed(&self, backend: &HostBackend<'_>, module: &str, indices: &[usize]) -> Result<Tensor> {
        let layer = self.layer(module)?;
        layer.check_indices(indices)?;
        let mut exact = layer.looked_up(indices);
        if let Some(magnitudes) = layer.magnitudes(backend)? {
            let factors = magnitudes.factors;
            exact.iter_mut().enumerate().for_each(|(index, z)| *z *= factors[index % factors.len()]);
        }
        let mut y = Tensor::zeros(layer.weight.dtype(), &[indices.len(), layer.weight.shape()[1]]);
        round_into(&mut y, &exact);
        Ok(y)
    }

    /// Gradients of an embedding, given dY \[M, features\]. `padding` is the index that is not trained: PyTorch's
    /// `padding_idx`, which checkpoints do not hold.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); or adapters are merged.
    pub fn embed_backward(
        &self,
        backend: &HostBackend<'_>,
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
        let mut dz: Vec<f64> = dy.to_f32().into_iter().map(f64::from).collect();
        let mut bias = vec![0.0f64; out];
        dz.iter().enumerate().for_each(|(index, dy)| bias[index % out] += dy);
        let single = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
        let mut magnitude = None;
        if let Some(magnitudes) = layer.magnitudes(backend)? {
            let mut sums = vec![0.0; out];
            for (index, (dz, z)) in dz.iter_mut().zip(layer.looked_up(indices)).enumerate() {
                sums[index % out] += magnitudes.gradient(index % out, *dz, z);
                *dz *= magnitudes.factors[index % out];
            }
            magnitude = Some(Tensor::of(&[out], single(sums)));
        }
        let mut adapters = BTreeMap::new();
        for active in &layer.active {
            let (mut gradients, a) = (active.zeros(), &active.layer.a);
            let (rank, vocabulary) = (a.shape()[0], a.shape()[1]);
            let b = active.layer.b.to_f32();
            let (mut da, mut db) = (vec![0.0f64; a.len()], vec![0.0f64; b.len()]);
            for (dz, &index) in dz.chunks(out).zip(indices) {
                for k in 0..rank {
                    let a = f64::from(a.at(k * vocabulary + index));
                    let mut sum = 0.0;
                    for (o, dz) in dz.iter().enumerate() {
                        sum += dz * f64::from(b[o * rank + k]);
                        db[o * rank + k] += active.site.scale * dz * a;
                    }
                    if padding != Some(index) {
                        da[k * vocabulary + index] += active.site.scale * sum;
                    }
                }
            }
            round_into(&mut gradients.a, &da);
            round_into(&mut gradients.b, &db);
            gradients.magnitude = magnitude.clone();
            adapters.insert(active.name.to_owned(), gradients);
        }
        Ok(Gradients { x: None, adapters, bias: Tensor::of(&[out], single(bias)) })
    }
}

impl Layer<'_> {
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

    /// W\[i\] + Σ s·A\[:, i\]·B for each index, in `f64`. Reads the rows that are asked for, not the vocabulary.
    fn looked_up(&self, indices: &[usize]) -> Vec<f64> {
        let out = self.weight.shape()[1];
        let mut rows: Vec<f64> = indices
            .iter()
            .flat_map(|index| (index * out..(index + 1) * out).map(|at| f64::from(self.weight.at(at))))
            .collect();
        for active in &self.active {
            let (a, b) = (&active.layer.a, active.layer.b.to_f32());
            let (rank, vocabulary) = (a.shape()[0], a.shape()[1]);
            for (row, index) in rows.chunks_mut(out).zip(indices) {
                let a: Vec<f64> = (0..rank).map(|k| f64::from(a.at(k * vocabulary + index))).collect();
                for (sum, b) in row.iter_mut().zip(b.chunks(rank)) {
                    let product: f64 = a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum();
                    *sum += active.site.scale * product;
                }
            }
        }
        rows
    }
}

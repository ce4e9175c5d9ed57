//! Stacked experts' forward and backward: which expert a row of X is for is given with it.
//!
//! Rows are taken together by expert, so that each expert that has any is one call of the backend.

use super::{Active, Gradients};
use crate::checkpoint::{LayerKind, has_transposed_experts};
use crate::model::LoraModel;
use crate::tensor::{Tensor, each_type};
use crate::update::{Concatenated, HostBackend, Term};
use crate::{Error, Result};
use lora_kernels::ops::Output;
use lora_kernels::{Adapter as Factors, Backward, DType, Forward, Frozen, FrozenBackward, MatrixRef};
use std::collections::BTreeMap;

/// What takes part in one stacked parameter.
struct Experts<'a> {
    name: &'a str,
    weight: &'a Tensor,
    /// Experts, and rows and columns of each one's matrix as stored.
    shape: [usize; 3],
    /// Whether the model uses the matrices as \[in, out\].
    input_major: bool,
    /// Whether the adapters were made as if it did not use them that way: A then takes the outputs and B the inputs.
    exchanged: bool,
    active: Vec<Active<'a>>,
}

impl LoraModel {
    /// Y \[M, out\] of stacked experts with the active adapters, in X's type: row m of X \[M, in\] goes through expert
    /// `experts[m]`. Merged adapters are in the weight already.
    ///
    /// Rows may come in any order, and experts without rows are not touched. A token that is routed to several experts
    /// is a row for each. Biases that a model has for its experts are parameters of their own and not added.
    ///
    /// `parameter` is the parameter's name (`….experts.gate_up_proj`) or the key of its layer in
    /// [`Adapter::layers`](crate::Adapter::layers), where the second-last targeted parameter of a module is
    /// `….experts.base_layer`.
    ///
    /// Whether W is \[experts, out, in\] or \[experts, in, out\] is known from the model's type, and without a type
    /// taken from the adapter.
    ///
    /// ```no_run
    /// # use lora_kernels::cpu::Cpu;
    /// # use lora_peft::{Adapter, Checkpoint, LoraModel, Tensor};
    /// let mut model = LoraModel::new(Checkpoint::open("base".as_ref())?);
    /// model.add_adapter(&mut Cpu::new(), "task", Adapter::load("adapter".as_ref())?)?;
    /// // The router sent the first token to experts 3 and 1, the second to 1 and 0: a row for each.
    /// let x = Tensor::new(&[4, 2048], vec![0.0f32; 4 * 2048])?;
    /// let parameter = "model.layers.0.mlp.experts.gate_up_proj";
    /// let y = model.forward_experts(&mut Cpu::new(), parameter, &x, &[3, 1, 1, 0])?;
    /// # Ok::<(), lora_peft::Error>(())
    /// ```
    ///
    /// # Errors
    /// No adapter has such a layer, it has no experts (see [`forward`](Self::forward)), X does not fit it or the number of
    /// rows, an expert is out of range, or active adapters were made for different layouts of W.
    pub fn forward_experts(
        &self,
        backend: &HostBackend<'_>,
        parameter: &str,
        x: &Tensor,
        experts: &[usize],
    ) -> Result<Tensor> {
        let layer = self.experts(parameter)?;
        let (input, output) = layer.features();
        layer.check_rows("X", x, experts, input)?;
        let mut y = Tensor::zeros(x.dtype(), &[experts.len(), output]);
        for (expert, rows) in layer.by_expert(experts)? {
            let x = gathered(x, &rows);
            let mut part = Tensor::zeros(x.dtype(), &[rows.len(), output]);
            let (w, to) = (layer.matrix(expert)?, part.matrix_mut()?);
            match layer.concatenated(expert) {
                Some(concatenated) => backend.forward(Forward {
                    x: x.matrix()?,
                    w,
                    adapter: layer.factors(&concatenated)?,
                    bias: None,
                    dropout: None,
                    y: to,
                    s: None,
                })?,
                None => backend.frozen(Frozen { x: x.matrix()?, w, bias: None, y: Output::overwrite(to) })?,
            }
            scatter(&part, &rows, &mut y);
        }
        Ok(y)
    }

    /// Gradients of stacked experts, given X, dY \[M, out\] and the expert of each row. Experts without rows get zeros.
    ///
    /// dA and dB have the shapes of the adapter's tensors; [`Gradients::bias`] is \[experts, out\], the sums over each
    /// expert's rows.
    ///
    /// # Errors
    /// As [`forward_experts`](Self::forward_experts); or dY does not fit, or adapters are merged, and so cannot be
    /// trained.
    pub fn backward_experts(
        &self,
        backend: &HostBackend<'_>,
        parameter: &str,
        x: &Tensor,
        dy: &Tensor,
        experts: &[usize],
    ) -> Result<Gradients> {
        self.check_not_merged("training")?;
        let layer = self.experts(parameter)?;
        let (input, output) = layer.features();
        layer.check_rows("X", x, experts, input)?;
        layer.check_rows("dY", dy, experts, output)?;
        let zeros = |tensor: &Tensor| vec![0.0; tensor.len()];
        let mut found: Vec<(Vec<f32>, Vec<f32>)> =
            layer.active.iter().map(|Active { layer, .. }| (zeros(&layer.a), zeros(&layer.b))).collect();
        let mut dx = Tensor::zeros(x.dtype(), x.shape());
        let mut bias = vec![0.0f32; layer.shape[0] * output];
        for (expert, rows) in layer.by_expert(experts)? {
            let (x, dy) = (gathered(x, &rows), gathered(dy, &rows));
            let mut part = Tensor::zeros(x.dtype(), x.shape());
            let bias = &mut bias[expert * output..(expert + 1) * output];
            let Some(concatenated) = layer.concatenated(expert) else {
                let dx_of_part = Output::overwrite(part.matrix_mut()?);
                let (dy_view, w) = (dy.matrix()?, layer.matrix(expert)?);
                backend.frozen_backward(FrozenBackward { dy: dy_view, w, dx: dx_of_part })?;
                for (index, value) in dy.to_f32().into_iter().enumerate() {
                    bias[index % output] += value;
                }
                scatter(&part, &rows, &mut dx);
                continue;
            };
            let mut sums = Tensor::zeros(DType::F32, &[1, output]);
            let factors = layer.factors(&concatenated)?;
            let rank = factors.rank();
            let (a_features, b_features) = layer.adapter_features();
            let mut da = Tensor::zeros(DType::F32, &[rank, a_features]);
            let mut db = Tensor::zeros(DType::F32, &[b_features, rank]);
            let (da_out, db_out) = match layer.exchanged {
                false => (da.matrix_mut()?.t(), db.matrix_mut()?.t()),
                true => (db.matrix_mut()?, da.matrix_mut()?),
            };
            backend.backward(Backward {
                x: Some(x.matrix()?),
                w: layer.matrix(expert)?,
                adapter: factors,
                dropout: None,
                dy: dy.matrix()?,
                s: None,
                dx: Some(Output::overwrite(part.matrix_mut()?)),
                da: Some(Output::overwrite(da_out)),
                db: Some(Output::overwrite(db_out)),
                dbias: Some(Output::overwrite(sums.matrix_mut()?)),
            })?;
            scatter(&part, &rows, &mut dx);
            layer.take_apart(expert, rank, &da.to_f32(), &db.to_f32(), &mut found);
            bias.copy_from_slice(&sums.to_f32());
        }
        let mut adapters = BTreeMap::new();
        for (active, (a, b)) in layer.active.iter().zip(found) {
            let mut gradients = active.zeros();
            gradients.a = Tensor::of(active.layer.a.shape(), a);
            gradients.b = Tensor::of(active.layer.b.shape(), b);
            adapters.insert(active.name.to_owned(), gradients);
        }
        Ok(Gradients { x: Some(dx), adapters, bias: Tensor::of(&[layer.shape[0], output], bias) })
    }

    fn experts<'a>(&'a self, name: &'a str) -> Result<Experts<'a>> {
        let site = self.site(name)?;
        let mut weight = self.weight(&site.weight)?;
        if !matches!(site.kind, LayerKind::Experts | LayerKind::TransposedExperts) {
            return Err(Error::module(name, "has no experts; `forward` and `backward` are for it"));
        }
        let mut active = Vec::new();
        if self.merged.is_none() {
            for name in self.active() {
                let loaded = self.loaded(name)?;
                if let Some(key) = loaded.binding.replaced.get(&site.weight) {
                    weight = &loaded.adapter.replaced[key];
                }
                if let Some((site, layer)) = loaded.on(&site.weight) {
                    active.push(Active { name, site, layer });
                }
            }
        }
        let &[experts, rows, columns] = weight.shape() else {
            return Err(Error::module(name, format!("has shape {:?}, not that of experts", weight.shape())));
        };
        let kind = active.first().map_or(site.kind, |active| active.site.kind);
        let input_major = has_transposed_experts(&self.checkpoint).unwrap_or(kind.is_input_major());
        let layer = Experts {
            name,
            weight,
            shape: [experts, rows, columns],
            input_major,
            exchanged: !active.is_empty() && input_major != kind.is_input_major(),
            active,
        };
        layer.check_adapters()?;
        Ok(layer)
    }
}

impl<'a> Experts<'a> {
    /// in and out of each expert.
    fn features(&self) -> (usize, usize) {
        let [_, rows, columns] = self.shape;
        if self.input_major { (rows, columns) } else { (columns, rows) }
    }

    /// What A and B of the adapters are as wide and high as.
    fn adapter_features(&self) -> (usize, usize) {
        let (input, output) = self.features();
        if self.exchanged { (output, input) } else { (input, output) }
    }

    /// Layers can be changed from outside.
    fn check_adapters(&self) -> Result<()> {
        let (a_features, b_features) = self.adapter_features();
        for Active { name: adapter, site, layer } in &self.active {
            layer.check(self.name)?;
            if site.kind != self.active[0].site.kind {
                return Err(Error::module(
                    self.name,
                    format!(
                        "adapters `{}` and `{adapter}` were made for different layouts of it",
                        self.active[0].name
                    ),
                ));
            }
            if layer.magnitude.is_some() || layer.bias.is_some() {
                return Err(Error::module(
                    self.name,
                    format!("adapter `{adapter}` has magnitudes or a bias, which experts cannot have"),
                ));
            }
            let stacked = self.shape[0] * site.rank;
            if layer.a.shape() != [stacked, a_features] || layer.b.shape() != [b_features, stacked] {
                return Err(Error::module(
                    self.name,
                    format!(
                        "A {:?} and B {:?} of adapter `{adapter}` do not fit {:?} at rank {}",
                        layer.a.shape(),
                        layer.b.shape(),
                        self.shape,
                        site.rank
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_rows(&self, what: &str, found: &Tensor, experts: &[usize], features: usize) -> Result<()> {
        let (rows, dtype) = (experts.len(), self.weight.dtype());
        if found.shape() == [rows, features] && found.dtype() == dtype {
            return Ok(());
        }
        Err(Error::module(
            self.name,
            format!(
                "{what} is {} {:?}, but {dtype} [{rows}, {features}] is needed, a row for each index of an expert",
                found.dtype(),
                found.shape()
            ),
        ))
    }

    /// The rows of each expert that has any.
    fn by_expert(&self, experts: &[usize]) -> Result<BTreeMap<usize, Vec<usize>>> {
        let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row, &expert) in experts.iter().enumerate() {
            if expert >= self.shape[0] {
                return Err(Error::module(
                    self.name,
                    format!("row {row} is for expert {expert} of {}", self.shape[0]),
                ));
            }
            rows.entry(expert).or_default().push(row);
        }
        Ok(rows)
    }

    /// The active adapters of an expert as one, if there are any.
    fn concatenated(&self, expert: usize) -> Option<Concatenated<'_>> {
        let terms: Vec<Term<'_>> =
            self.active.iter().map(|active| Term::new(active.site, active.layer)).collect();
        (!terms.is_empty()).then(|| Concatenated::new(&terms, expert))
    }

    fn factors<'f>(&self, concatenated: &'f Concatenated) -> Result<Factors<'f>> {
        let Factors { a, b, scale } = concatenated.factors()?;
        Ok(if self.exchanged { Factors { a: b.t(), b: a.t(), scale } } else { Factors { a, b, scale } })
    }

    /// W \[in, out\] of an expert.
    fn matrix(&self, expert: usize) -> Result<MatrixRef<'_>> {
        let [_, rows, columns] = self.shape;
        let range = expert * rows * columns..(expert + 1) * rows * columns;
        let matrix =
            each_type!(self.weight.values(), values => MatrixRef::new(&values[range], rows, columns)?);
        Ok(if self.input_major { matrix } else { matrix.t() })
    }

    /// Puts one expert's dA \[r, …\] and dB \[…, r\] of all active adapters where each adapter has that expert: the
    /// slowest index of A's rows, the fastest of B's columns. B has its s in it where there are several.
    fn take_apart(
        &self,
        expert: usize,
        all: usize,
        da: &[f32],
        db: &[f32],
        found: &mut [(Vec<f32>, Vec<f32>)],
    ) {
        let experts = self.shape[0];
        let (a_features, _) = self.adapter_features();
        let mut start = 0;
        for (Active { site, .. }, (a, b)) in self.active.iter().zip(found) {
            let rank = site.rank;
            let scale = if self.active.len() > 1 { site.scale as f32 } else { 1.0 };
            let part = &da[start * a_features..(start + rank) * a_features];
            a[expert * part.len()..(expert + 1) * part.len()].copy_from_slice(part);
            for (to, from) in b.chunks_mut(rank * experts).zip(db.chunks(all)) {
                for (k, value) in from[start..start + rank].iter().enumerate() {
                    to[k * experts + expert] = value * scale;
                }
            }
            start += rank;
        }
    }
}

/// These rows of a matrix.
fn gathered(matrix: &Tensor, rows: &[usize]) -> Tensor {
    let mut found = Tensor::zeros(matrix.dtype(), &[rows.len(), matrix.shape()[1]]);
    let size = matrix.shape()[1] * matrix.dtype().size();
    for (to, row) in found.bytes_mut().chunks_mut(size.max(1)).zip(rows) {
        to.copy_from_slice(&matrix.bytes()[row * size..(row + 1) * size]);
    }
    found
}

/// Puts rows back where they were taken.
fn scatter(part: &Tensor, rows: &[usize], matrix: &mut Tensor) {
    let size = part.shape()[1] * part.dtype().size();
    for (from, row) in part.bytes().chunks(size.max(1)).zip(rows) {
        matrix.bytes_mut()[row * size..(row + 1) * size].copy_from_slice(from);
    }
}

//! DoRA (Liu et al., arXiv 2402.09353): each output's weights have a direction and a trained magnitude.

use super::rounding::{Measured, round_block};
use super::{Concatenated, HostBackend, Term, UpdateOptions};
use crate::checkpoint::LayerKind;
use crate::tensor::Tensor;
use crate::{Error, Result};
use lora_kernels::{Delta, MatrixMut, MergeReport, Rounding};
use std::ops::Range;

/// Elements of a weight that are looked at together.
const BLOCK: usize = 1 << 20;

/// How the elements of W + Δ belong to outputs, as the weight lies in memory.
struct Directions<'a> {
    factors: Concatenated<'a>,
    kind: LayerKind,
    rows: usize,
    columns: usize,
    /// Elements that are looked at together, but no less than a row.
    block: usize,
}

impl<'a> Directions<'a> {
    fn new(weight: &Tensor, term: Term<'a>) -> Self {
        let (rows, columns) = weight.rows_and_columns();
        let factors = Concatenated::new(&[Term { weight: 1.0, ..term }], 0);
        Directions { factors, kind: term.site.kind, rows, columns, block: BLOCK }
    }

    /// Ranges of rows, so that no more than a block is in memory in `f64`.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, step) = (self.rows, (self.block / self.columns.max(1)).max(1));
        (0..rows).step_by(step).map(move |start| start..rows.min(start + step))
    }

    /// W + Δ of some rows in `f64`.
    fn block(&self, backend: &HostBackend<'_>, weight: &Tensor, rows: Range<usize>) -> Result<Vec<f64>> {
        let mut delta = vec![0.0f32; rows.len() * self.columns];
        let matrix = MatrixMut::new(&mut delta, rows.len(), self.columns)?;
        backend.delta(if self.kind.is_input_major() {
            let adapter = self.factors.block(rows.clone(), 0..self.columns)?;
            Delta { adapter, delta: matrix }
        } else {
            let adapter = self.factors.block(0..self.columns, rows.clone())?;
            Delta { adapter, delta: matrix.t() }
        })?;
        let weight = weight.f32_range(rows.start * self.columns..rows.end * self.columns);
        Ok(weight.iter().zip(&delta).map(|(w, d)| f64::from(*w) + f64::from(*d)).collect())
    }

    fn outputs(&self) -> usize {
        if self.kind.is_input_major() { self.columns } else { self.rows }
    }

    fn output_of(&self, index: usize) -> usize {
        if self.kind.is_input_major() { index % self.columns } else { index / self.columns }
    }

    fn norms(&self, backend: &HostBackend<'_>, weight: &Tensor) -> Result<Vec<f64>> {
        let mut squares = vec![0.0; self.outputs()];
        for rows in self.blocks() {
            let start = rows.start * self.columns;
            for (index, value) in self.block(backend, weight, rows)?.into_iter().enumerate() {
                squares[self.output_of(start + index)] += value * value;
            }
        }
        Ok(squares.into_iter().map(f64::sqrt).collect())
    }
}

/// ‖W + Δ‖ of each output.
pub(crate) fn direction_norms(
    backend: &HostBackend<'_>,
    weight: &Tensor,
    term: Term<'_>,
) -> Result<Vec<f64>> {
    Directions::new(weight, term).norms(backend, weight)
}

/// m/‖W + Δ‖ of each output; 0 where all weights are 0 and so have no direction.
pub(crate) fn magnitude_factors(magnitude: &Tensor, norms: &[f64]) -> Vec<f64> {
    let factor = |(m, norm): (f32, &f64)| if *norm == 0.0 { 0.0 } else { f64::from(m) / norm };
    magnitude.to_f32().into_iter().zip(norms).map(factor).collect()
}

/// DoRA's merge: W ← m·(W + Δ)/‖W + Δ‖, the norm taken over each output's weights; computed in `f64`, rounded once.
///
/// # Errors
/// The layer has no magnitudes, or the adapter is weighted: magnitudes replace the weight's own, so there is no half
/// of it.
pub(crate) fn update_dora(
    backend: &HostBackend<'_>,
    weight: &mut Tensor,
    term: Term<'_>,
    options: UpdateOptions,
) -> Result<Option<MergeReport>> {
    let module = &term.site.layer;
    let Some(magnitude) = &term.layer.magnitude else {
        return Err(Error::module(module, "has no magnitudes"));
    };
    if term.weight != 1.0 {
        return Err(Error::module(module, "a DoRA adapter can only be merged with weight 1, and alone"));
    }
    if options.rounding != Rounding::Nearest {
        return Err(Error::module(module, "DoRA adapters are rounded to nearest only"));
    }
    let directions = Directions::new(weight, term);
    let norms = directions.norms(backend, weight)?;
    let factors = magnitude_factors(magnitude, &norms);
    let mut measured = options.report.then(Measured::default);
    for rows in directions.blocks() {
        let start = rows.start * directions.columns;
        let mut exact = directions.block(backend, weight, rows)?;
        for (index, value) in exact.iter_mut().enumerate() {
            *value *= factors[directions.output_of(start + index)];
        }
        round_block(weight, start, &exact, measured.as_mut());
    }
    Ok(measured.map(|measured| measured.report()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::AdapterLayer;
    use crate::binding::Site;
    use half::bf16;
    use lora_kernels::cpu::Cpu;

    /// More than a block, with a part of one at the end, against the definition.
    #[test]
    fn several_blocks_follow_the_definition() {
        let (rows, columns, rank) = (1030, 1024, 2);
        let random = |seed: usize, index: usize| {
            (((index * 2_654_435_761 + seed * 40_503) >> 7) % 2001) as f32 / 1000.0 - 1.0
        };
        for kind in [LayerKind::Linear, LayerKind::TransposedLinear] {
            let (out, input) = if kind.is_input_major() { (columns, rows) } else { (rows, columns) };
            let values = |seed, len| (0..len).map(|index| random(seed, index)).collect::<Vec<f32>>();
            let weight: Vec<bf16> = values(1, rows * columns).into_iter().map(bf16::from_f32).collect();
            let (a, b, m) = (values(2, rank * input), values(3, out * rank), values(4, out));
            let layer = AdapterLayer {
                a: Tensor::of(&[rank, input], a.clone()),
                b: Tensor::of(&[out, rank], b.clone()),
                bias: None,
                magnitude: Some(Tensor::of(&[out], m.clone())),
                embedding: false,
            };
            let site = Site {
                layer: "layer".into(),
                weight: "layer.weight".into(),
                bias: None,
                kind,
                rank,
                scale: 0.5,
            };
            let mut merged = Tensor::of(&[rows, columns], weight.clone());
            let options = UpdateOptions { report: true, ..Default::default() };
            let term = Term::new(&site, &layer);
            let report = update_dora(&Cpu::new(), &mut merged, term, options).unwrap().unwrap();
            assert_eq!((report.elements, report.non_finite), ((rows * columns) as u64, 0));

            let direction = |o: usize, i: usize| {
                let w = weight[if kind.is_input_major() { i * columns + o } else { o * columns + i }];
                let delta: f64 =
                    (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * input + i])).sum();
                w.to_f64() + 0.5 * delta
            };
            let merged = merged.to_f32();
            for o in [0, 1, out / 2, out - 1] {
                let norm = (0..input).map(|i| direction(o, i).powi(2)).sum::<f64>().sqrt();
                for i in 0..input {
                    let exact = f64::from(m[o]) * direction(o, i) / norm;
                    let found = merged[if kind.is_input_major() { i * columns + o } else { o * columns + i }];
                    // Half a step of bf16, and the Δ that was rounded to f32.
                    let bound = exact.abs() * 2f64.powi(-8) + 1e-7;
                    assert!((f64::from(found) - exact).abs() <= bound, "{kind:?} {o} {i}: {found} {exact}");
                }
            }
        }
    }

    #[test]
    fn outputs_without_weights_stay_zero() {
        let magnitude = Tensor::of(&[2], vec![3.0f32, 3.0]);
        assert_eq!(magnitude_factors(&magnitude, &[0.0, 2.0]), [0.0, 1.5]);
    }

    #[test]
    fn results_do_not_depend_on_the_size_of_blocks() {
        let (rows, columns, rank) = (23, 18, 3);
        let values = |seed: usize, len: usize| -> Vec<f32> {
            (0..len).map(|index| ((index * 31 + seed * 17) % 101) as f32 / 50.0 - 1.0).collect()
        };
        let kinds =
            [LayerKind::Linear, LayerKind::TransposedLinear, LayerKind::Embedding, LayerKind::Convolution];
        for kind in kinds {
            let (out, input) = if kind.is_input_major() { (columns, rows) } else { (rows, columns) };
            let [shape, a_shape]: [&[usize]; 2] = match kind {
                LayerKind::Convolution => [&[rows, 2, 3, 3], &[rank, 2, 3, 3]],
                _ => [&[rows, columns], &[rank, input]],
            };
            let layer = AdapterLayer {
                a: Tensor::of(a_shape, values(1, rank * input)),
                b: Tensor::of(&[out, rank], values(2, out * rank)),
                bias: None,
                magnitude: None,
                embedding: kind == LayerKind::Embedding,
            };
            let (name, weight) = ("layer".to_owned(), "layer.weight".to_owned());
            let site = Site { layer: name, weight, bias: None, kind, rank, scale: 0.7 };
            let weight = Tensor::of(shape, values(3, rows * columns));
            let term = Term::new(&site, &layer);
            let results = |block: usize| {
                let directions = Directions { block, ..Directions::new(&weight, term) };
                let backend = &mut Cpu::new();
                let norms = directions.norms(backend, &weight).unwrap();
                let blocks =
                    directions.blocks().map(|rows| directions.block(backend, &weight, rows).unwrap());
                (norms, blocks.collect::<Vec<_>>().concat())
            };
            let whole = results(BLOCK);
            assert_eq!(whole.1.len(), rows * columns);
            for block in [1, 7 * columns, 22 * columns] {
                assert!(results(block) == whole, "{kind:?} in blocks of {block}");
            }
        }
    }
}

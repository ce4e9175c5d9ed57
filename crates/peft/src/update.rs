//! What adapters do to one weight in memory.

use crate::adapter::AdapterLayer;
use crate::binding::Site;
use crate::module::LayerKind;
use crate::tensor::{Tensor, Values, each_type};
use crate::{Error, Result};
use half::{bf16, f16};
use lora_kernels::memory::{Host, HostMut};
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{
    Adapter as Factors, Backend, DType, Delta, Element, Layout, MatrixMut, MatrixRef, MergeReport, Rounding,
    WeightUpdate,
};

/// A backend of lora-kernels that works on host memory.
pub type HostBackend<'a> = dyn Backend<Memory = Host, Codes = Vec<u8>> + 'a;

/// One adapter's part in the change of a weight: s·w·B·A.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Where and how.
    pub site: &'a Site,
    /// A and B.
    pub layer: &'a AdapterLayer,
    /// The caller's factor w.
    pub weight: f64,
}

/// How weights are changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateOptions {
    /// How new weights are rounded.
    pub rounding: Rounding,
    /// Whether to measure the update.
    pub report: bool,
}

/// A and B of one matrix in `f32`, several adapters stacked along the rank.
#[derive(Debug)]
pub(crate) struct Stacked {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    input: usize,
    output: usize,
    scale: f32,
}

impl Stacked {
    /// The factors of expert `slice`, or of the whole weight where there are no experts.
    pub fn new(parts: &[Part<'_>], slice: usize) -> Self {
        let factors: Vec<(Vec<f32>, Vec<f32>, usize)> =
            parts.iter().map(|part| slice_of(part, slice)).collect();
        let scales: Vec<f64> = parts.iter().map(|part| part.site.scale * part.weight).collect();
        let rank = factors.iter().map(|(_, _, rank)| rank).sum();
        let input = factors.first().map_or(0, |(a, _, rank)| a.len() / rank);
        let output = factors.first().map_or(0, |(_, b, rank)| b.len() / rank);
        if let ([(a, b, _)], [scale]) = (factors.as_slice(), scales.as_slice()) {
            return Stacked { a: a.clone(), b: b.clone(), rank, input, output, scale: *scale as f32 };
        }
        let a = factors.iter().flat_map(|(a, _, _)| a.iter().copied()).collect();
        let mut b = Vec::with_capacity(output * rank);
        for row in 0..output {
            for ((_, part, rank), scale) in factors.iter().zip(&scales) {
                let row = &part[row * rank..(row + 1) * rank];
                b.extend(row.iter().map(|value| (f64::from(*value) * scale) as f32));
            }
        }
        Stacked { a, b, rank, input, output, scale: 1.0 }
    }

    /// Factors of rank 1 that change nothing.
    pub fn nothing(input: usize, output: usize) -> Self {
        Stacked { a: vec![0.0; input], b: vec![0.0; output], rank: 1, input, output, scale: 0.0 }
    }

    pub fn factors(&self) -> Result<Factors<'_>> {
        Ok(Factors {
            a: MatrixRef::new(&self.a, self.rank, self.input)?.t(),
            b: MatrixRef::new(&self.b, self.output, self.rank)?.t(),
            scale: self.scale,
        })
    }
}

/// A \[r, in\] and B \[out, r\] of one expert: the expert is the slowest index of A's rows, the fastest of B's columns.
fn slice_of(part: &Part<'_>, slice: usize) -> (Vec<f32>, Vec<f32>, usize) {
    let (a, b) = (&part.layer.a, &part.layer.b);
    let all = a.shape()[0];
    if !matches!(part.site.kind, LayerKind::Experts | LayerKind::TransposedExperts) {
        // A swap may have left more rank than the site's.
        return (a.to_f32(), b.to_f32(), all);
    }
    let rank = part.site.rank;
    let (input, experts) = (a.len() / all, all / rank);
    let range = slice * rank * input..(slice + 1) * rank * input;
    let a = each_type!(a.values(), values => values[range].iter().map(|value| value.to_f32()).collect());
    let of_slice = |index: usize| index * experts + slice;
    let b = each_type!(b.values(), values => {
        (0..values.len() / experts).map(|index| values[of_slice(index)].to_f32()).collect()
    });
    (a, b, rank)
}

/// Matrices that a weight consists of, each of this many rows and columns.
fn slices(kind: LayerKind, weight: &Tensor) -> (usize, usize, usize) {
    let shape = weight.shape();
    match (kind, shape) {
        (LayerKind::Experts | LayerKind::TransposedExperts, [experts, rows, columns]) => {
            (*experts, *rows, *columns)
        }
        _ => {
            let (rows, columns) = weight.rows_and_columns();
            (1, rows, columns)
        }
    }
}

/// Whether the weight is stored \[in, out\].
pub(crate) fn is_input_major(kind: LayerKind) -> bool {
    matches!(kind, LayerKind::TransposedLinear | LayerKind::Embedding | LayerKind::TransposedExperts)
}

/// Matrix `slice` of a weight as W \[in, out\].
fn slice_mut(kind: LayerKind, weight: &mut Tensor, slice: usize) -> Result<MatrixMut<'_>> {
    let (_, rows, columns) = slices(kind, weight);
    let range = slice * rows * columns..(slice + 1) * rows * columns;
    let buffer = each_type!(weight.values_mut(), values => HostMut::new(&mut values[range]));
    let matrix = MatrixMut::from_buffer(buffer, Layout::strided(rows, columns, columns)?)?;
    Ok(if is_input_major(kind) { matrix } else { matrix.t() })
}

/// Changes a weight in place: takes `remove` out, puts `add` in, rounds once.
///
/// `records`, one for each matrix of the weight, are filled, used up or renewed as [`WeightUpdate`] does.
///
/// # Errors
/// The factors do not fit, or a record belongs to other weights.
pub(crate) fn update(
    backend: &mut HostBackend<'_>,
    weight: &mut Tensor,
    remove: &[Part<'_>],
    add: &[Part<'_>],
    options: UpdateOptions,
    mut records: Option<&mut [RestoreRecord]>,
) -> Result<Option<MergeReport>> {
    let kind = add.iter().chain(remove).map(|part| part.site.kind).next();
    let count = kind.map_or(0, |kind| slices(kind, weight).0);
    if let Some(records) = &records
        && records.len() != count
    {
        let found = records.len();
        return Err(Error::Record(format!("{found} parts for a weight of which {count} matrices change")));
    }
    let Some(kind) = kind else {
        return Ok(None);
    };
    if let Some(other) = add.iter().chain(remove).find(|part| part.site.kind != kind) {
        return Err(Error::module(
            &other.site.layer,
            format!("adapters take its weight for {kind:?} and for {:?}", other.site.kind),
        ));
    }
    let mut total: Option<MergeReport> = None;
    for slice in 0..count {
        let (removed, added) = (Stacked::new(remove, slice), Stacked::new(add, slice));
        let report = backend.update_weights(WeightUpdate {
            w: slice_mut(kind, weight, slice)?,
            remove: if remove.is_empty() { None } else { Some(removed.factors()?) },
            add: if add.is_empty() { None } else { Some(added.factors()?) },
            rounding: reseed(options.rounding, slice as u64),
            record: records.as_deref_mut().map(|records| &mut records[slice]),
            report: options.report,
        })?;
        total = match (total, report) {
            (Some(total), Some(report)) => Some(joined(&total, &report)),
            (total, report) => report.or(total),
        };
    }
    Ok(total)
}

/// Empty records for a weight, one for each of its matrices.
pub(crate) fn empty_records(kind: LayerKind, weight: &Tensor, method: RestoreMethod) -> Vec<RestoreRecord> {
    (0..slices(kind, weight).0).map(|_| RestoreRecord::new(method)).collect()
}

/// The same random numbers must not be used for every weight of a model.
pub(crate) fn reseed(rounding: Rounding, stream: u64) -> Rounding {
    match rounding {
        Rounding::Nearest => Rounding::Nearest,
        Rounding::Stochastic { seed } => {
            Rounding::Stochastic { seed: seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) }
        }
    }
}

/// A number for a tensor's name (FNV-1a).
pub(crate) fn name_stream(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The report of two updates together.
pub(crate) fn joined(one: &MergeReport, two: &MergeReport) -> MergeReport {
    let finite = |report: &MergeReport| (report.elements - report.non_finite) as f64;
    let count = finite(one) + finite(two);
    let squares = |report: &MergeReport| report.rms_error * report.rms_error * finite(report);
    MergeReport {
        elements: one.elements + two.elements,
        unchanged: one.unchanged + two.unchanged,
        max_error: one.max_error.max(two.max_error),
        rms_error: if count > 0.0 { ((squares(one) + squares(two)) / count).sqrt() } else { 0.0 },
        non_finite: one.non_finite + two.non_finite,
    }
}

/// Δ = Σ s·w·B·A in `f32`, in the layout and shape of the weight.
pub(crate) fn delta(backend: &mut HostBackend<'_>, shape: &[usize], parts: &[Part<'_>]) -> Result<Tensor> {
    let mut delta = Tensor::zeros(DType::F32, shape);
    let Some(kind) = parts.first().map(|part| part.site.kind) else {
        return Ok(delta);
    };
    for slice in 0..slices(kind, &delta).0 {
        let stacked = Stacked::new(parts, slice);
        backend.delta(Delta { adapter: stacked.factors()?, delta: slice_mut(kind, &mut delta, slice)? })?;
    }
    Ok(delta)
}

/// W + Δ in `f64`, with the norm of each output's weights.
pub(crate) struct Directions {
    values: Vec<f64>,
    /// ‖W + Δ‖ of each output.
    pub norms: Vec<f64>,
    kind: LayerKind,
    columns: usize,
}

impl Directions {
    pub fn new(backend: &mut HostBackend<'_>, weight: &Tensor, part: Part<'_>) -> Result<Self> {
        let unweighted = Part { weight: 1.0, ..part };
        let delta = delta(backend, weight.shape(), &[unweighted])?;
        let sum = |(w, d): (f32, f32)| f64::from(w) + f64::from(d);
        let values: Vec<f64> = weight.to_f32().into_iter().zip(delta.to_f32()).map(sum).collect();
        let (rows, columns) = weight.rows_and_columns();
        let kind = part.site.kind;
        let outputs = if is_input_major(kind) { columns } else { rows };
        let mut norms = vec![0.0; outputs];
        for (index, value) in values.iter().enumerate() {
            norms[output_of(kind, columns, index)] += value * value;
        }
        norms.iter_mut().for_each(|norm| *norm = norm.sqrt());
        Ok(Directions { values, norms, kind, columns })
    }
}

fn output_of(kind: LayerKind, columns: usize, index: usize) -> usize {
    if is_input_major(kind) { index % columns } else { index / columns }
}

/// DoRA's merge: W ← m·(W + Δ)/‖W + Δ‖, the norm taken over each output's weights; computed in `f64`, rounded once.
///
/// # Errors
/// The layer has no magnitudes, or the adapter is weighted: magnitudes replace the weight's own, so there is no half
/// of it.
pub(crate) fn update_dora(
    backend: &mut HostBackend<'_>,
    weight: &mut Tensor,
    part: Part<'_>,
    options: UpdateOptions,
) -> Result<Option<MergeReport>> {
    let module = &part.site.layer;
    let Some(magnitude) = &part.layer.magnitude else {
        return Err(Error::module(module, "has no magnitudes"));
    };
    if part.weight != 1.0 {
        return Err(Error::module(module, "a DoRA adapter can only be merged with weight 1, and alone"));
    }
    if options.rounding != Rounding::Nearest {
        return Err(Error::module(module, "DoRA adapters are rounded to nearest only"));
    }
    let directions = Directions::new(backend, weight, part)?;
    let factors: Vec<f64> =
        magnitude.to_f32().iter().zip(&directions.norms).map(|(m, norm)| f64::from(*m) / norm).collect();
    let exact: Vec<f64> = directions
        .values
        .iter()
        .enumerate()
        .map(|(index, value)| value * factors[output_of(directions.kind, directions.columns, index)])
        .collect();
    Ok(round_into(weight, &exact, options.report))
}

/// Stores `f64` values in a tensor, each rounded once.
pub(crate) fn round_into(weight: &mut Tensor, exact: &[f64], report: bool) -> Option<MergeReport> {
    let before = report.then(|| weight.clone());
    match weight.values_mut() {
        Values::F32(values) => values.iter_mut().zip(exact).for_each(|(value, exact)| *value = *exact as f32),
        Values::F16(values) => {
            values.iter_mut().zip(exact).for_each(|(value, exact)| *value = f16::from_f64(*exact))
        }
        Values::Bf16(values) => {
            values.iter_mut().zip(exact).for_each(|(value, exact)| *value = bf16::from_f64(*exact));
        }
    }
    before.map(|before| measure(&before, weight, exact))
}

fn measure(before: &Tensor, after: &Tensor, exact: &[f64]) -> MergeReport {
    let size = after.dtype().size();
    let unchanged =
        before.bytes().chunks(size).zip(after.bytes().chunks(size)).filter(|(old, new)| old == new).count();
    let mut report =
        MergeReport { elements: after.len() as u64, unchanged: unchanged as u64, ..Default::default() };
    let mut squares = 0.0;
    for (new, exact) in after.to_f32().into_iter().zip(exact) {
        if new.is_finite() {
            let error = (f64::from(new) - exact).abs();
            report.max_error = report.max_error.max(error);
            squares += error * error;
        } else {
            report.non_finite += 1;
        }
    }
    let finite = report.elements - report.non_finite;
    report.rms_error = if finite > 0 { (squares / finite as f64).sqrt() } else { 0.0 };
    report
}

/// bias ← bias + sign·Σ s·w·b, rounded once.
pub(crate) fn update_bias(bias: &mut Tensor, parts: &[Part<'_>], sign: f64) {
    if parts.iter().all(|part| part.layer.bias.is_none()) {
        return;
    }
    let mut exact: Vec<f64> = bias.to_f32().into_iter().map(f64::from).collect();
    for part in parts {
        let factor = sign * part.site.scale * part.weight;
        let Some(added) = &part.layer.bias else { continue };
        exact.iter_mut().zip(added.to_f32()).for_each(|(sum, value)| *sum += factor * f64::from(value));
    }
    round_into(bias, &exact, false);
}

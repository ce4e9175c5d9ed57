//! What adapters do to one weight in memory.

mod concatenated;
mod dora;
mod recorded;
mod rounding;

pub(crate) use concatenated::Concatenated;
pub(crate) use dora::{direction_norms, magnitude_factors, update_dora};
pub(crate) use recorded::{merge_recorded, unmerge_recorded};
pub(crate) use rounding::{joined, name_stream, reseed, round_block, round_into};

use crate::adapter::{AdapterLayer, Init};
use crate::binding::Site;
use crate::checkpoint::LayerKind;
use crate::tensor::{Tensor, each_type};
use crate::{Error, Result};
use lora_kernels::memory::{Host, HostMut};
use lora_kernels::{Backend, Layout, MatrixMut, MergeReport, Rounding, WeightUpdate};

/// A backend of lora-kernels that works on host memory.
pub type HostBackend<'a> = dyn Backend<Memory = Host, Codes = Vec<u8>> + 'a;

/// What one adapter adds to a weight: s·w·B·A.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term<'a> {
    /// Where and how.
    pub site: &'a Site,
    /// A and B.
    pub layer: &'a AdapterLayer,
    /// The caller's factor w.
    pub weight: f64,
    /// PiSSA or OLoRA, if the weight still holds what they cut off it to start with.
    pub start: Option<&'a Init>,
}

impl<'a> Term<'a> {
    /// With w = 1, for a weight that holds no start.
    pub fn new(site: &'a Site, layer: &'a AdapterLayer) -> Self {
        Term { site, layer, weight: 1.0, start: None }
    }

    /// s·w.
    pub fn factor(&self) -> f64 {
        self.site.scale * self.weight
    }

    /// Whether putting it in is nothing but W + s·w·B·A: it goes together with others, and can be subtracted.
    pub fn is_plain(&self) -> bool {
        self.layer.magnitude.is_none() && self.start.is_none()
    }
}

/// How weights are changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UpdateOptions {
    /// How new weights are rounded.
    pub rounding: Rounding,
    /// Whether to measure the update.
    pub report: bool,
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

/// Matrix `slice` of a weight as W \[in, out\].
fn slice_mut(kind: LayerKind, weight: &mut Tensor, slice: usize) -> Result<MatrixMut<'_>> {
    let (_, rows, columns) = slices(kind, weight);
    let range = slice * rows * columns..(slice + 1) * rows * columns;
    let buffer = each_type!(weight.values_mut(), values => HostMut::new(&mut values[range]));
    let matrix = MatrixMut::from_buffer(buffer, Layout::strided(rows, columns, columns)?)?;
    Ok(if kind.is_input_major() { matrix } else { matrix.t() })
}

/// How the adapters on one weight take it; `None` if there are none.
fn one_kind<'t>(terms: impl IntoIterator<Item = &'t Term<'t>>) -> Result<Option<LayerKind>> {
    let mut found = None;
    for term in terms {
        let kind = *found.get_or_insert(term.site.kind);
        if term.site.kind != kind {
            return Err(Error::module(
                &term.site.layer,
                format!("adapters take its weight for {kind:?} and for {:?}", term.site.kind),
            ));
        }
    }
    Ok(found)
}

/// Changes a weight in place: takes `remove` out, puts `add` in, rounds once.
///
/// # Errors
/// The factors do not fit.
pub(crate) fn update(
    backend: &HostBackend<'_>,
    weight: &mut Tensor,
    remove: &[Term<'_>],
    add: &[Term<'_>],
    options: UpdateOptions,
) -> Result<Option<MergeReport>> {
    let Some(kind) = one_kind(add.iter().chain(remove))? else { return Ok(None) };
    let mut total: Option<MergeReport> = None;
    for slice in 0..slices(kind, weight).0 {
        let (removed, added) = (Concatenated::new(remove, slice), Concatenated::new(add, slice));
        let report = backend.update_weights(WeightUpdate {
            w: slice_mut(kind, weight, slice)?,
            remove: if remove.is_empty() { None } else { Some(removed.factors()?) },
            add: if add.is_empty() { None } else { Some(added.factors()?) },
            rounding: reseed(options.rounding, slice as u64),
            record: None,
            report: options.report,
        })?;
        total = recorded::together(total, report);
    }
    Ok(total)
}

/// W − s·B·A.
///
/// # Errors
/// The factors do not fit.
pub(crate) fn without_start(
    backend: &HostBackend<'_>,
    weight: &Tensor,
    site: &Site,
    start: &AdapterLayer,
) -> Result<Tensor> {
    let mut residual = weight.clone();
    let term = Term { weight: -1.0, ..Term::new(site, start) };
    update(backend, &mut residual, &[], &[term], UpdateOptions::default())?;
    Ok(residual)
}

/// bias ← bias + sign·Σ s·w·b, rounded once.
pub(crate) fn update_bias(bias: &mut Tensor, terms: &[Term<'_>], sign: f64) {
    if terms.iter().all(|term| term.layer.bias.is_none()) {
        return;
    }
    let mut exact: Vec<f64> = bias.to_f32().into_iter().map(f64::from).collect();
    for term in terms {
        let factor = sign * term.factor();
        let Some(added) = &term.layer.bias else { continue };
        exact.iter_mut().zip(added.to_f32()).for_each(|(sum, value)| *sum += factor * f64::from(value));
    }
    round_into(bias, &exact);
}

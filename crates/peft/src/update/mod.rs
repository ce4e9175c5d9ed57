//! What adapters do to one weight in memory.

mod dora;
mod recorded;
mod rounding;
mod stacked;

pub(crate) use dora::{direction_norms, magnitude_factors, update_dora};
pub(crate) use recorded::{merge_recorded, unmerge_recorded};
pub(crate) use rounding::{joined, name_stream, reseed, round_block, round_into};
pub(crate) use stacked::Stacked;

use crate::adapter::AdapterLayer;
use crate::binding::Site;
use crate::checkpoint::LayerKind;
use crate::tensor::{Tensor, each_type};
use crate::{Error, Result};
use lora_kernels::memory::{Host, HostMut};
use lora_kernels::{Backend, Layout, MatrixMut, MergeReport, Rounding, WeightUpdate};

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
fn one_kind<'p>(parts: impl IntoIterator<Item = &'p Part<'p>>) -> Result<Option<LayerKind>> {
    let mut found = None;
    for part in parts {
        let kind = *found.get_or_insert(part.site.kind);
        if part.site.kind != kind {
            return Err(Error::module(
                &part.site.layer,
                format!("adapters take its weight for {kind:?} and for {:?}", part.site.kind),
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
    backend: &mut HostBackend<'_>,
    weight: &mut Tensor,
    remove: &[Part<'_>],
    add: &[Part<'_>],
    options: UpdateOptions,
) -> Result<Option<MergeReport>> {
    let Some(kind) = one_kind(add.iter().chain(remove))? else { return Ok(None) };
    let mut total: Option<MergeReport> = None;
    for slice in 0..slices(kind, weight).0 {
        let (removed, added) = (Stacked::new(remove, slice), Stacked::new(add, slice));
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
    round_into(bias, &exact);
}

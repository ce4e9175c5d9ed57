//! One tensor without some adapters and with others: what merging, unmerging and switching do to it, in files and in
//! memory.

use super::changes::{Bound, Change, LayerIndex};
use super::undo::Undo;
use crate::adapter::TOKEN_ROWS;
use crate::checkpoint::checksum;
use crate::making::cut_off;
use crate::tensor::Tensor;
use crate::update::{
    HostBackend, Term, UpdateOptions, merge_recorded, update, update_bias, update_dora, without_start,
};
use crate::{Error, Result};
use lora_kernels::MergeReport;
use lora_kernels::restore::RestoreMethod;

/// What happens to one tensor.
pub(crate) struct Exchange<'b> {
    name: &'b str,
    removed: Vec<Term<'b>>,
    /// Adapters whose bias is taken out of the tensor, a bias.
    removed_bias: Vec<Term<'b>>,
    replacement: Option<Replacement<'b>>,
    rows: Option<Rows<'b>>,
    added: Vec<Term<'b>>,
    added_bias: Vec<Term<'b>>,
}

/// The tensor that takes another's place.
struct Replacement<'b> {
    tensor: &'b Tensor,
    adapter: &'b str,
    weight: f64,
}

/// Rows that take the place of some of a tensor's.
struct Rows<'b> {
    indices: &'b [usize],
    replacement: Replacement<'b>,
}

/// What is kept of a tensor, to take the added adapters out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    /// What the tensor was, where subtracting could not give it back even roughly.
    WhatIsNeeded,
    /// What gives it back to the last bit.
    Everything(RestoreMethod),
}

/// What was done to a tensor.
#[derive(Debug, Default)]
pub(crate) struct Exchanged {
    /// What rounding lost, if that was asked for; nothing is measured where a record or a copy gave the tensor back.
    pub report: Option<MergeReport>,
    /// What takes the added adapters out again. Without it they are subtracted.
    pub undo: Option<Undo>,
}

impl<'b> Exchange<'b> {
    pub fn new(name: &'b str, change: &Change, remove: &'b [Bound<'_>], add: &'b [Bound<'_>]) -> Self {
        let terms = |bounds: &'b [Bound<'_>], indices: &[LayerIndex]| -> Vec<Term<'b>> {
            indices.iter().map(|index| index.term(bounds)).collect()
        };
        let replacement = |(adapter, key): &(usize, String)| {
            let bound = &add[*adapter];
            let tensor = &bound.adapter.replaced[key];
            Replacement { tensor, adapter: &bound.weighted.name, weight: bound.weighted.weight }
        };
        let rows = change.rows.as_ref().and_then(|rows| {
            let module = rows.1.strip_suffix(TOKEN_ROWS)?;
            let indices = add[rows.0].adapter.config.tokens_of(module)?;
            Some(Rows { indices, replacement: replacement(rows) })
        });
        Exchange {
            name,
            removed: terms(remove, &change.remove),
            removed_bias: terms(remove, &change.remove_bias),
            replacement: change.replaced.as_ref().map(replacement),
            rows,
            added: terms(add, &change.add),
            added_bias: terms(add, &change.add_bias),
        }
    }

    /// The tensor that replaces this one.
    pub fn replacement(&self) -> Option<&'b Tensor> {
        self.replacement.as_ref().map(|replacement| replacement.tensor)
    }

    /// Whether no adapter is put in.
    pub fn adds_nothing(&self) -> bool {
        self.replacement.is_none()
            && self.rows.is_none()
            && self.added.is_empty()
            && self.added_bias.is_empty()
    }

    /// Changes the tensor, for which `undo` is what the merge of the removed adapters kept.
    ///
    /// # Errors
    /// The factors do not fit, `undo` is of others, a part of an adapter is asked for that cannot be had, or there is no
    /// memory.
    pub fn run(
        &self,
        backend: &HostBackend<'_>,
        tensor: &mut Tensor,
        undo: Option<Undo>,
        keep: Keep,
        options: UpdateOptions,
    ) -> Result<Exchanged> {
        let is_one_sum = undo.is_none() && !self.removed.is_empty() && self.adds_plain_terms_only();
        if is_one_sum && !matches!(keep, Keep::Everything(_)) {
            let report = update(backend, tensor, &self.removed, &self.added, options)?;
            return Ok(Exchanged { report, undo: None });
        }
        self.take_out(backend, tensor, undo, options)?;
        self.put_in(backend, tensor, keep, options)
    }

    /// Takes the removed adapters out. With what the merge kept, the tensor is then what it was before, or there is an error.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn take_out(
        &self,
        backend: &HostBackend<'_>,
        tensor: &mut Tensor,
        undo: Option<Undo>,
        options: UpdateOptions,
    ) -> Result<()> {
        match undo {
            Some(undo) => undo.apply(backend, self.name, tensor, &self.removed),
            None => {
                update(backend, tensor, &self.removed, &[], options)?;
                update_bias(tensor, &self.removed_bias, -1.0);
                Ok(())
            }
        }
    }

    /// Puts the added adapters into a tensor that holds nothing of the removed ones any more.
    fn put_in(
        &self,
        backend: &HostBackend<'_>,
        tensor: &mut Tensor,
        keep: Keep,
        options: UpdateOptions,
    ) -> Result<Exchanged> {
        if self.adds_nothing() {
            return Ok(Exchanged::default());
        }
        let can_subtract = self.adds_plain_terms_only() && !self.added.is_empty();
        if let (Keep::Everything(method), true) = (keep, can_subtract) {
            let original = checksum::of(tensor);
            let (report, records) = merge_recorded(backend, tensor, &self.added, options, method)?;
            return Ok(Exchanged { report, undo: Some(Undo::Records { records, original, file: None }) });
        }
        let undo = match keep {
            Keep::Nothing => None,
            Keep::WhatIsNeeded if can_subtract => None,
            Keep::WhatIsNeeded | Keep::Everything(_) => {
                Some(Undo::Original(tensor.copy(|| format!("what `{}` was before the merge", self.name))?))
            }
        };
        self.replace(tensor)?;
        self.replace_rows(tensor)?;
        update_bias(tensor, &self.added_bias, 1.0);
        let report = match self.added.as_slice() {
            [] => None,
            [term] if !term.is_plain() => put_in_alone(backend, tensor, *term, options)?,
            terms => update(backend, tensor, &[], terms, options)?,
        };
        Ok(Exchanged { report, undo })
    }

    /// Whether nothing but terms s·w·B·A is put in.
    fn adds_plain_terms_only(&self) -> bool {
        let replaces = self.replacement.is_some() || self.rows.is_some();
        !replaces && self.added_bias.is_empty() && self.added.iter().all(Term::is_plain)
    }

    fn replace(&self, tensor: &mut Tensor) -> Result<()> {
        let Some(Replacement { tensor: new, adapter, weight }) = &self.replacement else { return Ok(()) };
        let new = new.cast(tensor.dtype());
        // PEFT saves adapted embeddings along, usually as they are in the base.
        if *weight != 1.0 && new != *tensor {
            return Err(part_of_replacement(self.name, adapter));
        }
        *tensor = new;
        Ok(())
    }

    fn replace_rows(&self, tensor: &mut Tensor) -> Result<()> {
        let Some(Rows { indices, replacement }) = &self.rows else { return Ok(()) };
        let new = replacement.tensor.cast(tensor.dtype());
        let width = new.bytes().len() / indices.len().max(1);
        let fits = tensor.shape().get(1) == new.shape().get(1);
        if !fits || indices.iter().any(|index| *index >= tensor.shape()[0]) {
            return Err(Error::tensor(
                self.name,
                format!("the rows of `{}` do not fit it", replacement.adapter),
            ));
        }
        for (index, row) in indices.iter().zip(new.bytes().chunks(width.max(1))) {
            let old = &mut tensor.bytes_mut()[index * width..(index + 1) * width];
            if replacement.weight != 1.0 && old != row {
                return Err(part_of_replacement(self.name, replacement.adapter));
            }
            old.copy_from_slice(row);
        }
        Ok(())
    }
}

/// Puts in an adapter with DoRA's magnitudes, or one that started by PiSSA or OLoRA and is to leave that start in the
/// weight.
fn put_in_alone(
    backend: &HostBackend<'_>,
    tensor: &mut Tensor,
    term: Term<'_>,
    options: UpdateOptions,
) -> Result<Option<MergeReport>> {
    let start = term.start.map(|init| cut_off(init, term.site, tensor)).transpose()?;
    match (start, &term.layer.magnitude) {
        (None, _) => update_dora(backend, tensor, term, options),
        (Some(start), Some(_)) => {
            // Magnitudes are of what PEFT has in the base, which is rounded.
            *tensor = without_start(backend, tensor, term.site, &start)?;
            update_dora(backend, tensor, term, options)
        }
        (Some(start), None) => {
            let start = Term { layer: &start, weight: -term.weight, ..term };
            update(backend, tensor, &[], &[term, start], options)
        }
    }
}

/// An adapter replaces a tensor, but has a weight.
pub(super) fn part_of_replacement(tensor: &str, adapter: &str) -> Error {
    Error::tensor(tensor, format!("`{adapter}` replaces it, which cannot be done by a part of it"))
}

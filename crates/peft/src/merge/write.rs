//! Computing and writing the new tensors.

use super::changes::{Bound, Change, LayerIndex};
use super::exchange::{Exchange, Exchanged, Keep};
use super::record_writer::{Description, RecordWriter};
use super::records::Records;
use super::rewrite::NewTensor;
use super::undo::Undo;
use super::{ChangedWeight, Edit, RequantizedWeight, Summary};
use crate::checkpoint::{Outline, checksum};
use crate::files::NewDirectory;
use crate::progress::Progress;
use crate::tensor::{Tensor, file_type, float_type};
use crate::update::{HostBackend, UpdateOptions, name_stream, reseed};
use crate::{Error, Result};
use lora_kernels::restore::RestoreMethod;
use lora_kernels::{DType, MergeReport};
use std::collections::BTreeMap;
use std::path::Path;

/// A new tensor, with what is needed to make taking it back exact.
struct Computed {
    tensor: Tensor,
    kept: Option<Kept>,
}

/// What a record says of a tensor.
enum Kept {
    Undo(Undo),
    /// It is the base's; its checksum.
    Unchanged(u64),
}

impl<'a> Edit<'a> {
    /// Writes the new checkpoint into a directory that does not exist yet. It appears there complete or not at all.
    ///
    /// # Errors
    /// A file cannot be read or written, one of the checkpoint's was changed or replaced since it was opened, a record is
    /// damaged or does not fit, there is no memory for a tensor, the backend failed, or `progress` was cancelled.
    pub fn write(&self, backend: &HostBackend<'_>, out: &Path, progress: &Progress) -> Result<Summary> {
        let directory = NewDirectory::create(out)?;
        let summary = self.write_into(backend, &directory, progress)?;
        directory.commit()?;
        Ok(summary)
    }

    /// Writes the new checkpoint into a directory that the caller puts in place afterwards.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_into(
        &self,
        backend: &HostBackend<'_>,
        directory: &NewDirectory,
        progress: &Progress,
    ) -> Result<Summary> {
        let summary = self.fill(directory, backend, progress).map_err(|error| directory.explain(error))?;
        self.checkpoint.check_unchanged()?;
        Ok(summary)
    }

    fn fill(
        &self,
        directory: &NewDirectory,
        backend: &HostBackend<'_>,
        progress: &Progress,
    ) -> Result<Summary> {
        let mut writer = match self.keeps_records() {
            Some(method) => Some((method, RecordWriter::create(directory.path())?)),
            None => None,
        };
        let mut summary = Summary { notes: self.notes(), ..Summary::default() };
        let mut rewrite = self.rewrite();
        rewrite.checksums = writer.is_some() || self.records.is_some();
        summary.bytes = rewrite.bytes();
        summary.new_tensors = self.new_tensors.iter().map(|outline| outline.name.clone()).collect();
        let mut unchanged = BTreeMap::new();
        let mut scales: BTreeMap<String, Tensor> = BTreeMap::new();
        let written = rewrite.run(directory, progress, &mut |outline| {
            if let Some(scale) = scales.remove(&outline.name) {
                return Ok(NewTensor::Numbers(scale));
            }
            if let (Some(weight), true) =
                (self.checkpoint.quantized_weight(&outline.name), self.options.requantize)
            {
                let plain = Outline { dtype: file_type(weight.dtype), ..outline.clone() };
                let merged = self.compute(backend, &plain, &mut summary)?.tensor;
                let new = weight.requantize(&merged)?;
                scales.insert(weight.parts[1].0.clone(), new.scale);
                summary.requantized.push(RequantizedWeight {
                    weight: outline.name.clone(),
                    max_error: new.max_error,
                    rms_error: new.rms_error,
                    rms: new.rms,
                });
                return Ok(NewTensor::Codes(outline.dtype, outline.shape.clone(), new.codes));
            }
            let computed = self.compute(backend, outline, &mut summary)?;
            match (&mut writer, computed.kept) {
                (Some((_, writer)), Some(Kept::Undo(undo))) => {
                    writer.add(&outline.name, &undo, &computed.tensor)?;
                }
                (_, Some(Kept::Unchanged(sum))) => {
                    unchanged.insert(outline.name.clone(), sum);
                }
                _ => {}
            }
            Ok(NewTensor::Numbers(computed.tensor))
        })?;
        if let Some(records) = &self.records {
            written.copied.iter().try_for_each(|(name, sum)| records.check_unchanged(name, *sum))?;
        }
        unchanged.extend(written.copied);
        summary.not_copied = written.not_copied;
        if let Some((method, writer)) = writer {
            let adapters: Vec<_> =
                self.add.iter().map(|bound| (bound.weighted.name.clone(), bound.weighted.weight)).collect();
            let original = self.records.as_ref().and_then(Records::model_config);
            let changed = self.model_config.as_ref().map(|_| self.checkpoint.model_config());
            writer.finish(&Description {
                method,
                adapters: &adapters,
                unchanged: &unchanged,
                added: &summary.new_tensors,
                model_config: original.or(changed),
            })?;
        }
        Ok(summary)
    }

    /// How the new checkpoint keeps what it was, if it does.
    fn keeps_records(&self) -> Option<RestoreMethod> {
        self.options.restore.filter(|_| !self.add.is_empty())
    }

    fn compute(
        &self,
        backend: &HostBackend<'_>,
        outline: &Outline,
        summary: &mut Summary,
    ) -> Result<Computed> {
        let name = &outline.name;
        let wanted = float_type(outline.dtype)
            .ok_or_else(|| Error::tensor(name, format!("holds {} and cannot be changed", outline.dtype)))?;
        let Some(change) = self.changes.get(name) else {
            return Ok(Computed { tensor: self.checkpoint.tensor(name)?.cast(wanted), kept: None });
        };
        let exchange = self.exchange(name, change);
        let mut tensor = self.old(backend, name, change, &exchange)?;
        if tensor.dtype() != wanted {
            // The sum is rounded once, to the new type.
            tensor = tensor.cast(DType::F32);
        }
        let undo = self.undo_of(name, &tensor)?;
        let keep = match self.keeps_records() {
            Some(method) if self.is_in_file(name) => Keep::Everything(method),
            _ => Keep::Nothing,
        };
        let options = self.update_options(name);
        let Exchanged { report, undo } = exchange.run(backend, &mut tensor, undo, keep, options)?;
        let kept = match (undo, keep) {
            (Some(undo), _) => Some(Kept::Undo(undo)),
            (None, Keep::Everything(_)) => Some(Kept::Unchanged(checksum::of(&tensor))),
            (None, _) => None,
        };
        if tensor.dtype() != wanted {
            tensor = tensor.cast(wanted);
        }
        if !tensor.is_finite() {
            return Err(Error::tensor(name, "becomes NaN or infinite"));
        }
        self.summarize(name, change, report, summary);
        Ok(Computed { tensor, kept })
    }

    /// What a tensor that changes is now; a new one is what it starts as.
    fn old(
        &self,
        backend: &HostBackend<'_>,
        name: &str,
        change: &Change,
        exchange: &Exchange<'_>,
    ) -> Result<Tensor> {
        if self.is_in_file(name) {
            return self.checkpoint.tensor(name);
        }
        match (&change.untied_from, exchange.replacement()) {
            (Some(source), _) => self.without_removed(backend, source),
            (None, Some(new)) => Ok(new.clone()),
            (None, None) => Err(Error::tensor(name, "not in the checkpoint")),
        }
    }

    /// What a tensor of the file is without the removed adapters.
    fn without_removed(&self, backend: &HostBackend<'_>, name: &str) -> Result<Tensor> {
        let mut tensor = self.checkpoint.tensor(name)?;
        let undo = self.undo_of(name, &tensor)?;
        if let Some(change) = self.changes.get(name) {
            let options = self.update_options(name);
            self.exchange(name, change).take_out(backend, &mut tensor, undo, options)?;
        }
        Ok(tensor)
    }

    fn exchange<'b>(&'b self, name: &'b str, change: &Change) -> Exchange<'b> {
        Exchange::new(name, change, &self.remove, &self.add)
    }

    /// Whether the checkpoint has a tensor that belongs to the new one too.
    fn is_in_file(&self, name: &str) -> bool {
        self.checkpoint.tensors().contains_key(name) && !self.dropped.contains(name)
    }

    /// What the merge kept of a tensor of the file, if it kept something; the tensor must be what the merge left, to the
    /// last bit.
    fn undo_of(&self, name: &str, tensor: &Tensor) -> Result<Option<Undo>> {
        match &self.records {
            Some(records) => records.read(name, tensor),
            None => Ok(None),
        }
    }

    fn update_options(&self, name: &str) -> UpdateOptions {
        UpdateOptions {
            rounding: reseed(self.options.rounding, name_stream(name)),
            report: self.options.report,
        }
    }

    fn summarize(&self, name: &str, change: &Change, report: Option<MergeReport>, summary: &mut Summary) {
        let replaced = change.replaced.is_some() || change.rows.is_some();
        if replaced || !change.add_bias.is_empty() || !change.remove_bias.is_empty() {
            summary.replaced.push(name.to_owned());
        }
        let names = |bounds: &[Bound<'_>], layers: &[LayerIndex]| -> Vec<String> {
            layers.iter().map(|index| bounds[index.adapter].weighted.name.clone()).collect()
        };
        let added = change.add.first().map(|index| index.term(&self.add));
        let term = added.or(change.remove.first().map(|index| index.term(&self.remove)));
        if let Some(term) = term {
            summary.weights.push(ChangedWeight {
                weight: name.to_owned(),
                kind: term.site.kind,
                removed: names(&self.remove, &change.remove),
                added: names(&self.add, &change.add),
                report,
            });
        }
    }
}

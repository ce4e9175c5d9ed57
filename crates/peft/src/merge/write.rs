//! Computing and writing the new tensors.

use super::record::{Description, RecordWriter, Records, TensorRecord};
use super::{Bound, Change, ChangedWeight, Edit, Place, Summary, is_plain, layer, part_of_replacement};
use crate::checkpoint::{Outline, checksum};
use crate::files::NewDirectory;
use crate::making::cut_off;
use crate::progress::Progress;
use crate::tensor::{Tensor, float_type};
use crate::update::{
    HostBackend, Part, UpdateOptions, merge_recorded, name_stream, reseed, unmerge_recorded, update,
    update_bias, update_dora,
};
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
    Record(TensorRecord),
    /// It is the base's; its checksum.
    Unchanged(u64),
}

impl<'a> Edit<'a> {
    /// Writes the new checkpoint into a directory that does not exist yet. It appears there complete or not at all.
    ///
    /// # Errors
    /// A file cannot be read or written, one of the checkpoint's was changed or replaced since it was opened, a record is
    /// damaged or does not fit, there is no memory for a tensor, the backend failed, or `progress` was cancelled.
    pub fn write(&self, backend: &mut HostBackend<'_>, out: &Path, progress: &Progress) -> Result<Summary> {
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
        backend: &mut HostBackend<'_>,
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
        backend: &mut HostBackend<'_>,
        progress: &Progress,
    ) -> Result<Summary> {
        let mut writer = match self.keeps_records() {
            Some(method) => Some((method, RecordWriter::create(directory.path())?)),
            None => None,
        };
        let mut summary = Summary::default();
        let mut rewrite = self.rewrite();
        rewrite.checksums = writer.is_some() || self.records.is_some();
        summary.bytes = rewrite.bytes();
        summary.new_tensors = self.new_tensors.iter().map(|outline| outline.name.clone()).collect();
        let mut unchanged = BTreeMap::new();
        let written = rewrite.run(directory, progress, &mut |outline| {
            let computed = self.compute(backend, outline, &mut summary)?;
            match (&mut writer, computed.kept) {
                (Some((_, writer)), Some(Kept::Record(record))) => {
                    writer.add(&outline.name, &record, &computed.tensor)?;
                }
                (_, Some(Kept::Unchanged(sum))) => {
                    unchanged.insert(outline.name.clone(), sum);
                }
                _ => {}
            }
            Ok(computed.tensor)
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
        backend: &mut HostBackend<'_>,
        outline: &Outline,
        summary: &mut Summary,
    ) -> Result<Computed> {
        let name = &outline.name;
        let wanted = float_type(outline.dtype)
            .ok_or_else(|| Error::tensor(name, format!("holds {} and cannot be changed", outline.dtype)))?;
        let Some(change) = self.changes.get(name) else {
            return Ok(Computed { tensor: self.checkpoint.tensor(name)?.cast(wanted), kept: None });
        };
        let mut tensor = if self.is_in_file(name) {
            self.checkpoint.tensor(name)?
        } else {
            match (&change.untied_from, &change.replaced) {
                (Some(source), _) => self.before_additions(backend, source)?,
                (None, Some((adapter, key))) => self.add[*adapter].adapter.replaced[key].clone(),
                (None, None) => return Err(Error::tensor(name, "not in the checkpoint")),
            }
        };
        if tensor.dtype() != wanted {
            // The sum is rounded once, to the new type.
            tensor = tensor.cast(DType::F32);
        }
        let remove = self.parts(&self.remove, &change.remove);
        let plain =
            change.replaced.is_none() && change.add.iter().all(|&(a, index)| is_plain(&self.add[a], index));
        let options = self.update_options(name);
        let record = self.record_of(name, &tensor)?;
        let (report, kept) = if record.is_none() && !remove.is_empty() && plain {
            let add = self.parts(&self.add, &change.add);
            (update(backend, &mut tensor, &remove, &add, options)?, None)
        } else {
            self.take_out(backend, name, record, change, &mut tensor)?;
            self.add_to(backend, name, change, &mut tensor)?
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

    /// Whether the checkpoint has a tensor that belongs to the new one too.
    fn is_in_file(&self, name: &str) -> bool {
        self.checkpoint.tensors().contains_key(name) && !self.dropped.contains(name)
    }

    /// The record of a tensor of the file, if there is one; the tensor must be what the merge left, to the last bit.
    fn record_of(&self, name: &str, tensor: &Tensor) -> Result<Option<TensorRecord>> {
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

    /// What a tensor of the file is without the removed adapters.
    fn before_additions(&self, backend: &mut HostBackend<'_>, name: &str) -> Result<Tensor> {
        let mut tensor = self.checkpoint.tensor(name)?;
        let record = self.record_of(name, &tensor)?;
        if let Some(change) = self.changes.get(name) {
            self.take_out(backend, name, record, change, &mut tensor)?;
        }
        Ok(tensor)
    }

    /// Takes the removed adapters out of a tensor. With its record, the tensor is then what it was before the merge, or
    /// there is an error.
    fn take_out(
        &self,
        backend: &mut HostBackend<'_>,
        name: &str,
        record: Option<TensorRecord>,
        change: &Change,
        tensor: &mut Tensor,
    ) -> Result<()> {
        let remove = self.parts(&self.remove, &change.remove);
        match record {
            Some(TensorRecord::Original(original)) => *tensor = original,
            Some(TensorRecord::Codes(records, _)) => unmerge_recorded(backend, tensor, &remove, records)?,
            None => {
                update(backend, tensor, &remove, &[], self.update_options(name))?;
                update_bias(tensor, &self.parts(&self.remove, &change.remove_bias), -1.0);
            }
        }
        match &self.records {
            Some(records) => records.check_restored(name, tensor),
            None => Ok(()),
        }
    }

    /// Puts the added adapters into a tensor that holds nothing of the removed ones any more.
    fn add_to(
        &self,
        backend: &mut HostBackend<'_>,
        name: &str,
        change: &Change,
        tensor: &mut Tensor,
    ) -> Result<(Option<MergeReport>, Option<Kept>)> {
        let options = self.update_options(name);
        let method = self.keeps_records().filter(|_| self.is_in_file(name));
        if change.add.is_empty() && change.add_bias.is_empty() && change.replaced.is_none() {
            return Ok((None, method.map(|_| Kept::Unchanged(checksum::of(tensor)))));
        }
        let bound = change.add.first().map(|&(adapter, index)| (&self.add[adapter], index));
        let plain = bound.is_none_or(|(bound, index)| is_plain(bound, index));
        let parts = self.parts(&self.add, &change.add);
        if let (Some(method), true, true) = (method, plain, change.replaced.is_none() && !parts.is_empty()) {
            let original = checksum::of(tensor);
            let (report, records) = merge_recorded(backend, tensor, &parts, options, method)?;
            return Ok((report, Some(Kept::Record(TensorRecord::Codes(records, original)))));
        }
        let kept = match method {
            Some(_) => {
                let original = tensor.copy(|| format!("what `{name}` was before the merge"))?;
                Some(Kept::Record(TensorRecord::Original(original)))
            }
            None => None,
        };
        if let Some((adapter, key)) = &change.replaced {
            let weighted = &self.add[*adapter].weighted;
            let new = self.add[*adapter].adapter.replaced[key].cast(tensor.dtype());
            // PEFT saves adapted embeddings along, usually as they are in the base.
            if weighted.weight != 1.0 && new != *tensor {
                return Err(part_of_replacement(name, &weighted.name));
            }
            *tensor = new;
        }
        update_bias(tensor, &self.parts(&self.add, &change.add_bias), 1.0);
        let (Some(part), Some((bound, _))) = (parts.first(), bound) else {
            return Ok((None, kept));
        };
        let report = if part.layer.magnitude.is_some() {
            update_dora(backend, tensor, *part, options)?
        } else if plain {
            update(backend, tensor, &[], &parts, options)?
        } else {
            let init = cut_off(&bound.adapter.config.init, part.site, tensor)?;
            let initial = Part { layer: &init, weight: -part.weight, ..*part };
            update(backend, tensor, &[], &[*part, initial], options)?
        };
        Ok((report, kept))
    }

    fn parts<'b>(&self, bounds: &'b [Bound<'a>], places: &[Place]) -> Vec<Part<'b>> {
        let part = |&(adapter, index): &Place| {
            let bound = &bounds[adapter];
            Part {
                site: &bound.binding.sites[index],
                layer: layer(bound, index),
                weight: bound.weighted.weight,
            }
        };
        places.iter().map(part).collect()
    }

    fn summarize(&self, name: &str, change: &Change, report: Option<MergeReport>, summary: &mut Summary) {
        if change.replaced.is_some() || !change.add_bias.is_empty() || !change.remove_bias.is_empty() {
            summary.replaced.push(name.to_owned());
        }
        let names = |bounds: &[Bound<'_>], places: &[Place]| -> Vec<String> {
            places.iter().map(|&(adapter, _)| bounds[adapter].weighted.name.clone()).collect()
        };
        let site = change
            .add
            .first()
            .map(|&(a, i)| &self.add[a].binding.sites[i])
            .or(change.remove.first().map(|&(a, i)| &self.remove[a].binding.sites[i]));
        if let Some(site) = site {
            summary.weights.push(ChangedWeight {
                weight: name.to_owned(),
                kind: site.kind,
                removed: names(&self.remove, &change.remove),
                added: names(&self.add, &change.add),
                report,
            });
        }
    }
}

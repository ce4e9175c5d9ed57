//! Computing and writing the new tensors.

use super::{Bound, Change, ChangedWeight, Edit, Place, Summary, is_plain, layer, part_of_replacement};
use crate::init::cut_off;
use crate::new_directory::NewDirectory;
use crate::progress::Progress;
use crate::record::{RecordWriter, Records, TensorRecord};
use crate::tensor::{Tensor, float_type};
use crate::update::{
    HostBackend, Part, UpdateOptions, empty_records, name_stream, reseed, update, update_bias, update_dora,
};
use crate::writer::Outline;
use crate::{Error, Result};
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{DType, MergeReport};
use std::path::Path;

impl<'a> Edit<'a> {
    /// Writes the new checkpoint into a directory that does not exist yet. It appears there complete or not at all.
    ///
    /// # Errors
    /// A file cannot be read or written, a record does not fit, the backend failed, or `progress` was cancelled.
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
        self.fill(directory, backend, progress).map_err(|error| directory.explain(error))
    }

    fn fill(
        &self,
        directory: &NewDirectory,
        backend: &mut HostBackend<'_>,
        progress: &Progress,
    ) -> Result<Summary> {
        let keeps_records = self.options.restore.filter(|_| !self.add.is_empty());
        let mut writer = match keeps_records {
            Some(_) => Some(RecordWriter::create(directory.path())?),
            None => None,
        };
        let mut summary = Summary::default();
        let rewrite = self.rewrite();
        summary.bytes = rewrite.bytes();
        summary.new_tensors = self.new_tensors.iter().map(|outline| outline.name.clone()).collect();
        summary.not_copied = rewrite.run(directory, progress, &mut |outline| {
            let (tensor, record) = self.compute(backend, outline, &mut summary)?;
            if let (Some(writer), Some(record)) = (&mut writer, record) {
                writer.add(&outline.name, &record, &tensor)?;
            }
            Ok(tensor)
        })?;
        if let Some(writer) = writer {
            let adapters: Vec<_> =
                self.add.iter().map(|bound| (bound.weighted.name.clone(), bound.weighted.weight)).collect();
            let original = self.records.as_ref().and_then(Records::model_config);
            let changed = self.model_config.as_ref().map(|_| self.checkpoint.model_config());
            let config = original.or(changed);
            writer.finish(&adapters, &summary.new_tensors, config)?;
        }
        Ok(summary)
    }

    /// The new value of a tensor, and the record of the change if one is wanted.
    fn compute(
        &self,
        backend: &mut HostBackend<'_>,
        outline: &Outline,
        summary: &mut Summary,
    ) -> Result<(Tensor, Option<TensorRecord>)> {
        let name = &outline.name;
        let wanted = float_type(outline.dtype)
            .ok_or_else(|| Error::tensor(name, format!("holds {} and cannot be changed", outline.dtype)))?;
        let Some(change) = self.changes.get(name) else {
            return Ok((self.checkpoint.tensor(name)?.cast(wanted), None));
        };
        let in_file = self.checkpoint.tensors().contains_key(name) && !self.dropped.contains(name);
        let mut tensor = if in_file {
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
        let add = self.parts(&self.add, &change.add);
        let plain =
            change.replaced.is_none() && change.add.iter().all(|&(a, index)| is_plain(&self.add[a], index));
        let mut record = None;
        let mut report = None;

        let options = self.update_options(name);
        let mut pending = true;
        match self.kept(name, &tensor)? {
            Some(TensorRecord::Codes(mut records)) if plain && !add.is_empty() => {
                report = update(backend, &mut tensor, &remove, &add, options, Some(&mut records))?;
                record = Some(TensorRecord::Codes(records));
                pending = false;
            }
            None if !remove.is_empty() && plain => {
                report = update(backend, &mut tensor, &remove, &add, options, None)?;
                pending = false;
            }
            kept => self.take_out(backend, kept, change, &mut tensor, options)?,
        }
        if pending {
            let before = self.options.restore.map(|_| tensor.clone());
            let (changed, codes) = self.add_to(backend, name, change, &mut tensor, options)?;
            report = changed;
            record = match (codes, before) {
                (Some(codes), _) => Some(TensorRecord::Codes(codes)),
                (None, Some(original)) if in_file => Some(TensorRecord::Original(original)),
                _ => None,
            };
        }
        if tensor.dtype() != wanted {
            tensor = tensor.cast(wanted);
        }
        if !tensor.is_finite() {
            return Err(Error::tensor(name, "becomes NaN or infinite"));
        }
        self.summarize(name, change, report, summary);
        Ok((tensor, record))
    }

    /// The record of a tensor, if there is one; the tensor must be what the merge made of it, to the last bit.
    fn kept(&self, name: &str, tensor: &Tensor) -> Result<Option<TensorRecord>> {
        match &self.records {
            Some(records) if records.contains(name) => records.read(name, tensor).map(Some),
            _ => Ok(None),
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
        if let Some(change) = self.changes.get(name) {
            let kept = self.kept(name, &tensor)?;
            self.take_out(backend, kept, change, &mut tensor, self.update_options(name))?;
        }
        Ok(tensor)
    }

    /// Takes the removed adapters out of a tensor, with its record if there is one.
    fn take_out(
        &self,
        backend: &mut HostBackend<'_>,
        kept: Option<TensorRecord>,
        change: &Change,
        tensor: &mut Tensor,
        options: UpdateOptions,
    ) -> Result<()> {
        let remove = self.parts(&self.remove, &change.remove);
        match kept {
            Some(TensorRecord::Original(original)) => *tensor = original,
            Some(TensorRecord::Codes(mut records)) => {
                update(backend, tensor, &remove, &[], options, Some(&mut records))?;
            }
            None => {
                update(backend, tensor, &remove, &[], options, None)?;
                update_bias(tensor, &self.parts(&self.remove, &change.remove_bias), -1.0);
            }
        }
        Ok(())
    }

    /// Puts the added adapters into a tensor that holds nothing of the removed ones any more.
    fn add_to(
        &self,
        backend: &mut HostBackend<'_>,
        name: &str,
        change: &Change,
        tensor: &mut Tensor,
        options: UpdateOptions,
    ) -> Result<(Option<MergeReport>, Option<Vec<RestoreRecord>>)> {
        let mut replaced = false;
        if let Some((adapter, key)) = &change.replaced {
            let weighted = &self.add[*adapter].weighted;
            let new = self.add[*adapter].adapter.replaced[key].cast(tensor.dtype());
            // PEFT saves adapted embeddings along, usually as they are in the base.
            replaced = new != *tensor;
            if replaced && weighted.weight != 1.0 {
                return Err(part_of_replacement(name, &weighted.name));
            }
            *tensor = new;
        }
        update_bias(tensor, &self.parts(&self.add, &change.add_bias), 1.0);
        let parts = self.parts(&self.add, &change.add);
        let (Some(part), Some(&(adapter, index))) = (parts.first(), change.add.first()) else {
            return Ok((None, None));
        };
        if part.layer.magnitude.is_some() {
            return Ok((update_dora(backend, tensor, *part, options)?, None));
        }
        let bound = &self.add[adapter];
        if !is_plain(bound, index) {
            let init = cut_off(&bound.adapter.config.init, part.site, tensor)?;
            let kept = Part { layer: &init, weight: -part.weight, ..*part };
            return Ok((update(backend, tensor, &[], &[*part, kept], options, None)?, None));
        }
        let in_file = self.checkpoint.tensors().contains_key(name) && !self.dropped.contains(name);
        match self.options.restore {
            Some(method) if in_file && !replaced => {
                let mut records = empty_records(part.site.kind, tensor, method);
                let report = update(backend, tensor, &[], &parts, options, Some(&mut records))?;
                Ok((report, Some(records)))
            }
            _ => Ok((update(backend, tensor, &[], &parts, options, None)?, None)),
        }
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

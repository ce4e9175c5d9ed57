//! Merging adapters into checkpoints, taking them out, and exchanging them: from one directory into a new one.

use crate::Result;
use crate::adapter::Adapter;
use crate::binding::{Binding, bind};
use crate::checkpoint::Checkpoint;
use crate::config::Init;
use crate::error::Error;
use crate::init::cut_off;
use crate::module::LayerKind;
use crate::progress::Progress;
use crate::record::{RecordWriter, Records, TensorRecord, content_fingerprint};
use crate::rewrite::{Changes, Rewrite};
use crate::tensor::{Tensor, file_type, float_type};
use crate::update::{
    HostBackend, Part, UpdateOptions, empty_records, joined, name_stream, reseed, update, update_bias,
    update_dora,
};
use crate::writer::{NewDirectory, Outline};
use lora_kernels::restore::RestoreMethod;
use lora_kernels::{DType, MergeReport, Rounding};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// An adapter, what to call it, and a factor on it.
#[derive(Clone, Debug)]
pub struct Weighted<'a> {
    /// For reports and records.
    pub name: String,
    /// The adapter.
    pub adapter: &'a Adapter,
    /// The factor on its s·B·A and on its `lora_bias`; 1 for the adapter as it was trained.
    pub weight: f64,
}

/// How a checkpoint is edited.
#[derive(Clone, Copy, Debug, Default)]
pub struct EditOptions {
    /// How changed weights are rounded.
    pub rounding: Rounding,
    /// Whether to measure what rounding lost, module by module.
    pub report: bool,
    /// Whether a merge leaves a record in the new checkpoint that makes taking the adapters out exact. A switch renews
    /// the record it finds.
    pub restore: Option<RestoreMethod>,
    /// Element type of the new checkpoint; that of the old one if `None`.
    pub dtype: Option<DType>,
}

/// One weight that an edit changed.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedWeight {
    /// Name of the weight.
    pub weight: String,
    /// How the adapters act on it.
    pub kind: LayerKind,
    /// Names of the adapters that were taken out.
    pub removed: Vec<String>,
    /// Names of the adapters that were put in.
    pub added: Vec<String>,
    /// What rounding lost, if that was asked for. Weights restored from a record lose nothing and have no report.
    pub report: Option<MergeReport>,
}

/// What an edit did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The weights that adapters changed, in the order of writing.
    pub weights: Vec<ChangedWeight>,
    /// Tensors replaced by the adapters' own: biases, saved modules, embeddings.
    pub replaced: Vec<String>,
    /// Tensors that the old checkpoint does not have: untied embeddings and new heads.
    pub new_tensors: Vec<String>,
    /// Bytes of tensors written.
    pub bytes: u64,
}

/// A planned edit of a checkpoint: everything is checked, nothing has been written.
#[derive(Debug)]
pub struct Edit<'a> {
    checkpoint: &'a Checkpoint,
    options: EditOptions,
    records: Option<Records>,
    remove: Vec<Bound<'a>>,
    add: Vec<Bound<'a>>,
    changes: BTreeMap<String, Change>,
    new_tensors: Vec<Outline>,
    dropped: BTreeSet<String>,
    model_config: Option<Map<String, Value>>,
}

#[derive(Debug)]
struct Bound<'a> {
    weighted: Weighted<'a>,
    binding: Binding,
}

/// Adapter and site.
type Place = (usize, usize);

/// What happens to one tensor.
#[derive(Clone, Debug, Default)]
struct Change {
    /// The tensor that a new one starts as a copy of.
    untied_from: Option<String>,
    /// Adapter and key of the tensor that replaces this one.
    replaced: Option<(usize, String)>,
    remove: Vec<Place>,
    add: Vec<Place>,
    remove_bias: Vec<Place>,
    add_bias: Vec<Place>,
    /// Only a record can tell what the tensor was before the adapters that are taken out.
    needs_record: bool,
}

impl<'a> Edit<'a> {
    /// Puts adapters into a base checkpoint. Several adapters on one weight are summed before the one rounding.
    ///
    /// # Errors
    /// An adapter does not fit the checkpoint, or two adapters do not go together.
    pub fn merge(
        checkpoint: &'a Checkpoint,
        adapters: &[Weighted<'a>],
        options: EditOptions,
    ) -> Result<Self> {
        Self::plan(checkpoint, &[], adapters, options, None)
    }

    /// Takes adapters out of a merged checkpoint, in the order and with the weights that they were merged in. Exact with
    /// the merge's record, and otherwise as close as rounding allows: see [`is_exact`](Self::is_exact).
    ///
    /// # Errors
    /// An adapter does not fit the checkpoint, the record is of other adapters, or what an adapter replaced (DoRA,
    /// biases, saved modules) cannot be known without a record.
    pub fn unmerge(
        checkpoint: &'a Checkpoint,
        adapters: &[Weighted<'a>],
        options: EditOptions,
    ) -> Result<Self> {
        let records = Records::open(checkpoint)?;
        Self::plan(checkpoint, adapters, &[], options, records)
    }

    /// Exchanges the adapters of a merged checkpoint in one pass.
    ///
    /// # Errors
    /// As [`merge`](Self::merge) and [`unmerge`](Self::unmerge).
    pub fn switch(
        checkpoint: &'a Checkpoint,
        from: &[Weighted<'a>],
        to: &[Weighted<'a>],
        options: EditOptions,
    ) -> Result<Self> {
        let records = Records::open(checkpoint)?;
        let restore = if records.is_some() { Some(options.restore.unwrap_or_default()) } else { None };
        Self::plan(checkpoint, from, to, EditOptions { restore, ..options }, records)
    }

    fn plan(
        checkpoint: &'a Checkpoint,
        remove: &[Weighted<'a>],
        add: &[Weighted<'a>],
        options: EditOptions,
        records: Option<Records>,
    ) -> Result<Self> {
        let bound = |weighted: &[Weighted<'a>]| -> Result<Vec<Bound<'a>>> {
            let bind_one = |weighted: &Weighted<'a>| {
                if !weighted.weight.is_finite() {
                    return Err(Error::adapter(
                        &weighted.name,
                        format!("weight {} is not finite", weighted.weight),
                    ));
                }
                Ok(Bound { weighted: weighted.clone(), binding: bind(weighted.adapter, checkpoint)? })
            };
            weighted.iter().map(bind_one).collect()
        };
        let mut edit = Edit {
            checkpoint,
            options,
            records,
            remove: bound(remove)?,
            add: bound(add)?,
            changes: BTreeMap::new(),
            new_tensors: Vec::new(),
            dropped: BTreeSet::new(),
            model_config: None,
        };
        if options.dtype.is_some() && (options.restore.is_some() || edit.records.is_some()) {
            return Err(Error::Record(
                "records hold for one element type; it cannot be changed at the same time".into(),
            ));
        }
        edit.plan_removals()?;
        edit.plan_additions()?;
        edit.plan_config();
        Ok(edit)
    }

    fn plan_removals(&mut self) -> Result<()> {
        let mut changes = BTreeMap::<String, Change>::new();
        for (adapter, bound) in self.remove.iter().enumerate() {
            for (index, site) in bound.binding.sites.iter().enumerate() {
                let change = changes.entry(site.weight.clone()).or_default();
                change.remove.push((adapter, index));
                change.needs_record |= !is_plain(bound, index);
                if let (Some(bias), Some(_)) = (&site.bias, &layer(bound, index).bias) {
                    changes.entry(bias.clone()).or_default().remove_bias.push((adapter, index));
                }
            }
        }
        if let Some(records) = &self.records {
            for name in records.tensors() {
                changes.entry(name.to_owned()).or_default();
            }
            self.dropped = records.added().iter().cloned().collect();
            self.dropped.iter().for_each(|name| {
                changes.remove(name);
            });
            if let Some(name) = changes.keys().find(|name| !records.contains(name)) {
                return Err(Error::Record(format!(
                    "the adapters change `{name}`, but there is no record of that"
                )));
            }
        } else {
            if let Some((name, _)) = changes.iter().find(|(_, change)| change.needs_record) {
                return Err(Error::Record(format!(
                    "`{name}` was merged in a way that cannot be undone without a record; merge with one"
                )));
            }
            let replaced = self.remove.iter().find_map(|bound| bound.weighted.adapter.replaced.keys().next());
            if let Some(name) = replaced {
                return Err(Error::Record(format!(
                    "the adapter replaced `{name}`, whose old values are not known without a record; merge with one"
                )));
            }
        }
        self.changes = changes;
        Ok(())
    }

    fn plan_additions(&mut self) -> Result<()> {
        for (adapter, bound) in self.add.iter().enumerate() {
            for (index, site) in bound.binding.sites.iter().enumerate() {
                let change = self.changes.entry(site.weight.clone()).or_default();
                let is_plain_here = |&(other, place): &Place| is_plain(&self.add[other], place);
                let alone =
                    change.add.is_empty() || (is_plain(bound, index) && change.add.iter().all(is_plain_here));
                if !alone {
                    return Err(Error::module(
                        &site.layer,
                        "a DoRA, PiSSA or OLoRA adapter of it cannot be merged together with others",
                    ));
                }
                change.add.push((adapter, index));
                if let (Some(bias), Some(_)) = (&site.bias, &layer(bound, index).bias) {
                    self.changes.entry(bias.clone()).or_default().add_bias.push((adapter, index));
                }
            }
            for (name, key) in &bound.binding.replaced {
                let change = self.changes.entry(name.clone()).or_default();
                if let Some((other, _)) = &change.replaced {
                    return Err(Error::tensor(
                        name,
                        format!(
                            "both `{}` and `{}` replace it",
                            self.add[*other].weighted.name, bound.weighted.name
                        ),
                    ));
                }
                if bound.weighted.weight != 1.0 {
                    return Err(Error::tensor(
                        name,
                        format!(
                            "`{}` replaces it, which cannot be done by a part of it",
                            bound.weighted.name
                        ),
                    ));
                }
                change.replaced = Some((adapter, key.clone()));
            }
            for (name, source) in &bound.binding.untied {
                self.changes.entry(name.clone()).or_default().untied_from = Some(source.clone());
            }
        }
        for (name, change) in &self.changes {
            if self.dropped.contains(name) && !change.add.is_empty() {
                return Err(Error::tensor(
                    name,
                    "was untied by the merge; unmerge first, then merge the other adapter",
                ));
            }
            if self.checkpoint.tensors().contains_key(name) && !self.dropped.contains(name) {
                continue;
            }
            let outline = match (&change.untied_from, &change.replaced) {
                (Some(source), _) => {
                    let info = self.checkpoint.info(source)?;
                    Outline {
                        name: name.clone(),
                        dtype: self.output_type(info.dtype),
                        shape: info.shape.clone(),
                    }
                }
                (None, Some((adapter, key))) => {
                    let tensor = &self.add[*adapter].weighted.adapter.replaced[key];
                    let dtype = self.options.dtype.unwrap_or(tensor.dtype());
                    Outline { name: name.clone(), dtype: file_type(dtype), shape: tensor.shape().to_vec() }
                }
                (None, None) => continue,
            };
            self.new_tensors.push(outline);
        }
        Ok(())
    }

    fn output_type(&self, dtype: crate::tensor::Dtype) -> crate::tensor::Dtype {
        match (self.options.dtype, float_type(dtype)) {
            (Some(wanted), Some(_)) => file_type(wanted),
            _ => dtype,
        }
    }

    /// `config.json` must say that embeddings are no longer tied, and name the new element type.
    fn plan_config(&mut self) {
        let original = self.records.as_ref().and_then(Records::model_config);
        let mut config = original.unwrap_or(self.checkpoint.model_config()).clone();
        let vocabulary =
            |name: &String| name.strip_suffix(".weight").is_some_and(crate::module::is_vocabulary);
        let parts_ways = self.changes.iter().any(|(name, change)| {
            vocabulary(name)
                && (!change.add.is_empty() || change.replaced.is_some() || change.untied_from.is_some())
        });
        let tied = config.get("tie_word_embeddings") == Some(&Value::Bool(true))
            || self.changes.values().any(|change| change.untied_from.is_some());
        if parts_ways && tied {
            config.insert("tie_word_embeddings".into(), json!(false));
        }
        if let Some(dtype) = self.options.dtype {
            let name = match dtype {
                DType::F32 => "float32",
                DType::F16 => "float16",
                DType::Bf16 => "bfloat16",
            };
            for key in ["dtype", "torch_dtype"] {
                if config.contains_key(key) {
                    config.insert(key.into(), json!(name));
                }
            }
        }
        if &config != self.checkpoint.model_config() {
            self.model_config = Some(config);
        }
    }

    /// Whether the adapters that are taken out will leave exactly the base weights: there is a record. Merging takes
    /// nothing out and is always exact in this sense.
    pub fn is_exact(&self) -> bool {
        self.remove.is_empty() || self.records.is_some()
    }

    /// Names of the tensors that will change.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        self.changes.keys().map(String::as_str)
    }

    /// Bytes of tensors that will be written.
    pub fn bytes(&self) -> u64 {
        self.rewrite().bytes()
    }

    fn rewrite(&self) -> Rewrite<'a> {
        let new: BTreeSet<&String> = self.new_tensors.iter().map(|outline| &outline.name).collect();
        let changes = Changes {
            computed: self.changes.keys().filter(|name| !new.contains(name)).cloned().collect(),
            added: self.new_tensors.clone(),
            removed: self.dropped.clone(),
            dtype: self.options.dtype,
        };
        let mut rewrite = Rewrite::new(self.checkpoint, &changes);
        rewrite.model_config = self.model_config.clone();
        rewrite
    }

    /// Writes the new checkpoint into a directory that does not exist yet. It appears there complete or not at all.
    ///
    /// # Errors
    /// A file cannot be read or written, a record does not fit, the backend failed, or `progress` was cancelled.
    pub fn write(&self, backend: &mut HostBackend<'_>, out: &Path, progress: &Progress) -> Result<Summary> {
        let directory = NewDirectory::create(out)?;
        let keeps_records = self.options.restore.filter(|_| !self.add.is_empty());
        let mut writer = match keeps_records {
            Some(_) => Some(RecordWriter::create(directory.path())?),
            None => None,
        };
        let mut summary = Summary::default();
        let rewrite = self.rewrite();
        summary.bytes = rewrite.bytes();
        summary.new_tensors = self.new_tensors.iter().map(|outline| outline.name.clone()).collect();
        rewrite.run(&directory, progress, &mut |outline| {
            let (tensor, record) = self.compute(backend, outline, &mut summary)?;
            if let (Some(writer), Some(record)) = (&mut writer, record) {
                writer.add(&outline.name, &record)?;
            }
            Ok(tensor)
        })?;
        if let Some(writer) = writer {
            let adapters: Vec<_> =
                self.add.iter().map(|bound| (bound.weighted.name.clone(), bound.weighted.weight)).collect();
            let original = self.records.as_ref().and_then(Records::model_config);
            let config =
                self.model_config.as_ref().map(|_| original.unwrap_or(self.checkpoint.model_config()));
            writer.finish(&adapters, &summary.new_tensors, config)?;
        }
        directory.commit()?;
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
                (Some(source), _) => self.checkpoint.tensor(source)?,
                (None, Some((adapter, key))) => self.add[*adapter].weighted.adapter.replaced[key].clone(),
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

        let kept = match &self.records {
            Some(records) if records.contains(name) => Some(records.read(name)?),
            _ => None,
        };
        let options = UpdateOptions {
            rounding: reseed(self.options.rounding, name_stream(name)),
            report: self.options.report,
        };
        let mut pending = true;
        match kept {
            Some(TensorRecord::Original { original, changed }) => {
                if content_fingerprint(&tensor) != changed {
                    return Err(Error::Record(format!("`{name}` has changed since the merge")));
                }
                tensor = original;
            }
            Some(TensorRecord::Codes(mut records)) if plain && !add.is_empty() => {
                report = update(backend, &mut tensor, &remove, &add, options, Some(&mut records))?;
                record = Some(TensorRecord::Codes(records));
                pending = false;
            }
            Some(TensorRecord::Codes(mut records)) => {
                update(backend, &mut tensor, &remove, &[], options, Some(&mut records))?;
            }
            None if !remove.is_empty() && plain => {
                report = update(backend, &mut tensor, &remove, &add, options, None)?;
                pending = false;
            }
            None => {
                if !remove.is_empty() {
                    update(backend, &mut tensor, &remove, &[], options, None)?;
                }
                update_bias(&mut tensor, &self.parts(&self.remove, &change.remove_bias), -1.0);
            }
        }
        if pending {
            let before = self.options.restore.map(|_| tensor.clone());
            let (changed, codes) = self.add_to(backend, name, change, &mut tensor, options)?;
            report = changed;
            record = match (codes, before) {
                (Some(codes), _) => Some(TensorRecord::Codes(codes)),
                (None, Some(original)) if in_file => {
                    let changed = content_fingerprint(&tensor);
                    Some(TensorRecord::Original { original, changed })
                }
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

    /// Puts the added adapters into a tensor that holds nothing of the removed ones any more.
    fn add_to(
        &self,
        backend: &mut HostBackend<'_>,
        name: &str,
        change: &Change,
        tensor: &mut Tensor,
        options: UpdateOptions,
    ) -> Result<(Option<MergeReport>, Option<Vec<lora_kernels::restore::RestoreRecord>>)> {
        if let Some((adapter, key)) = &change.replaced {
            *tensor = self.add[*adapter].weighted.adapter.replaced[key].cast(tensor.dtype());
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
            let init = cut_off(&bound.weighted.adapter.config.init, part.site, tensor)?;
            let kept = Part { layer: &init, weight: -part.weight, ..*part };
            return Ok((update(backend, tensor, &[], &[*part, kept], options, None)?, None));
        }
        let in_file = self.checkpoint.tensors().contains_key(name) && !self.dropped.contains(name);
        match self.options.restore {
            Some(method) if in_file && change.replaced.is_none() => {
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

impl Summary {
    /// All reports together; `None` if there are none.
    pub fn total(&self) -> Option<MergeReport> {
        self.weights.iter().filter_map(|weight| weight.report).reduce(|one, two| joined(&one, &two))
    }
}

fn layer<'b>(bound: &'b Bound<'_>, index: usize) -> &'b crate::adapter::AdapterLayer {
    &bound.weighted.adapter.layers[&bound.binding.sites[index].layer]
}

/// Whether merging is nothing but W + s·B·A.
fn is_plain(bound: &Bound<'_>, index: usize) -> bool {
    let init = &bound.weighted.adapter.config.init;
    layer(bound, index).magnitude.is_none() && !matches!(init, Init::Pissa | Init::Olora)
}

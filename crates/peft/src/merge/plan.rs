//! Finding out what happens to each tensor, before anything is written.

use super::adapter_files::TakenFiles;
use super::changes::{Bound, Change, add_additions, removals};
use super::exchange::part_of_replacement;
use super::records::Records;
use super::{Edit, EditOptions};
use crate::adapter::{Matcher, Weighted};
use crate::binding::{TieOutcome, fit};
use crate::checkpoint::{Checkpoint, Outline, is_input_embedding, is_vocabulary, quantized};
use crate::families::classifiers::Task;
use crate::families::ties::{self, Flag};
use crate::note::Note;
use crate::tensor::{Dtype, file_type, float_type};
use crate::{Error, Result};
use lora_kernels::DType;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

impl<'a> Edit<'a> {
    pub(super) fn plan(
        checkpoint: &'a Checkpoint,
        remove: &[Weighted<'a>],
        add: &[Weighted<'a>],
        options: EditOptions,
        records: Option<Records>,
    ) -> Result<Self> {
        // Adapters are for the base model: in it, what the merge has untied is still tied.
        let base = match &records {
            Some(records) => {
                let config = records.model_config().unwrap_or(checkpoint.model_config());
                Some(checkpoint.without(records.added(), &records.resized(), config))
            }
            None => None,
        };
        let base = base.as_ref().unwrap_or(checkpoint);
        let bound = |weighted: &[Weighted<'a>]| -> Result<Vec<Bound<'a>>> {
            let bind_one = |weighted: &Weighted<'a>| {
                if !weighted.weight.is_finite() {
                    return Err(Error::adapter(
                        &weighted.name,
                        format!("weight {} is not finite", weighted.weight),
                    ));
                }
                let (adapter, binding) = fit(weighted.adapter, base)?;
                Ok(Bound {
                    weighted: weighted.clone(),
                    adapter,
                    binding: Cow::Owned(binding),
                    weights_hold_start: true,
                })
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
            resized: BTreeMap::new(),
            model_config: None,
            config_notes: Vec::new(),
            taken_files: TakenFiles::default(),
        };
        if options.dtype.is_some() && (options.restore.is_some() || edit.records.is_some()) {
            return Err(Error::Record(
                "records hold for one element type; it cannot be changed at the same time".into(),
            ));
        }
        if let (Some(_), Some(method)) = (options.dtype, quantized::method(checkpoint)) {
            return Err(Error::malformed(
                &checkpoint.directory().join("config.json"),
                format!("the checkpoint is quantised ({method}); its element types cannot be changed"),
            ));
        }
        edit.check_ties()?;
        if options.requantize {
            edit.check_requantization()?;
        }
        edit.plan_removals()?;
        edit.plan_additions()?;
        edit.plan_config();
        Ok(edit)
    }

    /// What one adapter changes alike in all that is tied cannot be told apart from what another changes in one of them.
    fn check_ties(&self) -> Result<()> {
        let parted = self.add.iter().find(|bound| bound.binding.ties == TieOutcome::Parted);
        let kept = self.add.iter().find(|bound| !bound.binding.kept.is_empty());
        match (parted, kept) {
            (Some(parted), Some(kept)) => Err(Error::adapter(
                &kept.weighted.name,
                format!(
                    "changes tied embeddings alike, while `{}` parts them; merge one after the other",
                    parted.weighted.name
                ),
            )),
            _ => Ok(()),
        }
    }

    /// What is quantised again is in a format that can be written.
    fn check_requantization(&self) -> Result<()> {
        if self.options.dtype.is_some() || self.options.restore.is_some() || self.records.is_some() {
            return Err(Error::Record(
                "weights that are quantised again have no record and no other type".into(),
            ));
        }
        if let Some(weight) = self.checkpoint.quantized_weights().find(|weight| !weight.can_requantize()) {
            return Err(Error::tensor(
                &weight.parts[0].0,
                format!(
                    "is stored as {}; only FP8 can be quantised again, others with `--dequantize bf16` and the format's own program",
                    weight.format
                ),
            ));
        }
        Ok(())
    }

    fn plan_removals(&mut self) -> Result<()> {
        let mut changes = removals(&self.remove);
        for name in self.remove.iter().flat_map(|bound| &bound.binding.kept) {
            changes.remove(name);
        }
        if let Some(records) = &self.records {
            let (recorded, given) = (records.adapters().len(), self.remove.len());
            if recorded != given {
                return Err(Error::Record(format!(
                    "{recorded} adapters were merged ({}), and all of them are taken out together; {given} are given",
                    records.adapters().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
                )));
            }
            for name in records.tensors() {
                let change = changes.entry(name.to_owned()).or_default();
                if records.needs_adapters(name) && change.remove.is_empty() {
                    return Err(Error::Record(format!(
                        "the merge changed `{name}`, but none of the adapters that are to be taken out does"
                    )));
                }
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
            let mut terms = changes.values().flat_map(|change| &change.remove);
            if let Some(index) = terms.find(|index| !index.term(&self.remove).is_plain()) {
                let name = &index.term(&self.remove).site.weight;
                return Err(Error::Record(format!(
                    "`{name}` was merged in a way that cannot be undone without a record; merge with one"
                )));
            }
            let replaced = self.remove.iter().find_map(|bound| bound.adapter.replaced.keys().next());
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
        add_additions(&mut self.changes, &self.add)?;
        for name in self.add.iter().flat_map(|bound| &bound.binding.kept) {
            self.changes.remove(name);
        }
        for (name, change) in &self.changes {
            let Some((adapter, _)) = change.replaced.as_ref().or(change.rows.as_ref()) else { continue };
            let Weighted { name: adapter, weight, .. } = &self.add[*adapter].weighted;
            // What removals change may turn out to be what it is replaced by.
            let restored = self.records.is_some() || !change.remove.is_empty();
            if *weight != 1.0 && !restored {
                return Err(part_of_replacement(name, adapter));
            }
        }
        let untied = self.add.iter().flat_map(|bound| {
            bound.binding.untied.iter().filter(|(name, _)| !bound.binding.kept.contains(*name))
        });
        for (name, source) in untied {
            self.changes.entry(name.clone()).or_default().untied_from = Some(source.clone());
        }
        for (name, change) in &self.changes {
            let replaced = change
                .replaced
                .as_ref()
                .map(|(adapter, key)| self.add[*adapter].adapter.replaced[key].shape().to_vec());
            if let Some(info) = self.checkpoint.tensors().get(name)
                && !self.dropped.contains(name)
            {
                let original = self.records.as_ref().and_then(|records| records.original_shape(name));
                let shape =
                    replaced.or(original.map(<[usize]>::to_vec)).unwrap_or_else(|| info.shape.clone());
                if shape != info.shape {
                    self.resized.insert(name.clone(), shape);
                }
                continue;
            }
            let outline = match (&change.untied_from, &change.replaced) {
                (Some(source), _) => {
                    let info = self.checkpoint.info(source)?;
                    let original = self.records.as_ref().and_then(|records| records.original_shape(source));
                    let shape =
                        replaced.or(original.map(<[usize]>::to_vec)).unwrap_or_else(|| info.shape.clone());
                    Outline { name: name.clone(), dtype: self.output_type(info.dtype), shape }
                }
                (None, Some((adapter, key))) => {
                    let tensor = &self.add[*adapter].adapter.replaced[key];
                    let dtype = self.options.dtype.unwrap_or(tensor.dtype());
                    Outline { name: name.clone(), dtype: file_type(dtype), shape: tensor.shape().to_vec() }
                }
                (None, None) => continue,
            };
            self.new_tensors.push(outline);
        }
        Ok(())
    }

    fn output_type(&self, dtype: Dtype) -> Dtype {
        match (self.options.dtype, float_type(dtype)) {
            (Some(wanted), Some(_)) => file_type(wanted),
            _ => dtype,
        }
    }

    /// Whether a tensor is replaced for itself alone. An input embedding that no key of the configuration asks for takes the
    /// place of the base's own, and what is tied to that stays tied.
    fn replaces_apart(&self, name: &str, change: &Change) -> bool {
        change.replaced.as_ref().is_some_and(|(adapter, key)| {
            let is_asked = || {
                let module = key.strip_suffix(".weight").unwrap_or(key);
                Matcher::new(&self.add[*adapter].adapter.config).is_ok_and(|matcher| matcher.saves(module))
            };
            !name.strip_suffix(".weight").is_some_and(is_input_embedding) || is_asked()
        })
    }

    /// `config.json` must say that embeddings are no longer tied, how many tokens there are, what the head of a classifier is,
    /// and name the new element type.
    fn plan_config(&mut self) {
        let original = self.records.as_ref().and_then(Records::model_config);
        let own = match self.options.requantize {
            true => self.checkpoint.stored_config(),
            false => self.checkpoint.model_config(),
        };
        let mut config = original.unwrap_or(own).clone();
        if self.part_ways(&config) {
            if let Some(model_type) =
                ties::scaled_where_tied(&config).filter(|_| ties::flag(&config) != Flag::Untied)
            {
                self.config_notes.push(Note::UntiedWithoutScale { model_type: model_type.to_owned() });
                // What transformers 5 makes of a file without the key where embeddings are tied.
                config.entry("scale_decoder_outputs").or_insert(json!(true));
            }
            ties::untie(&mut config);
        }
        self.plan_vocabulary(&mut config);
        self.plan_classifier(&mut config);
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
        if &config != self.checkpoint.stored_config() {
            self.model_config = Some(config);
        }
    }

    /// Whether tensors that `config.json` may call tied are no longer one.
    fn part_ways(&self, config: &Map<String, Value>) -> bool {
        if self.add.iter().any(|bound| bound.binding.ties == TieOutcome::Parted) {
            return true;
        }
        if self.changes.values().any(|change| change.untied_from.is_some()) {
            return true;
        }
        let unknown = self.add.iter().any(|bound| bound.binding.ties == TieOutcome::Unknown);
        let vocabulary = |name: &String| name.strip_suffix(".weight").is_some_and(is_vocabulary);
        unknown
            && ties::flag(config) == Flag::Tied
            && self.changes.iter().any(|(name, change)| {
                vocabulary(name)
                    && (!change.add.is_empty() || self.replaces_apart(name, change) || change.rows.is_some())
            })
    }

    fn plan_vocabulary(&mut self, config: &mut Map<String, Value>) {
        let base = |name: &String| {
            let original = self.records.as_ref().and_then(|records| records.original_shape(name));
            let found = self.checkpoint.tensors().get(name).map(|info| info.shape.as_slice());
            original.or(found).and_then(|shape| shape.first().copied())
        };
        let mut sizes = self.changes.iter().filter_map(|(name, change)| {
            let (adapter, key) = change.replaced.as_ref()?;
            let new = *self.add[*adapter].adapter.replaced[key].shape().first()?;
            let old = base(name)?;
            (old != new && name.ends_with(".weight")).then_some((old, new))
        });
        let Some((from, to)) = sizes.next() else { return };
        if !config.is_empty() {
            ties::set_vocabulary(config, to);
        }
        self.config_notes.push(Note::VocabularyResized { from, to });
    }

    /// The head of a classifier that the base does not have: `config.json` says how many labels there are and names the class.
    fn plan_classifier(&mut self, config: &mut Map<String, Value>) {
        for outline in &self.new_tensors {
            let Some((adapter, _)) =
                self.changes.get(&outline.name).and_then(|change| change.replaced.as_ref())
            else {
                continue;
            };
            let task = self.add[*adapter].adapter.config.task_type();
            let Some(task) = Task::of(task, &outline.name).filter(|_| !config.is_empty()) else { continue };
            let labels = outline.shape.first().copied().unwrap_or_default();
            let class = task.put_into(config, labels);
            self.config_notes.push(Note::NewHead { tensor: outline.name.clone(), labels, class });
        }
    }
}

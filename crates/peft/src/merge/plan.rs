//! Finding out what happens to each tensor, before anything is written.

use super::record::Records;
use super::{Bound, Change, Edit, EditOptions, Place, is_plain, layer, part_of_replacement};
use crate::adapter::Weighted;
use crate::binding::fit;
use crate::checkpoint::{Checkpoint, Outline, is_vocabulary, quantized};
use crate::tensor::{Dtype, file_type, float_type};
use crate::{Error, Result};
use lora_kernels::DType;
use serde_json::{Value, json};
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
                Some(checkpoint.without(records.added(), config))
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
                Ok(Bound { weighted: weighted.clone(), adapter, binding })
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
        if let (Some(_), Some(method)) = (options.dtype, quantized::method(checkpoint)) {
            return Err(Error::malformed(
                &checkpoint.directory().join("config.json"),
                format!("the checkpoint is quantised ({method}); its element types cannot be changed"),
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
            if let Some((name, _)) = changes.iter().find(|(_, change)| change.needs_record) {
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
                // What removals change may turn out to be what it is replaced by.
                let restored = self.records.is_some() || !change.remove.is_empty();
                if bound.weighted.weight != 1.0 && !restored {
                    return Err(part_of_replacement(name, &bound.weighted.name));
                }
                change.replaced = Some((adapter, key.clone()));
            }
            for (name, source) in &bound.binding.untied {
                self.changes.entry(name.clone()).or_default().untied_from = Some(source.clone());
            }
        }
        for (name, change) in &self.changes {
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

    /// `config.json` must say that embeddings are no longer tied, and name the new element type.
    fn plan_config(&mut self) {
        let original = self.records.as_ref().and_then(Records::model_config);
        let mut config = original.unwrap_or(self.checkpoint.model_config()).clone();
        let vocabulary = |name: &String| name.strip_suffix(".weight").is_some_and(is_vocabulary);
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
}

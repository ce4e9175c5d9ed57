//! Finding out what happens to each tensor, before anything is written.

use super::changes::{Bound, add_additions, removals};
use super::exchange::part_of_replacement;
use super::records::Records;
use super::{Edit, EditOptions};
use crate::adapter::Weighted;
use crate::binding::fit;
use crate::checkpoint::{Checkpoint, Outline, is_vocabulary, quantized};
use crate::tensor::{Dtype, file_type, float_type};
use crate::{Error, Result};
use lora_kernels::DType;
use serde_json::{Value, json};
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
        if options.requantize {
            edit.check_requantization()?;
        }
        edit.plan_removals()?;
        edit.plan_additions()?;
        edit.plan_config();
        Ok(edit)
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
        for (name, change) in &self.changes {
            let Some((adapter, _)) = &change.replaced else { continue };
            let Weighted { name: adapter, weight, .. } = &self.add[*adapter].weighted;
            // What removals change may turn out to be what it is replaced by.
            let restored = self.records.is_some() || !change.remove.is_empty();
            if *weight != 1.0 && !restored {
                return Err(part_of_replacement(name, adapter));
            }
        }
        for (name, source) in self.add.iter().flat_map(|bound| &bound.binding.untied) {
            self.changes.entry(name.clone()).or_default().untied_from = Some(source.clone());
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
        let own = match self.options.requantize {
            true => self.checkpoint.stored_config(),
            false => self.checkpoint.model_config(),
        };
        let mut config = original.unwrap_or(own).clone();
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
        if &config != self.checkpoint.stored_config() {
            self.model_config = Some(config);
        }
    }
}

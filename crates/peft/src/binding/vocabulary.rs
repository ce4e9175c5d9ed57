//! Embeddings and heads for other tokens than the base model's: more rows of them, fewer, or some of them new.

use super::bind::{Binder, Binding};
use crate::adapter::{TOKEN_ROWS, TokenIndices, is_named};
use crate::checkpoint::{is_vocabulary, quantized};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Biases of output heads that stand elsewhere than in the head.
const HEAD_BIASES: [&str; 4] =
    ["cls.predictions.bias", "lm_head.bias", "predictions.bias", "final_logits_bias"];

impl Binder<'_> {
    /// Whether a tensor of the base may be replaced by one for another number of tokens.
    pub fn may_become(&self, name: &str, old: &[usize], new: &[usize]) -> bool {
        self.is_of_tokens(name)
            && old.len() == new.len()
            && !old.is_empty()
            && old[1..] == new[1..]
            && new[0] > 0
    }

    /// Whether a tensor of the model has a row for each token: by the name of its module, or because the model ties it.
    fn is_of_tokens(&self, name: &str) -> bool {
        let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"));
        module.is_some_and(|module| {
            is_vocabulary(module) || self.is_tied(&self.file_name(&format!("{module}.weight")))
        })
    }

    /// Checks that all of the model's embeddings and heads get the same number of rows.
    pub fn check_vocabulary(&self, binding: &Binding) -> Result<()> {
        let mut resized = binding.replaced.iter().filter_map(|(name, key)| {
            let source = self.known_source(name);
            let shape = self.shape(name).or(self.shape(source.as_deref()?));
            let (old, new) = (shape?.first()?, self.adapter.replaced[key].shape().first()?);
            (old != new).then_some((name, *old, *new))
        });
        let Some((first, old, new)) = resized.next() else { return Ok(()) };
        if let Some((other, _, rows)) = resized.find(|(_, _, rows)| *rows != new) {
            return Err(Error::tensor(other, format!("gets {rows} rows, but `{first}` {new}")));
        }
        let left = |name: &&String| {
            let shape = self.shape(name).unwrap_or_default();
            let of_tokens = self.is_of_tokens(name) || HEAD_BIASES.iter().any(|bias| name.ends_with(bias));
            of_tokens && (shape.first() == Some(&old) || shape.last() == Some(&old) && name.ends_with("bias"))
        };
        let in_file = self.checkpoint.tensors().keys().filter(left);
        let copied = binding.untied.keys().filter(|name| !binding.kept.contains(*name));
        match in_file.chain(copied).find(|name| !binding.replaced.contains_key(*name)) {
            Some(name) => Err(Error::tensor(
                name,
                format!(
                    "has {old} rows, and the adapter was trained with {new}, as `{first}` in its file has; the file does \
                     not have the others. Resize the base model as before training (`resize_token_embeddings`), save it \
                     and merge into that"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Rows of an embedding or head that `trainable_token_indices` names.
    pub fn replace_rows(&self, module: &str, key: &str, rows: &Tensor, binding: &mut Binding) -> Result<()> {
        let unfit = |reason: String| Error::tensor(format!("base_model.model.{key}"), reason);
        let Some(indices) = self.adapter.config.tokens_of(module) else {
            return Err(unfit("`trainable_token_indices` does not name its module".into()));
        };
        let weight = self.file_name(&format!("{module}.weight"));
        quantized::check_module(self.checkpoint, weight.trim_end_matches(".weight"))?;
        let source = match self.shape(&weight) {
            Some(_) => weight.clone(),
            None => {
                let Some(source) = self.known_source(&weight) else {
                    return Err(Error::module(module, "the checkpoint has no such module"));
                };
                binding.untied.insert(weight.clone(), source.clone());
                source
            }
        };
        let whole = self.adapter.replaced.get(&format!("{module}.weight"));
        let shape = whole.map(Tensor::shape).or(self.shape(&source)).unwrap_or_default();
        let ([vocabulary, features], &[count, width]) = (shape, rows.shape()) else {
            return Err(unfit(format!("has shape {:?}, and the base weight {shape:?}", rows.shape())));
        };
        if (count, width) != (indices.len(), *features) {
            return Err(unfit(format!(
                "has shape {:?}, but [{}, {features}] is needed: a row for each of `trainable_token_indices`",
                rows.shape(),
                indices.len()
            )));
        }
        if let Some(index) = indices.iter().find(|index| *index >= vocabulary) {
            return Err(Error::config(
                "trainable_token_indices",
                format!("{index} is out of range: `{weight}` has {vocabulary} rows"),
            ));
        }
        if self.adapter.layers.contains_key(module) {
            return Err(Error::module(
                module,
                "has a layer, and `trainable_token_indices` names it too; PEFT can have but one",
            ));
        }
        binding.rows.insert(weight, key.to_owned());
        Ok(())
    }

    /// Every module that `trainable_token_indices` names must have its rows, or be tied to one that has the same.
    pub fn check_token_rows(&self, binding: &Binding) -> Result<()> {
        let missing = |name: &str| {
            Error::config("trainable_token_indices", format!("the adapter's file has no rows for {name}"))
        };
        let found: BTreeSet<&str> =
            binding.rows.values().filter_map(|key| key.strip_suffix(TOKEN_ROWS)).collect();
        match &self.adapter.config.token_indices {
            None => Ok(()),
            Some(TokenIndices::Embedding(_)) if found.is_empty() => Err(missing("the input embedding")),
            Some(TokenIndices::Embedding(_)) => Ok(()),
            Some(TokenIndices::Modules(modules)) => {
                let has = |name: &str| found.iter().any(|module| is_named(module, name));
                let same =
                    |indices: &[usize]| modules.iter().any(|(other, tokens)| has(other) && tokens == indices);
                match modules.iter().find(|(name, indices)| !has(name) && !same(indices)) {
                    Some((name, _)) => Err(missing(&format!("`{name}`"))),
                    None => Ok(()),
                }
            }
        }
    }
}

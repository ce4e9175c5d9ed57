//! Which tensors of two checkpoints belong together: those that the model's class calls the same.

use crate::Result;
use crate::checkpoint::{Checkpoint, is_input_embedding, is_output_head};
use crate::families::class_facts::ClassFacts;
use crate::progress::Progress;
use crate::tensor::float_type;
use serde_json::Value;
use std::collections::BTreeMap;

/// A tensor of both checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    /// What the class calls it.
    pub name: String,
    /// Its name in the base's files.
    pub base: String,
    /// Its name in the tuned checkpoint's files.
    pub tuned: String,
}

/// Names of a checkpoint's files by what the class calls them.
pub(super) struct Names {
    pub facts: Option<ClassFacts>,
    pub files: BTreeMap<String, String>,
    ties: bool,
}

impl Names {
    /// Under the names of the class of `other`, where that is of a model of the same type.
    pub fn of(checkpoint: &Checkpoint, other: Option<(&Checkpoint, ClassFacts)>) -> Self {
        let config = checkpoint.model_config();
        let is_same = |other: &Checkpoint| {
            let model_type = config.get("model_type");
            model_type.is_none() || model_type == other.model_config().get("model_type")
        };
        let of_other = other.filter(|(other, _)| is_same(other)).map(|(_, facts)| facts);
        let facts = of_other.or_else(|| ClassFacts::of(config));
        let same = || checkpoint.tensors().keys().map(|name| (name.clone(), name.clone())).collect();
        let mut files: BTreeMap<String, String> = match facts {
            Some(facts) => {
                let names = facts.class_names(checkpoint.tensors().keys());
                names.into_iter().map(|(file, class)| (class, file.clone())).collect()
            }
            None => same(),
        };
        if files.len() != checkpoint.tensors().len() {
            // Two tensors of one name: not a file of this class.
            files = same();
        }
        let says = |config: &Value| config.get("tie_word_embeddings").and_then(Value::as_bool);
        let text = ["text_config", "llm_config", "decoder"].iter().find_map(|key| says(config.get(*key)?));
        let ties = config.get("tie_word_embeddings").and_then(Value::as_bool).or(text);
        Names { facts, files, ties: ties != Some(false) }
    }

    /// The weight that a name which the checkpoint does not have is another name of, if embeddings are tied.
    pub fn tied_source(&self, name: &str, shape: &[usize], checkpoint: &Checkpoint) -> Option<&str> {
        if !self.ties || self.files.contains_key(name) {
            return None;
        }
        let source = match self.facts {
            Some(facts) => {
                let mut tied = facts.tied().iter();
                let (_, source) = tied.find(|(other, _)| other == name)?;
                self.files.get_key_value(source)?
            }
            None => {
                let head = name.strip_suffix(".weight").filter(|path| is_output_head(path));
                let is_embedding = |(name, file): &(&String, &String)| {
                    name.strip_suffix(".weight").is_some_and(is_input_embedding)
                        && checkpoint.tensors()[*file].shape == shape
                };
                head.and_then(|_| self.files.iter().find(is_embedding))?
            }
        };
        Some(source.0)
    }

    /// Whether a weight has other names, which the checkpoint does not have apart from it.
    pub fn is_tied(&self, name: &str) -> bool {
        let facts = self.facts.filter(|_| self.ties);
        facts.is_some_and(|facts| {
            facts.tied().iter().any(|(other, source)| source == name && !self.files.contains_key(other))
        })
    }
}

/// Tensors that models compute from their configuration. Files of older versions have them.
fn is_computed(name: &str) -> bool {
    const ENDINGS: [&str; 8] = [
        "inv_freq",
        "position_ids",
        "token_type_ids",
        "cos_cached",
        "sin_cached",
        "masked_bias",
        "attn.bias",
        "attention.bias",
    ];
    ENDINGS
        .iter()
        .any(|ending| name.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Whether a causal mask or the like is called as a bias would be.
pub(super) fn is_computed_here(name: &str, checkpoint: &Checkpoint, file: &str) -> bool {
    // Biases have one dimension.
    is_computed(name) && !(name.ends_with(".bias") && checkpoint.tensors()[file].shape.len() < 2)
}

/// Whether two tensors of one shape have the same values: bit for bit, or as far as the tuned checkpoint's element type can
/// tell if that is another.
pub(super) fn hold_same(
    one: (&Checkpoint, &str),
    two: (&Checkpoint, &str),
    progress: &Progress,
) -> Result<bool> {
    let (one_info, two_info) = (one.0.info(one.1)?, two.0.info(two.1)?);
    if one_info.dtype != two_info.dtype {
        return Ok(match (float_type(one_info.dtype), float_type(two_info.dtype)) {
            (Some(_), Some(dtype)) => {
                one.0.tensor(one.1)?.cast(dtype).bytes() == two.0.tensor(two.1)?.bytes()
            }
            _ => false,
        });
    }
    let mut same = true;
    let mut position = two_info.range.start;
    let mut other = Vec::new();
    one.0.for_each_piece(one.1, |piece| {
        progress.check()?;
        other.resize(piece.len(), 0);
        two.0.shards()[two_info.shard].source().read(&mut other, position)?;
        position += piece.len() as u64;
        same = piece == other;
        Ok(same)
    })?;
    Ok(same)
}

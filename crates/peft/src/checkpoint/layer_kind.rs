//! What kind of layer a module of a checkpoint is. Files do not say; shapes, names and the model's type do.

use super::Checkpoint;
use serde_json::Value;

/// A kind of layer that can be adapted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// `nn.Linear`: W \[out, in\].
    Linear,
    /// transformers' `Conv1D`, a linear layer with W \[in, out\].
    TransposedLinear,
    /// `nn.Embedding`: W \[vocabulary, features\].
    Embedding,
    /// `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`: W \[out, in, …kernel\].
    Convolution,
    /// One parameter for all experts of a layer, W \[experts, out, in\].
    Experts,
    /// One parameter for all experts of a layer, W \[experts, in, out\].
    TransposedExperts,
}

impl LayerKind {
    /// Whether W, or each expert's, is stored \[in, out\].
    pub fn is_input_major(self) -> bool {
        matches!(self, LayerKind::TransposedLinear | LayerKind::Embedding | LayerKind::TransposedExperts)
    }
}

/// Last names of modules that map a vocabulary to features or back.
const INPUT_EMBEDDINGS: [&str; 7] =
    ["embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared", "tokens_embed"];
const OUTPUT_EMBEDDINGS: [&str; 4] = ["lm_head", "embed_out", "output_layer", "decoder"];
/// Last names of other embeddings that do not have `embed` in them.
const OTHER_EMBEDDINGS: [&str; 2] = ["wpe", "relative_attention_bias"];
/// Models whose attention and MLP are made of `Conv1D`.
const TRANSPOSED_MODELS: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];
const TRANSPOSED_MODULES: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];
/// Models whose stacked experts are \[experts, in, out\].
const TRANSPOSED_EXPERTS: [&str; 4] = ["gpt_oss", "llama4", "aria", "openai_privacy_filter"];
/// Those of them whose classes do not say so (`is_transposed` in transformers 5.24): PEFT takes them for \[experts, out, in\].
const UNMARKED_EXPERTS: &str = "llama4";

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether a module is the input or the output embedding of a language model.
pub fn is_vocabulary(path: &str) -> bool {
    INPUT_EMBEDDINGS.contains(&last(path)) || is_output_head(path)
}

/// Whether a module is the output head of a language model.
pub fn is_output_head(path: &str) -> bool {
    OUTPUT_EMBEDDINGS.contains(&last(path)) && !path.contains(".layers.")
}

/// Whether a module's name is that of an input embedding.
pub(crate) fn is_input_embedding(path: &str) -> bool {
    INPUT_EMBEDDINGS.contains(&last(path))
}

/// Whether the model's type says that its linear layers are `Conv1D`.
pub(crate) fn is_transposed_model(checkpoint: &Checkpoint) -> Option<bool> {
    let config = checkpoint.model_config();
    config.contains_key("model_type").then(|| is_transposed_type(config))
}

/// Whether a model's configuration says so.
pub(crate) fn is_transposed_type(config: &serde_json::Map<String, Value>) -> bool {
    let model_type = config.get("model_type").and_then(Value::as_str);
    model_type.is_some_and(|name| TRANSPOSED_MODELS.contains(&name))
}

/// Whether a module of such a model is a `Conv1D`.
pub(crate) fn is_transposed_module(path: &str) -> bool {
    TRANSPOSED_MODULES.contains(&last(path))
}

fn expert_type(checkpoint: &Checkpoint) -> Option<&str> {
    let model_type = checkpoint.model_config().get("model_type").and_then(Value::as_str)?;
    TRANSPOSED_EXPERTS.iter().any(|known| model_type.starts_with(known)).then_some(model_type)
}

/// Whether the model's type says that stacked experts are used as W \[experts, in, out\]; `None` if there is no type.
pub(crate) fn has_transposed_experts(checkpoint: &Checkpoint) -> Option<bool> {
    checkpoint.model_config().contains_key("model_type").then(|| expert_type(checkpoint).is_some())
}

/// Whether PEFT takes stacked experts of this model's type for W \[experts, in, out\].
pub(crate) fn marks_transposed_experts(checkpoint: &Checkpoint) -> bool {
    expert_type(checkpoint).is_some_and(|model_type| !model_type.starts_with(UNMARKED_EXPERTS))
}

/// The modules of a checkpoint that can be adapted, with the kind each one seems to be, in the order of their names.
///
/// A two-dimensional weight is an embedding if its name says so, a `Conv1D` if the model's `config.json` says so, and
/// a linear layer otherwise; with more dimensions it is a convolution.
pub fn adaptable_modules(checkpoint: &Checkpoint) -> Vec<(String, LayerKind)> {
    let transposed = is_transposed_model(checkpoint).unwrap_or(false);
    checkpoint
        .tensors()
        .iter()
        .filter_map(|(name, info)| {
            let path = name.strip_suffix(".weight")?;
            Some((path.to_owned(), layer_kind_by_name(path, &info.shape, transposed)?))
        })
        .collect()
}

/// The kind of layer that a module seems to be by its path and the shape of its weight; `transposed` says that the model is
/// of a type that is made of `Conv1D`.
pub(crate) fn layer_kind_by_name(path: &str, shape: &[usize], transposed: bool) -> Option<LayerKind> {
    match shape.len() {
        2 if is_embedding(path) => Some(LayerKind::Embedding),
        2 if transposed && is_transposed_module(path) => Some(LayerKind::TransposedLinear),
        2 => Some(LayerKind::Linear),
        3..=5 => Some(LayerKind::Convolution),
        _ => None,
    }
}

fn is_embedding(path: &str) -> bool {
    let name = last(path);
    is_input_embedding(path)
        || OTHER_EMBEDDINGS.contains(&name)
        || name.starts_with("embed_")
        || name.ends_with("embedding")
        || name.ends_with("embeddings")
}

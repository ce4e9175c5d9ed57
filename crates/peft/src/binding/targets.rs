//! What a configuration would adapt in a checkpoint.

use super::naming::Naming;
use crate::Result;
use crate::adapter::{Match, Matcher, ModuleNames};
use crate::checkpoint::{Checkpoint, LayerKind, adaptable_modules, is_output_head};
use crate::families::ties::{self, Ties};

/// What PEFT 0.21 targets when a configuration names nothing, by the model's type.
const DEFAULT_TARGETS: [(&[&str], &[&str]); 13] = [
    (
        &[
            "bart",
            "gemma",
            "gemma2",
            "gemma3_text",
            "gptj",
            "gpt_neo",
            "llama",
            "llama4",
            "mistral",
            "mixtral",
            "opt",
            "qwen2",
            "qwen3",
            "stablelm",
        ],
        &["q_proj", "v_proj"],
    ),
    (&["bert", "electra", "layoutlm", "roberta", "xlm-roberta"], &["query", "value"]),
    (&["RefinedWeb", "RefinedWebModel", "bloom", "chatglm", "falcon", "gpt_neox"], &["query_key_value"]),
    (&["gpt2", "gpt_bigcode"], &["c_attn"]),
    (&["t5", "mt5"], &["q", "v"]),
    (&["deberta-v2"], &["query_proj", "value_proj"]),
    (&["deberta"], &["in_proj"]),
    (&["mpt"], &["Wqkv"]),
    (&["btlm"], &["c_proj", "c_attn"]),
    (&["codegen"], &["qkv_proj"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
    (&["blip-2"], &["q", "v", "q_proj", "v_proj"]),
    (&["nemotron_h"], &["q_proj", "k_proj", "v_proj", "o_proj"]),
];

/// What PEFT targets in a model of this type when a configuration names nothing.
pub fn default_targets(model_type: &str) -> Option<ModuleNames> {
    let (_, targets) = DEFAULT_TARGETS.iter().find(|(types, _)| types.contains(&model_type))?;
    Some(ModuleNames::List(targets.iter().map(|name| (*name).to_owned()).collect()))
}

/// A module or parameter that a configuration targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Dotted path in the model; a parameter's ends in its own name.
    pub module: String,
    /// The kind of layer that it seems to be.
    pub kind: LayerKind,
    /// The rank r.
    pub rank: usize,
    /// The factor s on B·A.
    pub scale: f64,
}

/// Modules by what a configuration says about them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TargetReport {
    /// Those that are adapted.
    pub matched: Vec<Target>,
    /// Those that `exclude_modules` or `modules_to_save` keeps out.
    pub excluded: Vec<String>,
    /// The rest of those that could be adapted.
    pub unmatched: Vec<String>,
}

/// Applies a configuration's patterns to the modules of a checkpoint.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) if a pattern cannot be matched in time.
pub fn find_targets(matcher: &Matcher, checkpoint: &Checkpoint, naming: &Naming) -> Result<TargetReport> {
    let mut report = TargetReport::default();
    let tied = match matcher.is_all_linear() {
        true => ties::of(checkpoint.model_config(), checkpoint.tensors().keys(), |name| {
            checkpoint.tensors().contains_key(name)
        }),
        false => Ties::Unknown,
    };
    let is_head = |path: &str| is_output_head(path) || tied.contain(&format!("{path}.weight"));
    for (path, kind) in adaptable_modules(checkpoint) {
        let Some(module) = naming.module_to_model(&path) else { continue };
        let found = match matcher.matches(&module)? {
            Match::Targeted if matcher.is_all_linear() => {
                let linear = matches!(kind, LayerKind::Linear | LayerKind::TransposedLinear);
                if linear && !is_head(&path) { Match::Targeted } else { Match::Unmatched }
            }
            found => found,
        };
        match found {
            Match::Targeted => {
                let (rank, scale) = (matcher.rank(&module)?, matcher.scale(&module)?);
                report.matched.push(Target { module, kind, rank, scale });
            }
            Match::Excluded => report.excluded.push(module),
            Match::Unmatched => report.unmatched.push(module),
        }
    }
    Ok(report)
}

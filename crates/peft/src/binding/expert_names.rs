//! What files call the experts that are one parameter in memory, as `conversion_mapping.py` of transformers 5.24 has it.

use super::naming::Naming;
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How models of some types name the experts in their files.
pub(crate) struct ExpertNames {
    model_types: &'static [&'static str],
    /// What `.mlp.` is called in the files.
    block: &'static str,
    /// Matrices that `gate_up_proj` consists of, in the order of its rows.
    pub(crate) gate_up: [&'static str; 2],
    pub(crate) down: &'static str,
}

const KNOWN: [ExpertNames; 2] = [
    ExpertNames {
        model_types: &["mixtral", "minimax"],
        block: ".block_sparse_moe.",
        gate_up: ["w1", "w3"],
        down: "w2",
    },
    ExpertNames {
        model_types: &[
            "deepseek_v2",
            "deepseek_v3",
            "dots1",
            "ernie4_5_moe",
            "flex_olmo",
            "glm4_moe",
            "hunyuan_v1_moe",
            "olmoe",
            "qwen2_moe",
            "qwen3_5_moe",
            "qwen3_moe",
            "qwen3_next",
        ],
        block: MLP,
        gate_up: ["gate_proj", "up_proj"],
        down: "down_proj",
    },
];
const MLP: &str = ".mlp.";

/// What to say of experts that are apart in the files where a stacked parameter was sought; empty if they are not.
pub(super) fn hint(checkpoint: &Checkpoint) -> String {
    let Some(name) = checkpoint.tensors().keys().find(|name| name.contains(".experts.0.")) else {
        return String::new();
    };
    let model_type = checkpoint.model_config().get("model_type").unwrap_or(&Value::Null);
    match KNOWN.iter().any(|names| names.model_types.iter().any(|known| model_type == known)) {
        true => format!(
            "; it keeps the experts apart (`{name}`), and so a new adapter names them in `target_modules`"
        ),
        false => format!(
            "; it keeps the experts apart (`{name}`), and how models of type {model_type} stack them is not known"
        ),
    }
}

impl ExpertNames {
    /// Those of a checkpoint's model; `None` if its type is not known to keep experts apart.
    pub fn of(checkpoint: &Checkpoint) -> Option<&'static Self> {
        let model_type = checkpoint.model_config().get("model_type").and_then(Value::as_str)?;
        KNOWN.iter().find(|names| names.model_types.contains(&model_type))
    }

    /// What a stacked parameter consists of.
    pub fn matrices(&self, parameter: &str) -> &[&'static str] {
        if parameter == "down_proj" { std::slice::from_ref(&self.down) } else { &self.gate_up }
    }

    /// Modules with experts, under their names in the file, and how many experts each has.
    pub fn find(&self, checkpoint: &Checkpoint, naming: &Naming) -> Result<BTreeMap<String, usize>> {
        let mut found: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        let ending = format!(".{}.weight", self.down);
        for name in checkpoint.tensors().keys() {
            let name = naming.to_model(name);
            let expert = name.strip_suffix(&ending).and_then(|path| path.rsplit_once('.'));
            if let Some((module, index)) = expert
                && module.ends_with(".experts")
                && let Ok(index) = index.parse()
            {
                found.entry(module.to_owned()).or_default().insert(index);
            }
        }
        let count =
            |(module, indices): (String, BTreeSet<usize>)| match (0..).zip(&indices).find(|(i, j)| i != *j) {
                Some((missing, _)) => Err(Error::tensor(
                    format!("{module}.{missing}{ending}"),
                    "missing between the other experts",
                )),
                None => Ok((module, indices.len())),
            };
        found.into_iter().map(count).collect()
    }

    /// Whether the module around the experts has another name in the files than in memory.
    pub fn renames_block(&self) -> bool {
        self.block != MLP
    }

    /// The name in memory of what the files call `name`.
    pub fn in_memory(&self, name: &str) -> String {
        name.replacen(self.block, MLP, 1)
    }
}

//! Facts about model families, by the `model_type` of `config.json`: tables from transformers 5.24, and what is read from them.

pub(crate) mod class_facts;
pub(crate) mod classifiers;
mod conversions;
mod fused;
mod renaming;
mod tied_classes;
pub(crate) mod ties;

pub(crate) use conversions::{Experts, experts, renamings, unused};
pub(crate) use fused::{Fused, fused};
pub(crate) use renaming::{Renaming, Step, renamed};

use serde_json::{Map, Value};

/// What `config.json` calls the part about the language model, where there are other parts too.
const TEXT_CONFIGS: [&str; 4] = ["text_config", "llm_config", "language_config", "thinker_config"];

/// The part of a model's configuration that is about its language model; all of it if there are no parts.
pub(crate) fn text_config(config: &Map<String, Value>) -> &Map<String, Value> {
    match TEXT_CONFIGS.iter().find_map(|key| config.get(*key)?.as_object()) {
        Some(text) => text_config(text),
        None => config,
    }
}

/// The type of a model, and those of its parts.
pub(crate) fn model_types(config: &Map<String, Value>) -> Vec<&str> {
    let own = config.get("model_type").and_then(Value::as_str);
    let parts = config.values().filter_map(Value::as_object);
    let inner = parts.flat_map(|part| {
        let own = part.get("model_type").and_then(Value::as_str);
        let parts = part.values().filter_map(Value::as_object);
        own.into_iter().chain(parts.filter_map(|part| part.get("model_type")?.as_str()))
    });
    own.into_iter().chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_have_types_too() {
        let config = json!({
            "model_type": "a", "x": 3,
            "text_config": { "model_type": "b" },
            "thinker_config": { "model_type": "c", "text_config": { "model_type": "d", "n": 1 } },
        });
        let config = config.as_object().unwrap();
        assert_eq!(model_types(config), ["a", "b", "c", "d"]);
        assert_eq!(text_config(config)["model_type"], "b");
        let mut omni = config.clone();
        omni.remove("text_config");
        assert_eq!(text_config(&omni)["n"], 1);
        assert!(model_types(&Map::new()).is_empty());
    }
}

//! Tensors that a checkpoint may have and its model's class makes nothing of: layers that predict further tokens, first of all.

use crate::families;
use fancy_regex::Regex;
use serde_json::{Map, Value};

/// What `config.json` calls the number of layers of a language model.
const COUNTS: [&str; 4] = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
/// Components of paths that lead to a language model's layers.
const ABOVE_LAYERS: [&str; 5] = ["model", "language_model", "text_model", "thinker", "transformer"];

/// What of a checkpoint the model's class makes nothing of.
#[derive(Debug)]
pub(crate) struct Unbuilt {
    layers: Option<u64>,
    patterns: Vec<Regex>,
}

impl Unbuilt {
    /// By the model's `config.json`.
    pub fn of(config: &Map<String, Value>) -> Self {
        let text = families::text_config(config);
        let layers = COUNTS.iter().find_map(|key| text.get(*key)?.as_u64());
        Unbuilt { layers, patterns: families::unused(config) }
    }

    /// Whether it makes nothing of what has this name: multi-token prediction (`mtp`, `nextn`), layers beyond those that
    /// `config.json` counts, and what transformers has the class pass over.
    pub fn has(&self, name: &str) -> bool {
        let predicts_further = |part: &str| {
            part == "mtp" || part.starts_with("mtp_") || part == "nextn" || part.starts_with("nextn_")
        };
        name.split('.').any(predicts_further) || self.is_beyond(name) || self.is_passed_over(name)
    }

    /// Whether transformers has the class pass over this name.
    pub fn is_passed_over(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(name).unwrap_or(false))
    }

    /// Whether a path leads to a layer of the language model that it has no more.
    pub fn is_beyond(&self, name: &str) -> bool {
        let mut components = name.split('.').skip_while(|part| ABOVE_LAYERS.contains(part));
        let index = match (components.next(), components.next()) {
            (Some("layers" | "h"), Some(index)) => index.parse::<u64>().ok(),
            _ => None,
        };
        matches!((index, self.layers), (Some(index), Some(layers)) if index >= layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layers_beyond_the_last_and_further_predictions_are_not_built() {
        let config = json!({ "model_type": "deepseek_v3", "num_hidden_layers": 2 });
        let nested =
            json!({ "model_type": "x", "num_hidden_layers": 9, "text_config": { "num_hidden_layers": 2 } });
        for config in [&config, &nested] {
            let unbuilt = Unbuilt::of(config.as_object().unwrap());
            let is_unbuilt = |name| unbuilt.has(name);
            for name in [
                "mtp.fc.weight",
                "model.mtp.layers.0.q",
                "mtp_heads.0.weight",
                "model.layers.2.eh_proj.weight",
            ] {
                assert!(is_unbuilt(name), "{name}");
            }
            for name in [
                "model.layers.1.q.weight",
                "lm_head.weight",
                "model.decoder.layers.7.q.weight",
                "vision_tower.layers.7.q",
                "smtp.q",
                "layers.x.q",
            ] {
                assert!(!is_unbuilt(name), "{name}");
            }
        }
        assert!(!Unbuilt::of(&Map::new()).has("model.layers.7.q.weight"));
    }
}

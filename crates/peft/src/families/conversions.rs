//! What transformers 5.24 does to the names and shapes in a checkpoint when it loads one, by the model's type:
//! `conversions.json`, which `tests/golden/generate_conversions.py` writes and describes.

use super::model_types;
use super::renaming::{Renaming, Step};
use fancy_regex::Regex;
use serde_json::{Map, Value};
use std::sync::OnceLock;

fn table() -> &'static Map<String, Value> {
    static TABLE: OnceLock<Map<String, Value>> = OnceLock::new();
    TABLE.get_or_init(|| {
        serde_json::from_str(include_str!("conversions.json")).expect("a table of the program")
    })
}

/// The entries for the types of a model and its parts.
fn entries(config: &Map<String, Value>) -> impl Iterator<Item = &'static Value> {
    model_types(config).into_iter().filter_map(|name| table().get(name))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

fn pairs<'v>(value: &'v Value) -> impl Iterator<Item = (String, Vec<String>)> + 'v {
    list(value).filter_map(|row| Some((row[0].as_str()?.to_owned(), texts(&row[1]))))
}

/// The renamings that the classes of a model's type know; most have one.
pub(crate) fn renamings(config: &Map<String, Value>) -> Vec<Renaming> {
    let steps = |value: &Value| list(value).map(Step::read).collect::<Option<Vec<Step>>>();
    let renaming =
        |value: &Value| Some(Renaming { steps: steps(&value["steps"])?, back: steps(&value["back"])? });
    let mut known: Vec<&Value> = Vec::new();
    for value in entries(config).flat_map(|entry| list(&entry["renamings"])) {
        if !known.contains(&value) {
            known.push(value);
        }
    }
    known.into_iter().filter_map(renaming).collect()
}

/// How experts that are one parameter in memory are kept apart in the files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Experts {
    /// Parameters in the order of their definition, and the matrices that each consists of, in the order of its rows.
    pub parameters: Vec<(String, Vec<String>)>,
    /// What is called otherwise in the files: name in the file, name in memory.
    pub block: Vec<(String, String)>,
}

/// The experts of a model's type; `None` if it is not known to keep them apart.
pub(crate) fn experts(config: &Map<String, Value>) -> Option<Experts> {
    let entry = entries(config).find(|entry| list(&entry["experts"]).next().is_some())?;
    let block = list(&entry["block"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Experts {
        parameters: pairs(&entry["experts"]).collect(),
        block: block.filter_map(|row| Some((text(&row[0])?, text(&row[1])?))).collect(),
    })
}

/// Matrices that are one in the file and several in the class (`fused`), or the other way round (`joined`): the one, the
/// several in the order of its rows.
pub(super) fn rows(config: &Map<String, Value>) -> Vec<(String, Vec<String>)> {
    entries(config).flat_map(|entry| pairs(&entry["fused"]).chain(pairs(&entry["joined"]))).collect()
}

/// Patterns of the names that the class of a model passes over when it loads a checkpoint.
pub(crate) fn unused(config: &Map<String, Value>) -> Vec<Regex> {
    let class =
        config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or_default();
    let patterns = entries(config).flat_map(|entry| texts(&entry["unused"][class]));
    patterns.filter_map(|pattern| Regex::new(&pattern).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::renamed;
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_in_the_table_can_be_read() {
        assert!(table().len() > 100);
        for (model_type, entry) in table() {
            let config = json!({ "model_type": model_type });
            let config = config.as_object().unwrap();
            assert_eq!(renamings(config).len(), list(&entry["renamings"]).count(), "{model_type}");
            assert_eq!(
                experts(config).map_or(0, |experts| experts.parameters.len()),
                list(&entry["experts"]).count()
            );
            for class in entry["unused"].as_object().into_iter().flat_map(Map::keys) {
                let mut config = config.clone();
                config.insert("architectures".into(), json!([class]));
                assert_eq!(unused(&config).len(), texts(&entry["unused"][class]).len(), "{model_type}");
            }
        }
    }

    #[test]
    fn names_in_files_become_those_of_the_class_and_come_back() {
        let cases = [
            (
                "gemma3",
                "language_model.model.layers.0.mlp.up_proj.weight",
                "model.language_model.layers.0.mlp.up_proj.weight",
            ),
            ("gemma3", "language_model.lm_head.weight", "lm_head.weight"),
            ("llava", "vision_tower.vision_model.a.weight", "model.vision_tower.a.weight"),
            ("qwen2_vl", "model.layers.0.q.weight", "model.language_model.layers.0.q.weight"),
            ("qwen2_5_vl", "visual.blocks.0.q.weight", "model.visual.blocks.0.q.weight"),
            ("mllama", "language_model.model.norm.weight", "model.language_model.norm.weight"),
            (
                "granitemoe",
                "model.layers.1.block_sparse_moe.input_linear.weight",
                "model.layers.1.block_sparse_moe.experts.gate_up_proj",
            ),
        ];
        for (model_type, file, class) in cases {
            let config = json!({ "model_type": model_type });
            let all = renamings(config.as_object().unwrap());
            let does = |renaming: &Renaming| {
                renamed(&renaming.steps, vec![file.to_owned()]) == [class]
                    && renamed(&renaming.steps, vec![class.to_owned()]) == [class]
                    && renamed(&renaming.back, vec![class.to_owned()]) == [file]
            };
            assert!(all.iter().any(does), "{model_type}: {file}");
        }
    }

    #[test]
    fn experts_are_known_by_type() {
        let of = |model_type: &str| experts(json!({ "model_type": model_type }).as_object().unwrap());
        let names =
            |one: &str, two: &[&str]| (one.to_owned(), two.iter().map(|name| (*name).to_owned()).collect());
        let mixtral = of("mixtral").unwrap();
        assert_eq!(mixtral.parameters, [names("gate_up_proj", &["w1", "w3"]), names("down_proj", &["w2"])]);
        assert_eq!(mixtral.block, [(".block_sparse_moe.".to_owned(), ".mlp.".to_owned())]);
        assert_eq!(of("lfm2_moe").unwrap().parameters, mixtral.parameters);
        let qwen = of("qwen3_moe").unwrap();
        assert_eq!(
            qwen.parameters,
            [names("gate_up_proj", &["gate_proj", "up_proj"]), names("down_proj", &["down_proj"])]
        );
        assert!(
            of("phimoe").unwrap().block.contains(&(".gate.weight".to_owned(), ".router.weight".to_owned()))
        );
        assert!(of("llama").is_none() && of("granitemoe").is_none());
        // The type of a part.
        let nested = json!({ "model_type": "x", "text_config": { "model_type": "deepseek_v3" } });
        assert_eq!(experts(nested.as_object().unwrap()), of("deepseek_v3"));
    }
}

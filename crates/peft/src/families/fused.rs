//! Matrices that some files or classes keep as one and others apart: queries, keys and values; gate and up.

use super::{conversions, model_types};
use serde_json::{Map, Value};

/// One matrix whose rows are those of several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fused {
    /// The end of the one's path.
    pub whole: String,
    /// The ends of the several's paths, in the order of the rows.
    pub parts: Vec<String>,
}

/// Types whose classes have `qkv_proj`, with all queries first, then all keys, then all values.
const QKV: [&str; 3] = ["phi3", "phi4_multimodal", "phi3_v"];
/// Types whose classes have `gate_up_proj`, with all of the gate first.
const GATE_UP: [&str; 13] = [
    "phi3",
    "phi4_multimodal",
    "phi3_v",
    "glm",
    "glm4",
    "glm4v",
    "glm4v_text",
    "glm_image",
    "glm_image_text",
    "glm_ocr",
    "glm_ocr_text",
    "dia",
    "zamba2",
];

/// What models of a type have as one matrix here and as several there.
pub(crate) fn fused(config: &Map<String, Value>) -> Vec<Fused> {
    let types = model_types(config);
    let has = |known: &[&str]| types.iter().any(|name| known.contains(name));
    let fused = |whole: &str, parts: &[&str]| Fused {
        whole: whole.to_owned(),
        parts: parts.iter().map(|part| (*part).to_owned()).collect(),
    };
    let mut found = Vec::new();
    if has(&QKV) {
        found.push(fused("qkv_proj", &["q_proj", "k_proj", "v_proj"]));
    }
    if has(&GATE_UP) {
        found.push(fused("gate_up_proj", &["gate_proj", "up_proj"]));
    }
    found.extend(conversions::rows(config).into_iter().map(|(whole, parts)| Fused { whole, parts }));
    found
}

//! What diffusers writes about the adapters of a pipeline's parts into a file's metadata.

use crate::adapter::{AdapterConfig, Matcher};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The metadata's key: a JSON text, whose keys have the part's name in front (`transformer.lora_alpha`).
pub(super) const METADATA: &str = "lora_adapter_metadata";

/// Configurations by part.
#[derive(Debug, Default)]
pub(super) struct Configured {
    parts: BTreeMap<String, Matcher>,
}

impl Configured {
    /// Reads a file's metadata.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Self> {
        let Some(text) = metadata.get(METADATA) else { return Ok(Configured::default()) };
        let keys: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| Error::config(METADATA, error.to_string()))?;
        let mut parts: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (key, value) in keys {
            let Some((part, key)) = key.split_once('.') else {
                return Err(Error::config(METADATA, format!("`{key}` belongs to no part of a pipeline")));
            };
            let part = parts
                .entry(part.to_owned())
                .or_insert_with(|| Map::from_iter([("peft_type".into(), json!("LORA"))]));
            part.insert(key.to_owned(), value);
        }
        let matcher = |(part, keys): (String, Map<String, Value>)| {
            let config = AdapterConfig::from_slice(Value::Object(keys).to_string().as_bytes())?;
            Ok((part, Matcher::new(&config)?))
        };
        Ok(Configured { parts: parts.into_iter().map(matcher).collect::<Result<_>>()? })
    }

    /// α of a module, so that α / r is its scale: the rank where nothing is said, as diffusers has it.
    pub fn alpha(&self, module: &str, rank: usize) -> Result<f64> {
        let configured =
            module.split_once('.').and_then(|(part, inner)| Some((self.parts.get(part)?, inner)));
        let Some((matcher, inner)) = configured else { return Ok(rank as f64) };
        let wanted = matcher.rank(inner)?;
        if wanted != rank {
            return Err(Error::module(
                module,
                format!("has rank {rank}, but the file's `{METADATA}` says {wanted}"),
            ));
        }
        Ok(matcher.scale(inner)? * rank as f64)
    }
}

//! What the classes of transformers call the tensors of files, and which layers they make of them.
//!
//! `class_facts.json` is written and checked by `tests/golden/generate_class_facts.py`, which says what is in it.

use fancy_regex::Regex;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, OnceLock};

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    Table::read(&serde_json::from_str(include_str!("class_facts.json")).unwrap_or_default())
});

struct Table {
    rules: Vec<OnceLock<Rules>>,
    sources: Vec<Value>,
    types: HashMap<String, TypeFacts>,
    converted_targets: HashMap<String, Vec<String>>,
}

/// What is known of the classes of one `model_type`.
struct TypeFacts {
    prefix: String,
    base: HashSet<String>,
    rules: usize,
    class_rules: HashMap<String, usize>,
    embeddings: HashSet<String>,
    whole: HashSet<String>,
    tied: HashMap<String, Vec<(String, String)>>,
}

/// How the names of files become those of a class.
struct Rules {
    renamed: Vec<Rule>,
    converted: Vec<Rule>,
}

struct Rule {
    scope: Option<String>,
    sources: Vec<Regex>,
    target: String,
}

/// What a class makes of a weight with two or more dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightUse {
    /// `nn.Embedding`.
    Embedding,
    /// Nothing that PEFT has a layer for.
    Whole,
    /// A linear layer, or a convolution without groups.
    Layer,
}

/// Whether PEFT takes a module of this last name in `target_modules` for one of single experts, in a model of this type:
/// dense layers and shared experts among them, whose layers it then does not find.
pub(crate) fn is_converted_target(model_config: &Map<String, Value>, path: &str) -> bool {
    let names = model_config
        .get("model_type")
        .and_then(Value::as_str)
        .and_then(|kind| TABLE.converted_targets.get(kind));
    let last = path.rsplit('.').next().unwrap_or(path);
    names.is_some_and(|names| names.iter().any(|name| name == last))
}

/// What is known of the class that a checkpoint's configuration names.
#[derive(Clone, Copy)]
pub(crate) struct ClassFacts {
    facts: &'static TypeFacts,
    rules: &'static Rules,
    tied: &'static [(String, String)],
    /// Whether the class has the names without the prefix.
    is_base: bool,
}

impl ClassFacts {
    /// The facts of the class in `architectures`; `None` for types that transformers 5.24 does not know, and for the few
    /// classes whose names do not follow from those in files by rules.
    pub fn of(model_config: &Map<String, Value>) -> Option<Self> {
        let model_type = model_config.get("model_type")?.as_str()?;
        let class = model_config.get("architectures")?.get(0)?.as_str()?;
        let facts = TABLE.types.get(model_type)?;
        let rules = *facts.class_rules.get(class).unwrap_or(&facts.rules);
        if TABLE.sources.get(rules)?.is_null() {
            return None;
        }
        let rules = TABLE.rules[rules].get_or_init(|| Rules::read(&TABLE.sources[rules]));
        let tied = facts.tied.get(class).map_or(&[][..], Vec::as_slice);
        Some(ClassFacts { facts, rules, tied, is_base: facts.base.contains(class) })
    }

    /// What the class calls each of a file's tensors.
    pub fn class_names<'a>(
        &self,
        names: impl Iterator<Item = &'a String> + Clone,
    ) -> Vec<(&'a String, String)> {
        let prefix = format!("{}.", self.facts.prefix);
        let mut renamed: Vec<(&String, String)> =
            names.map(|name| (name, self.rules.rename(name, &self.facts.prefix))).collect();
        if self.facts.prefix.is_empty() {
            return renamed;
        }
        let has_prefix = renamed.iter().any(|(_, name)| name.starts_with(&prefix));
        match (self.is_base, has_prefix) {
            // The file of a class with a head, for the class without.
            (true, true) => {
                for (_, name) in &mut renamed {
                    if let Some(inner) = name.strip_prefix(&prefix) {
                        *name = inner.to_owned();
                    }
                }
            }
            // The file of a class without a head; a tied head beside it has its own name.
            (false, false) => {
                let is_head = |name: &str| self.tied.iter().any(|(other, _)| other == name);
                for (_, name) in renamed.iter_mut().filter(|(_, name)| !is_head(name)) {
                    name.insert_str(0, &prefix);
                }
            }
            _ => {}
        }
        renamed
    }

    /// Whether the class cuts, stacks or transposes a file's tensor.
    pub fn converts(&self, file_name: &str) -> bool {
        let renamed = self.rules.rename(file_name, &self.facts.prefix);
        self.rules.converted.iter().any(|rule| rule.found(&renamed, &self.facts.prefix).is_some())
    }

    /// What the class makes of the weight of the module at a path of its own.
    pub fn weight_use(&self, path: &str) -> WeightUse {
        let own = self.without_prefix(path);
        let numbered: Vec<&str> = own
            .split('.')
            .map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "#" } else { part })
            .collect();
        let numbered = numbered.join(".");
        if self.facts.whole.contains(&numbered) {
            WeightUse::Whole
        } else if self.facts.embeddings.contains(&numbered) {
            WeightUse::Embedding
        } else {
            WeightUse::Layer
        }
    }

    /// Names of the class that mean the same weight when embeddings are tied: the other name, the weight's own.
    pub fn tied(&self) -> &'static [(String, String)] {
        self.tied
    }

    fn without_prefix<'n>(&self, name: &'n str) -> &'n str {
        match self.facts.prefix.as_str() {
            "" => name,
            prefix => name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name),
        }
    }
}

impl Table {
    fn read(value: &Value) -> Self {
        let sources = value["rules"].as_array().cloned().unwrap_or_default();
        let types = value["types"].as_object().cloned().unwrap_or_default();
        Table {
            rules: sources.iter().map(|_| OnceLock::new()).collect(),
            sources,
            converted_targets: value["converted_targets"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(model_type, names)| (model_type.clone(), texts(names)))
                .collect(),
            types: types.into_iter().map(|(name, facts)| (name, TypeFacts::read(&facts))).collect(),
        }
    }
}

impl TypeFacts {
    fn read(value: &Value) -> Self {
        let index = |value: &Value| value.as_u64().map_or(usize::MAX, |index| index as usize);
        let object = |key: &str| value[key].as_object().into_iter().flatten();
        TypeFacts {
            prefix: text(&value["prefix"]),
            base: texts(&value["base"]).into_iter().collect(),
            rules: index(&value["rules"]),
            class_rules: object("class_rules").map(|(class, rules)| (class.clone(), index(rules))).collect(),
            embeddings: texts(&value["embeddings"]).into_iter().collect(),
            whole: texts(&value["whole"]).into_iter().collect(),
            tied: object("tied").map(|(class, names)| (class.clone(), pairs(names))).collect(),
        }
    }
}

impl Rules {
    fn read(value: &Value) -> Self {
        let rules = |key: &str| value[key].as_array().into_iter().flatten().map(Rule::read).collect();
        Rules { renamed: rules("renamed"), converted: rules("converted") }
    }

    fn rename(&self, name: &str, prefix: &str) -> String {
        self.renamed.iter().fold(name.to_owned(), |name, rule| match rule.found(&name, prefix) {
            Some((start, found, group)) => {
                let target = rule.target.replace("\\1", &group);
                // As transformers does: where the text that matched stands first.
                format!("{}{}", &name[..start], name[start..].replacen(&found, &target, 1))
            }
            None => name,
        })
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        Rule {
            scope: value[0].as_str().map(str::to_owned),
            // A pattern that cannot be read would fail the test of the table.
            sources: texts(&value[1]).iter().filter_map(|source| Regex::new(source).ok()).collect(),
            target: text(&value[2]),
        }
    }

    /// Where what the rule looks at begins, what matches there, and the first group of that.
    fn found(&self, name: &str, prefix: &str) -> Option<(usize, String, String)> {
        let start = match &self.scope {
            None => 0,
            Some(scope) => {
                let dotted = |part: &str| if part.is_empty() { String::new() } else { format!("{part}.") };
                let (prefix, scope) = (dotted(prefix), dotted(scope));
                let long = format!("{prefix}{scope}");
                if name.starts_with(&long) {
                    long.len()
                } else if name.starts_with(&scope) {
                    scope.len()
                } else {
                    return None;
                }
            }
        };
        // Alternatives of one expression: the leftmost match counts, of those at one place the first.
        let matches = self.sources.iter().filter_map(|source| source.captures(&name[start..]).ok().flatten());
        let first = matches.min_by_key(|captures| captures.get(0).map_or(0, |found| found.start()))?;
        let group =
            |index: usize| first.get(index).map_or_else(String::new, |found| found.as_str().to_owned());
        Some((start, group(0), group(1)))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(config: Value, name: &str) -> String {
        let facts = ClassFacts::of(config.as_object().unwrap()).unwrap();
        facts.class_names([name.to_owned()].iter()).remove(0).1
    }

    #[test]
    fn every_rule_can_be_read() {
        assert!(TABLE.types.len() > 300, "{}", TABLE.types.len());
        for (index, source) in TABLE.sources.iter().enumerate().filter(|(_, source)| !source.is_null()) {
            for key in ["renamed", "converted"] {
                for (rule, read) in source[key].as_array().unwrap().iter().zip(match key {
                    "renamed" => Rules::read(source).renamed,
                    _ => Rules::read(source).converted,
                }) {
                    assert_eq!(read.sources.len(), rule[1].as_array().unwrap().len(), "{index}: {rule}");
                }
            }
        }
        for facts in TABLE.types.values() {
            assert!(
                facts.rules < TABLE.rules.len() && facts.class_rules.values().all(|i| *i < TABLE.rules.len())
            );
        }
    }

    #[test]
    fn files_names_become_those_of_the_class() {
        for (model_type, class, file, model) in [
            (
                "gemma3",
                "Gemma3ForConditionalGeneration",
                "language_model.model.layers.0.mlp.up_proj.weight",
                "model.language_model.layers.0.mlp.up_proj.weight",
            ),
            ("gemma3", "Gemma3ForConditionalGeneration", "language_model.lm_head.weight", "lm_head.weight"),
            (
                "vit",
                "ViTForImageClassification",
                "vit.encoder.layer.1.attention.attention.query.weight",
                "vit.layers.1.attention.q_proj.weight",
            ),
            (
                "vit",
                "ViTForImageClassification",
                "vit.encoder.layer.1.attention.output.dense.bias",
                "vit.layers.1.attention.o_proj.bias",
            ),
            ("gpt2", "GPT2LMHeadModel", "h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"),
            ("gpt2", "GPT2Model", "transformer.wte.weight", "wte.weight"),
            ("llama", "LlamaForCausalLM", "model.norm.weight", "model.norm.weight"),
        ] {
            let config = json!({"model_type": model_type, "architectures": [class]});
            assert_eq!(named(config, file), model);
        }
        assert!(ClassFacts::of(json!({"model_type": "own"}).as_object().unwrap()).is_none());
    }
}

//! Renaming as transformers does it when it loads a checkpoint (`core_model_loading.py`, 5.24): one pattern after another.

use fancy_regex::{Captures, Regex};
use serde_json::Value;

/// How the names in the files of some model become those of its class, and back.
#[derive(Clone, Debug)]
pub(crate) struct Renaming {
    pub steps: Vec<Step>,
    pub back: Vec<Step>,
}

/// One pattern, or several that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pairs: Vec<(Regex, String)>,
    /// Whether it applies only if the first pattern is found in some name.
    guarded: bool,
    /// What may stand in front of what the pattern is about, the first that does counting; anything if `None`.
    prefixes: Option<Vec<String>>,
}

impl Step {
    /// Replaces what the pattern finds.
    ///
    /// # Panics
    /// Patterns are of this program, and its tests try them.
    pub fn new(pattern: &str, replacement: &str) -> Self {
        let pairs = vec![(Regex::new(pattern).expect("a pattern of the program"), replacement.to_owned())];
        Step { pairs, guarded: false, prefixes: None }
    }

    /// From the table of conversions; `None` if it is not one.
    pub fn read(value: &Value) -> Option<Self> {
        let prefixes = value[2]
            .as_array()
            .map(|list| list.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect());
        let pair = |pair: &Value| Some((Regex::new(pair[0].as_str()?).ok()?, pair[1].as_str()?.to_owned()));
        match &value[0] {
            Value::Array(pairs) => {
                Some(Step { pairs: pairs.iter().map(pair).collect::<Option<_>>()?, guarded: true, prefixes })
            }
            _ => Some(Step { pairs: vec![pair(value)?], guarded: false, prefixes }),
        }
    }

    fn inner<'n>(&self, name: &'n str) -> Option<(&'n str, &'n str)> {
        let Some(prefixes) = &self.prefixes else { return Some(("", name)) };
        let prefix = prefixes.iter().find(|prefix| name.starts_with(prefix.as_str()))?;
        Some(name.split_at(prefix.len()))
    }

    fn found<'n>(pattern: &Regex, name: &'n str) -> Option<Captures<'n, str>> {
        // Where a pattern takes too long, there is nothing to be found.
        pattern.captures(name).ok().flatten()
    }

    fn is_active(&self, names: &[String]) -> bool {
        let first = |name: &String| {
            self.inner(name).is_some_and(|(_, inner)| Self::found(&self.pairs[0].0, inner).is_some())
        };
        !self.guarded || names.iter().any(first)
    }

    fn apply(&self, name: &str) -> Option<String> {
        let (prefix, inner) = self.inner(name)?;
        let (found, replacement) =
            self.pairs.iter().find_map(|(pattern, new)| Some((Self::found(pattern, inner)?, new)))?;
        let mut new = replacement.clone();
        for group in 1..found.len() {
            let text = found.get(group).map_or("", |text| text.as_str());
            new = new.replace(&format!("\\{group}"), text);
        }
        Some(format!("{prefix}{}", inner.replacen(found.get(0)?.as_str(), &new, 1)))
    }
}

/// All of the names after all steps.
pub(crate) fn renamed<'s>(steps: impl IntoIterator<Item = &'s Step>, mut names: Vec<String>) -> Vec<String> {
    for step in steps {
        if step.is_active(&names) {
            for name in &mut names {
                if let Some(new) = step.apply(name) {
                    *name = new;
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn after(step: &Step, names: &[&str]) -> Vec<String> {
        renamed([step], names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn steps_rename_what_they_find() {
        let step = Step::new(r"^layers\.(\d+)\.", r"model.layers.\1.");
        assert_eq!(after(&step, &["layers.3.q", "x.layers.3.q"]), ["model.layers.3.q", "x.layers.3.q"]);
        let scoped = Step::read(&json!(["^a", "b", ["model.", ""]])).unwrap();
        assert_eq!(after(&scoped, &["model.a.a", "a", "c.a"]), ["model.b.a", "b", "c.a"]);
        let narrow = Step::read(&json!(["^a", "b", ["model."]])).unwrap();
        assert_eq!(after(&narrow, &["model.a", "a"]), ["model.b", "a"]);
    }

    #[test]
    fn pairs_wait_for_the_first() {
        let step =
            Step::read(&json!([[[r"(\d)\.fc0", r"\1.fc1"], [r"(\d)\.fc1", r"\1.fc2"]], null, null])).unwrap();
        assert_eq!(after(&step, &["0.fc0", "0.fc1"]), ["0.fc1", "0.fc2"]);
        assert_eq!(after(&step, &["0.fc1", "0.fc2"]), ["0.fc1", "0.fc2"]);
    }

    #[test]
    fn what_is_no_step_is_none() {
        for value in [json!(null), json!(["(", "x", null]), json!(["x"]), json!([["x"], null, null])] {
            assert!(Step::read(&value).is_none(), "{value}");
        }
    }
}

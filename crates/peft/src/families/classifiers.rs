//! Heads of classifiers that adapters bring along, and what `config.json` has to say of them.

use super::tied_classes::{QUESTION_ANSWERERS, SEQUENCE_CLASSIFIERS, TOKEN_CLASSIFIERS};
use serde_json::{Map, Value, json};

/// What the names of classes end with that may be trained further as classifiers.
const OTHER_ENDS: [&str; 6] =
    ["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration", "Model"];
/// How many labels models have whose configuration does not say.
const USUAL_LABELS: usize = 2;

/// What a classifier is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Sequence,
    Token,
    Question,
}

impl Task {
    /// By PEFT's `task_type`, and where there is none by the name of the head.
    pub fn of(task_type: Option<&str>, head: &str) -> Option<Self> {
        let task = match task_type {
            Some("SEQ_CLS") => Task::Sequence,
            Some("TOKEN_CLS") => Task::Token,
            Some("QUESTION_ANS") => Task::Question,
            _ if head == "score.weight" => Task::Sequence,
            _ => return None,
        };
        let heads: &[&str] = match task {
            Task::Sequence | Task::Token => &["score", "classifier", "classifier.out_proj"],
            Task::Question => &["qa_outputs"],
        };
        let module = head.strip_suffix(".weight")?;
        heads.contains(&module).then_some(task)
    }

    /// Makes `config.json` say that there are so many labels, and name the class with such a head. Returns that; `None` if
    /// transformers has none.
    pub fn put_into(self, config: &mut Map<String, Value>, labels: usize) -> Option<String> {
        let named = config.get("id2label").and_then(Value::as_object).map(Map::len);
        let said = config.get("num_labels").and_then(Value::as_u64).map(|count| count as usize);
        if self != Task::Question && named.or(said).unwrap_or(USUAL_LABELS) != labels {
            let name = |label: usize| format!("LABEL_{label}");
            let names: Map<String, Value> = (0..labels).map(|l| (l.to_string(), json!(name(l)))).collect();
            let numbers: Map<String, Value> = (0..labels).map(|l| (name(l), json!(l))).collect();
            config.insert("id2label".into(), names.into());
            config.insert("label2id".into(), numbers.into());
            config.remove("num_labels");
        }
        let (known, end): (&[&str], &str) = match self {
            Task::Sequence => (&SEQUENCE_CLASSIFIERS, "ForSequenceClassification"),
            Task::Token => (&TOKEN_CLASSIFIERS, "ForTokenClassification"),
            Task::Question => (&QUESTION_ANSWERERS, "ForQuestionAnswering"),
        };
        let class = config.get("architectures")?.get(0)?.as_str()?;
        let family = OTHER_ENDS.iter().chain([&end]).find_map(|end| class.strip_suffix(end))?;
        let class = format!("{family}{end}");
        if !known.contains(&class.as_str()) {
            return None;
        }
        config.insert("architectures".into(), json!([class]));
        Some(class)
    }
}

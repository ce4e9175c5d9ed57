//! Weights that a model has under several names: embeddings that are the output head too, and embeddings that encoder and
//! decoder share.

use super::tied_classes::{TIED, TiedClasses};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Keys of `config.json` below which a model keeps what is said of its language model.
const LANGUAGE_MODELS: [&str; 5] =
    ["text_config", "llm_config", "language_config", "thinker_config", "decoder"];
/// Whether embeddings are tied.
const FLAG: &str = "tie_word_embeddings";
/// Model types that share the embedding of encoder and decoder whatever `config.json` says, and take from its `tie_word_embeddings`
/// whether the decoder's output is scaled by 1/√d_model.
const ALWAYS_SHARED: [&str; 6] = ["t5", "mt5", "umt5", "longt5", "pop2piano", "udop"];
/// Last names of input embeddings whose head is `lm_head` in all models of transformers.
const USUAL_EMBEDDINGS: [&str; 2] = ["embed_tokens", "wte"];
/// What the names of classes with an output head end with.
const WITH_HEAD: [&str; 4] = ["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"];

/// Names of one weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tied {
    /// What the others are tied to, and these.
    pub names: Vec<String>,
    /// Names that a model finds again without `config.json` saying that they are tied.
    pub always: BTreeSet<String>,
    /// Whether they are tied where `config.json` does not say and the file has all of them.
    pub by_default: bool,
}

/// What `config.json` says of ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// That there are some.
    Tied,
    /// That there are none.
    Untied,
    /// Nothing, and so it depends on the class.
    Unsaid,
}

/// What is known of the ties of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ties {
    /// The class ties these.
    Known(Vec<Tied>),
    /// The class is not known, but has an output head.
    Unknown,
}

impl Ties {
    /// Whether a tensor is tied to others.
    pub fn contain(&self, name: &str) -> bool {
        match self {
            Ties::Known(groups) => groups.iter().any(|group| group.names.iter().any(|other| other == name)),
            Ties::Unknown => false,
        }
    }
}

fn architecture(config: &Map<String, Value>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

/// The model type, which `RefinedWeb` is an old name of Falcon's.
fn model_type(config: &Map<String, Value>) -> Option<&str> {
    match config.get("model_type")?.as_str()? {
        "RefinedWeb" | "RefinedWebModel" => Some("falcon"),
        other => Some(other),
    }
}

/// Whether the class of a model has an output head, as far as its name says.
fn has_head(class: &str) -> bool {
    WITH_HEAD.iter().any(|end| class.ends_with(end))
}

/// The classes that a configuration may mean: the one that it names, or those of its type if it names none or one that is
/// not known.
fn classes(config: &Map<String, Value>) -> Option<Vec<&'static TiedClasses>> {
    let named = architecture(config);
    if let Some(class) = named
        && let Some(found) = TIED.iter().find(|tied| tied.classes.contains(&class))
    {
        return Some(vec![found]);
    }
    let model_type = model_type(config)?;
    let mut of_type: Vec<_> = TIED.iter().filter(|tied| tied.model_type == model_type).collect();
    match named {
        // A class of transformers that ties nothing, or has no head.
        Some(class) if !has_head(class) => return Some(Vec::new()),
        Some(class) => {
            let end = WITH_HEAD.iter().find(|end| class.ends_with(**end));
            let same = |tied: &&TiedClasses| {
                tied.classes.iter().any(|known| end.is_some_and(|end| known.ends_with(end)))
            };
            if of_type.iter().any(same) {
                of_type.retain(same);
            }
        }
        None => {}
    }
    (!of_type.is_empty()).then_some(of_type)
}

/// What a checkpoint's model ties, under the names of the file; `has` says whether the file has a tensor.
pub(crate) fn of<'n>(
    config: &Map<String, Value>,
    names: impl Iterator<Item = &'n String> + Clone,
    has: impl Fn(&str) -> bool,
) -> Ties {
    let Some(classes) = classes(config) else {
        return match architecture(config).is_some_and(has_head) {
            true => Ties::Unknown,
            false => Ties::Known(Vec::new()),
        };
    };
    let always_shared = model_type(config).is_some_and(|name| ALWAYS_SHARED.contains(&name));
    let mut found: Vec<Tied> = Vec::new();
    for tied in classes {
        for (source, targets) in groups(tied) {
            let Some(renamed) = in_file(source, &targets, names.clone(), &has) else { continue };
            if found.iter().any(|other| other.names.contains(&renamed[0])) {
                continue;
            }
            let inner = |name: &&String| always_shared && name.ends_with("embed_tokens.weight");
            let always = renamed.iter().filter(inner).cloned().collect();
            found.push(Tied { names: renamed, always, by_default: tied.by_default });
        }
    }
    Ties::Known(found)
}

fn groups(tied: &TiedClasses) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (target, source) in tied.ties {
        groups.entry(source).or_default().push(target);
    }
    groups
}

/// The names of a group in the file, the source's first: as the class has them, as files have them that were saved by older
/// versions of a class or by one inside it, or behind a prefix. `None` if the file has none of them.
fn in_file<'n>(
    source: &str,
    targets: &[&str],
    mut names: impl Iterator<Item = &'n String>,
    has: &impl Fn(&str) -> bool,
) -> Option<Vec<String>> {
    let renamings: [&dyn Fn(&str) -> String; 4] = [
        &|name| name.to_owned(),
        // Before transformers 4.52.
        &|name| match name.strip_prefix("model.language_model.") {
            Some(rest) => format!("language_model.model.{rest}"),
            None => format!("language_model.{name}"),
        },
        &|name| name.replacen("model.language_model.", "model.", 1),
        &|name| match name.split_once('.') {
            Some((
                "model" | "transformer" | "bert" | "roberta" | "distilbert" | "backbone" | "gpt_neox",
                rest,
            )) => rest.to_owned(),
            _ => name.to_owned(),
        },
    ];
    let all = || std::iter::once(source).chain(targets.iter().copied());
    for renaming in renamings {
        let renamed: Vec<String> = all().map(renaming).collect();
        if renamed.iter().any(|name| has(name)) {
            return Some(renamed);
        }
    }
    let ending = format!(".{source}");
    let prefix = names.find_map(|name| name.strip_suffix(&ending))?;
    Some(all().map(|name| format!("{prefix}.{name}")).collect())
}

/// The head of an input embedding (a module's path) of a model whose class is not known; `None` if that cannot be told.
pub(crate) fn usual_head(embedding: &str) -> Option<String> {
    let last = embedding.rsplit('.').next()?;
    let whole = ["model.embed_tokens", "transformer.wte"].iter().find_map(|end| embedding.strip_suffix(end));
    let inside = whole.filter(|outer| outer.is_empty() || outer.ends_with('.')).unwrap_or_default();
    USUAL_EMBEDDINGS.contains(&last).then(|| format!("{inside}lm_head.weight"))
}

/// What `config.json` says of ties.
pub(crate) fn flag(config: &Map<String, Value>) -> Flag {
    let own = config.get(FLAG).and_then(Value::as_bool);
    let inner = || nested(config).find_map(|inner| inner.get(FLAG).and_then(Value::as_bool));
    match own.or_else(inner) {
        Some(true) => Flag::Tied,
        Some(false) => Flag::Untied,
        None => Flag::Unsaid,
    }
}

fn nested(config: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    LANGUAGE_MODELS.iter().filter_map(|key| config.get(*key)?.as_object())
}

/// Makes `config.json` say that nothing is tied: for the whole, and for the language model in it, where versions of
/// transformers before 5 look first.
pub(crate) fn untie(config: &mut Map<String, Value>) {
    config.insert(FLAG.into(), Value::Bool(false));
    for key in LANGUAGE_MODELS {
        if let Some(inner) = config.get_mut(key).and_then(Value::as_object_mut) {
            untie(inner);
        }
    }
}

/// Makes `config.json` say how many rows the embeddings have: where it says that of the language model.
pub(crate) fn set_vocabulary(config: &mut Map<String, Value>, rows: usize) {
    let inner: Vec<&str> =
        LANGUAGE_MODELS.into_iter().filter(|key| config.get(*key).is_some_and(Value::is_object)).collect();
    if config.contains_key("vocab_size") || inner.is_empty() {
        config.insert("vocab_size".into(), rows.into());
    }
    for key in inner {
        if let Some(inner) = config.get_mut(key).and_then(Value::as_object_mut) {
            set_vocabulary(inner, rows);
        }
    }
}

/// The model type, if its decoder's output is scaled by 1/√d_model only where `config.json` does not say that embeddings are
/// not tied.
pub(crate) fn scaled_where_tied(config: &Map<String, Value>) -> Option<&str> {
    model_type(config).filter(|name| ALWAYS_SHARED.contains(name))
}

/// Whether a class of transformers ties a weight of this name, as it is or behind one component.
pub(crate) fn is_tied_somewhere(name: &str) -> bool {
    static NAMES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
        TIED.iter().flat_map(|tied| tied.ties).flat_map(|(target, source)| [*target, *source]).collect()
    });
    NAMES.contains(name) || name.split_once('.').is_some_and(|(_, rest)| NAMES.contains(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn tied(config: Value, names: &[&str]) -> Ties {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        of(&object(config), names.iter(), |name| names.iter().any(|other| other == name))
    }

    #[test]
    fn heads_have_the_names_of_their_classes() {
        for (model_type, class, embedding, head) in [
            ("whisper", "WhisperForConditionalGeneration", "model.decoder.embed_tokens", "proj_out"),
            ("bloom", "BloomForCausalLM", "transformer.word_embeddings", "lm_head"),
            ("falcon", "FalconForCausalLM", "transformer.word_embeddings", "lm_head"),
            ("RefinedWeb", "RWForCausalLM", "transformer.word_embeddings", "lm_head"),
            ("roberta", "RobertaForMaskedLM", "roberta.embeddings.word_embeddings", "lm_head.decoder"),
            (
                "distilbert",
                "DistilBertForMaskedLM",
                "distilbert.embeddings.word_embeddings",
                "vocab_projector",
            ),
            ("bert", "BertForPreTraining", "bert.embeddings.word_embeddings", "cls.predictions.decoder"),
            ("albert", "AlbertForMaskedLM", "albert.embeddings.word_embeddings", "predictions.decoder"),
            ("mamba", "MambaForCausalLM", "backbone.embeddings", "lm_head"),
            ("xlnet", "XLNetLMHeadModel", "transformer.word_embedding", "lm_loss"),
            ("openai-gpt", "OpenAIGPTLMHeadModel", "transformer.tokens_embed", "lm_head"),
            ("gemma3", "Gemma3ForConditionalGeneration", "model.language_model.embed_tokens", "lm_head"),
            (
                "gemma3",
                "Gemma3ForConditionalGeneration",
                "language_model.model.embed_tokens",
                "language_model.lm_head",
            ),
            ("qwen2_vl", "Qwen2VLForConditionalGeneration", "model.embed_tokens", "lm_head"),
        ] {
            let config = json!({ "model_type": model_type, "architectures": [class] });
            let Ties::Known(groups) = tied(config, &[&format!("{embedding}.weight")]) else {
                panic!("{class}")
            };
            assert_eq!(groups.len(), 1, "{class}");
            assert_eq!(groups[0].names, [format!("{embedding}.weight"), format!("{head}.weight")], "{class}");
        }
    }

    #[test]
    fn encoders_and_decoders_share() {
        for (model_type, class, prefix, always) in [
            ("t5", "T5ForConditionalGeneration", "", 2),
            ("bart", "BartForConditionalGeneration", "model.", 0),
        ] {
            let config = json!({ "model_type": model_type, "architectures": [class] });
            let shared = format!("{prefix}shared.weight");
            let Ties::Known(groups) = tied(config, &[&shared]) else { panic!("{class}") };
            let names: BTreeSet<&str> = groups[0].names.iter().map(String::as_str).collect();
            let inner = ["encoder", "decoder"].map(|part| format!("{prefix}{part}.embed_tokens.weight"));
            let mut wanted: BTreeSet<&str> = inner.iter().map(String::as_str).collect();
            wanted.extend([shared.as_str(), "lm_head.weight"]);
            assert_eq!(names, wanted, "{class}");
            assert_eq!(groups[0].names[0], shared);
            assert_eq!(groups[0].always.len(), always, "{class}");
        }
    }

    #[test]
    fn classes_without_a_head_tie_none() {
        let names = ["model.embed_tokens.weight"];
        let of_class = |class| tied(json!({ "model_type": "llama", "architectures": [class] }), &names);
        assert_eq!(of_class("LlamaForSequenceClassification"), Ties::Known(Vec::new()));
        assert_eq!(of_class("LlamaModel"), Ties::Known(Vec::new()));
        assert!(matches!(of_class("MyForCausalLM"), Ties::Known(groups) if groups.len() == 1));
        let unknown = json!({ "model_type": "mine", "architectures": ["MyForCausalLM"] });
        assert_eq!(tied(unknown, &names), Ties::Unknown);
        assert_eq!(tied(json!({}), &names), Ties::Known(Vec::new()));
    }

    #[test]
    fn what_is_said_of_the_language_model_is_changed_where_it_stands() {
        let nested =
            json!({ "text_config": { "vocab_size": 4, "tie_word_embeddings": true }, "vision_config": {} });
        assert_eq!(flag(&object(nested.clone())), Flag::Tied);
        let mut config = object(nested);
        untie(&mut config);
        set_vocabulary(&mut config, 5);
        let wanted = json!({
            "text_config": { "vocab_size": 5, "tie_word_embeddings": false }, "vision_config": {},
            "tie_word_embeddings": false,
        });
        assert_eq!(Value::Object(config.clone()), wanted);
        assert_eq!(flag(&config), Flag::Untied);
        let mut plain = object(json!({ "vocab_size": 4 }));
        assert_eq!(flag(&plain), Flag::Unsaid);
        set_vocabulary(&mut plain, 5);
        assert_eq!(Value::Object(plain), json!({ "vocab_size": 5 }));
    }

    #[test]
    fn unknown_classes_have_usual_heads_or_none() {
        assert_eq!(usual_head("model.embed_tokens").as_deref(), Some("lm_head.weight"));
        assert_eq!(usual_head("transformer.wte").as_deref(), Some("lm_head.weight"));
        assert_eq!(
            usual_head("language_model.model.embed_tokens").as_deref(),
            Some("language_model.lm_head.weight")
        );
        assert_eq!(usual_head("transformer.word_embeddings"), None);
    }
}

//! What a model ties, vocabularies with other tokens, and newer fields of PEFT: `golden/public`, made by
//! `generate_identity.py`.

mod common;

use common::{doubles, golden, half_step, largest};
use lora_kernels::DType;
use lora_kernels::cpu::Cpu;
use lora_kernels::restore::RestoreMethod;
use lora_peft::adapter::ModuleNames;
use lora_peft::tensor::Tensor;
use lora_peft::{
    Adapter, AdapterLayer, Checkpoint, Edit, EditOptions, Error, LoraModel, Note, Progress, Weighted,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One directory below `golden/public` that `generate_identity.py` made.
struct Case {
    name: String,
    directory: PathBuf,
    description: Value,
}

impl Case {
    fn all() -> Vec<Case> {
        let entries = std::fs::read_dir(golden().join("public")).unwrap();
        let mut cases: Vec<Case> = entries.filter_map(|entry| Case::at(&entry.unwrap().path())).collect();
        cases.sort_by(|one, two| one.name.cmp(&two.name));
        assert!(cases.len() >= 40);
        cases
    }

    fn at(directory: &Path) -> Option<Case> {
        let text = std::fs::read(directory.join("case.json")).ok()?;
        let description: Value = serde_json::from_slice(&text).unwrap();
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let own = description["made_by"] == "generate_identity.py";
        own.then(|| Case { name, directory: directory.to_owned(), description })
    }

    fn named(name: &str) -> Case {
        Case::at(&golden().join("public").join(name)).unwrap()
    }

    fn base(&self) -> Checkpoint {
        Checkpoint::open(&self.directory.join("base")).unwrap()
    }

    fn adapter(&self) -> Adapter {
        Adapter::load(&self.directory.join("adapter"))
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn expected(&self) -> Checkpoint {
        Checkpoint::open(&self.directory.join("expected/model.safetensors")).unwrap()
    }

    /// The base's `config.json` with the changes that the case names.
    fn config(&self, base: &Checkpoint) -> Map<String, Value> {
        let mut config = base.model_config().clone();
        for (path, value) in self.description["changes"].as_object().unwrap() {
            let (outer, key) = path.split_once('.').unwrap_or(("", path));
            let place = if outer.is_empty() { &mut config } else { config[outer].as_object_mut().unwrap() };
            place.insert(key.into(), value.clone());
        }
        config
    }
}

fn weighted<'a>(adapter: &'a Adapter) -> [Weighted<'a>; 1] {
    [Weighted { name: "adapter".into(), adapter, weight: 1.0 }]
}

/// Equal where nothing was summed; else within two roundings to the type, as PEFT rounds s·B·A before it adds it.
fn assert_close(case: &str, name: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.shape(), theirs.shape(), "{case}: {name}");
    assert_eq!(ours.dtype(), theirs.dtype(), "{case}: {name}");
    let dtype = if ours.dtype() == DType::Bf16 { "bf16" } else { "f32" };
    let (ours, theirs) = (doubles(ours), doubles(theirs));
    let bound = 4.0 * half_step(dtype, largest(&theirs));
    let off = ours.iter().zip(&theirs).map(|(one, two)| (one - two).abs()).fold(0.0, f64::max);
    assert!(off <= bound, "{case}: {name} is off by {off:e}");
}

/// Files of the hub leave it to the ties whether T5 scales what its decoder gives.
#[test]
fn t5_scales_its_output_after_its_head_has_parted() {
    let case = Case::named("t5-shared");
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("base");
    std::fs::create_dir(&directory).unwrap();
    let mut config = case.base().model_config().clone();
    assert_eq!(config.shift_remove("scale_decoder_outputs"), Some(json!(true)));
    std::fs::write(directory.join("config.json"), json!(config).to_string()).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(case.directory.join("base").join(weights), directory.join(weights)).unwrap();
    let (base, adapter) = (Checkpoint::open(&directory).unwrap(), case.adapter());
    let edit = Edit::merge(&base, &weighted(&adapter), EditOptions::default()).unwrap();
    assert!(edit.notes().iter().any(|note| matches!(note, Note::UntiedWithoutScale { .. })));
    let out = root.path().join("out");
    edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
    let merged = Checkpoint::open(&out).unwrap();
    assert_eq!(merged.model_config()["scale_decoder_outputs"], true);
    assert_eq!(merged.model_config()["tie_word_embeddings"], false);
}

#[test]
fn merged_checkpoints_are_what_was_trained() {
    let temporary = tempfile::tempdir().unwrap();
    // Where they stay for `generate_identity.py --check`, if they are to stay.
    let root =
        std::env::var_os("LORA_PEFT_MERGED_DIRECTORY").map_or(temporary.path().to_owned(), PathBuf::from);
    for case in Case::all() {
        let (base, adapter, expected) = (case.base(), case.adapter(), case.expected());
        let edit = Edit::merge(&base, &weighted(&adapter), EditOptions::default());
        let edit = edit.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let out = root.join(&case.name);
        edit.write(&Cpu::new(), &out, &Progress::new())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let merged = Checkpoint::open(&out).unwrap();
        let names: BTreeSet<&str> = merged.tensors().keys().map(String::as_str).collect();
        let wanted = case.description["tensors"].as_array().unwrap();
        let wanted: BTreeSet<&str> = wanted.iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, wanted, "{}", case.name);
        for name in names {
            match expected.tensors().contains_key(name) {
                true => assert_close(
                    &case.name,
                    name,
                    &merged.tensor(name).unwrap(),
                    &expected.tensor(name).unwrap(),
                ),
                false => {
                    let (ours, theirs) = (merged.bytes(name).unwrap(), base.bytes(name).unwrap());
                    assert!(ours == theirs, "{}: {name}", case.name);
                }
            }
        }
        assert_eq!(merged.model_config(), &case.config(&base), "{}", case.name);
    }
}

#[test]
fn what_was_merged_with_a_record_comes_out_again() {
    let temporary = tempfile::tempdir().unwrap();
    for case in Case::all() {
        let (base, adapter) = (case.base(), case.adapter());
        let [merged, again] = ["merged", "again"].map(|name| temporary.path().join(&case.name).join(name));
        std::fs::create_dir_all(merged.parent().unwrap()).unwrap();
        let options = EditOptions { restore: Some(RestoreMethod::Codes), ..EditOptions::default() };
        let edit = Edit::merge(&base, &weighted(&adapter), options).unwrap();
        edit.write(&Cpu::new(), &merged, &Progress::new()).unwrap();
        let merged = Checkpoint::open(&merged).unwrap();
        let edit = Edit::unmerge(&merged, &weighted(&adapter), EditOptions::default());
        let edit = edit.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(edit.is_exact());
        edit.write(&Cpu::new(), &again, &Progress::new())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let again = Checkpoint::open(&again).unwrap();
        assert_eq!(again.tensors().len(), base.tensors().len(), "{}", case.name);
        for (name, info) in base.tensors() {
            assert_eq!(again.info(name).unwrap().shape, info.shape, "{}: {name}", case.name);
            assert!(again.bytes(name).unwrap() == base.bytes(name).unwrap(), "{}: {name}", case.name);
        }
        assert_eq!(again.model_config(), base.model_config(), "{}", case.name);
    }
}

/// From one that changes the size of the vocabulary to one that changes it otherwise, and to one that does not.
#[test]
fn a_switch_is_a_merge_into_the_base() {
    let temporary = tempfile::tempdir().unwrap();
    let base = Case::named("added").base();
    let [added, removed, plain] = ["added", "removed", "tokens"].map(|name| Case::named(name).adapter());
    let options = EditOptions { restore: Some(RestoreMethod::Codes), ..EditOptions::default() };
    let write = |edit: Edit<'_>, name: &str| {
        let out = temporary.path().join(name);
        edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
        Checkpoint::open(&out).unwrap()
    };
    let mut merged = write(Edit::merge(&base, &weighted(&added), options).unwrap(), "first");
    let mut last = &added;
    for (index, adapter) in [&removed, &plain, &added].into_iter().enumerate() {
        let edit =
            Edit::switch(&merged, &weighted(last), &weighted(adapter), EditOptions::default()).unwrap();
        let switched = write(edit, &format!("switched-{index}"));
        let direct =
            write(Edit::merge(&base, &weighted(adapter), options).unwrap(), &format!("direct-{index}"));
        assert_eq!(switched.model_config(), direct.model_config());
        for (name, info) in direct.tensors() {
            assert_eq!(switched.info(name).unwrap().shape, info.shape, "{name}");
            assert!(switched.bytes(name).unwrap() == direct.bytes(name).unwrap(), "{name}");
        }
        (merged, last) = (switched, adapter);
    }
}

/// In memory a merge changes the same weights; tied ones that a file leaves out are there by their names.
#[test]
fn models_in_memory_merge_alike() {
    for case in Case::all() {
        let (base, adapter, expected) = (case.base(), case.adapter(), case.expected());
        let mut model = LoraModel::new(case.base());
        model
            .add_adapter(&Cpu::new(), "one", adapter.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        model
            .merge(&Cpu::new(), Some(RestoreMethod::Codes))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for name in expected.tensors().keys() {
            let Ok(ours) = model.weight(name) else {
                // A head that parts ways without a change of its own.
                assert!(!base.tensors().contains_key(name), "{}: {name}", case.name);
                continue;
            };
            assert_close(&case.name, name, ours, &expected.tensor(name).unwrap());
        }
        model.unmerge(&Cpu::new()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for name in expected.tensors().keys().filter(|name| base.tensors().contains_key(*name)) {
            let before = base.tensor(name).unwrap();
            assert!(model.weight(name).is_ok_and(|weight| *weight == before), "{}: {name}", case.name);
        }
    }
}

#[test]
fn saved_again_adapters_merge_alike() {
    let temporary = tempfile::tempdir().unwrap();
    for case in Case::all() {
        let adapter = case.adapter();
        let directory = temporary.path().join(&case.name);
        adapter.save(&directory).unwrap();
        let again = Adapter::load(&directory).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(again.layers, adapter.layers, "{}", case.name);
        assert_eq!(again.replaced, adapter.replaced, "{}", case.name);
        assert_eq!(again.config.token_indices, adapter.config.token_indices, "{}", case.name);
    }
}

/// A copy of a case's adapter or base whose JSON `change` has changed.
fn changed(from: &Path, file: &str, change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join(file);
    let mut keys = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut keys);
    std::fs::write(&path, Value::Object(keys).to_string()).unwrap();
    copy
}

fn refusal(base: &Checkpoint, adapter: &Adapter) -> String {
    Edit::merge(base, &weighted(adapter), EditOptions::default()).unwrap_err().to_string()
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let case = Case::named("tokens");
    let base = case.base();
    for (indices, words) in [
        (json!([3, 5]), "a row for each of `trainable_token_indices`"),
        (json!([3, 5, 40]), "40 is out of range"),
        (json!({ "lm_head": [3, 5, 39], "embed_tokens": [3] }), "a row for each"),
        (json!({ "lm_head": [1], "embed_tokens": [3, 5, 39] }), "no rows for `lm_head`"),
    ] {
        let directory = changed(&case.directory.join("adapter"), "adapter_config.json", |keys| {
            keys.insert("trainable_token_indices".into(), indices.clone());
        });
        let adapter = Adapter::load(directory.path()).unwrap();
        let message = refusal(&base, &adapter);
        assert!(message.contains(words), "{indices}: {message}");
    }
    let directory = changed(&case.directory.join("adapter"), "adapter_config.json", |keys| {
        keys.remove("trainable_token_indices");
    });
    assert!(matches!(Adapter::load(directory.path()), Err(Error::Tensor { .. })));
    // A part of rows cannot be put in.
    let adapter = case.adapter();
    let half = [Weighted { name: "half".into(), adapter: &adapter, weight: 0.5 }];
    assert!(Edit::merge(&base, &half, EditOptions::default()).is_err());
}

/// An embedding with more rows beside a head that the file lacks: nobody knows the head's further rows.
#[test]
fn a_vocabulary_of_which_the_file_has_a_part_is_refused() {
    let case = Case::named("added-target");
    let mut adapter = case.adapter();
    adapter.layers.remove("lm_head");
    adapter.replaced.remove("lm_head.weight");
    adapter.config.target_modules =
        Some(ModuleNames::List(["q_proj", "v_proj", "embed_tokens"].map(str::to_owned).to_vec()));
    let message = refusal(&case.base(), &adapter);
    assert!(message.contains("`lm_head.weight`") && message.contains("resize_token_embeddings"), "{message}");
    // And of rows that are in no file.
    let mut adapter = case.adapter();
    adapter.replaced.clear();
    assert!(refusal(&case.base(), &adapter).contains("do not fit the base weight"));
}

#[test]
fn a_head_of_unknown_name_is_refused() {
    let case = Case::named("bloom-save");
    // One of a known type may be of a class of one's own.
    let base = changed(&case.directory.join("base"), "config.json", |config| {
        config.insert("architectures".into(), json!(["MyForCausalLM"]));
    });
    let (base, adapter) = (Checkpoint::open(base.path()).unwrap(), case.adapter());
    let edit = Edit::merge(&base, &weighted(&adapter), EditOptions::default()).unwrap();
    assert!(edit.changed().any(|name| name == "lm_head.weight"));
    let base = changed(&case.directory.join("base"), "config.json", |config| {
        config.insert("model_type".into(), json!("another"));
        config.insert("architectures".into(), json!(["AnotherForCausalLM"]));
    });
    let message = refusal(&Checkpoint::open(base.path()).unwrap(), &case.adapter());
    assert!(message.contains("output head of unknown name"), "{message}");
}

#[test]
fn a_class_without_a_head_parts_nothing() {
    let case = Case::named("bloom-save");
    let base = changed(&case.directory.join("base"), "config.json", |config| {
        config.insert("architectures".into(), json!(["BloomForSequenceClassification"]));
    });
    let (base, adapter) = (Checkpoint::open(base.path()).unwrap(), case.adapter());
    let edit = Edit::merge(&base, &weighted(&adapter), EditOptions::default()).unwrap();
    assert!(!edit.changed().any(|name| name == "lm_head.weight"));
}

/// Files of versions of transformers before 4.52 have the language model of a vision-language model elsewhere.
#[test]
fn a_head_is_named_as_the_file_names_its_embedding() {
    let case = Case::named("qwen3-vl-embed");
    let mut adapter = case.adapter();
    let base = case.base();
    for (embedding, head) in [
        ("language_model.model.embed_tokens", "language_model.lm_head.weight"),
        ("model.embed_tokens", "lm_head.weight"),
        ("wrapped.model.language_model.embed_tokens", "wrapped.lm_head.weight"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let values = base.tensor("model.language_model.embed_tokens.weight").unwrap();
        let name = format!("{embedding}.weight");
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            values.shape().to_vec(),
            values.bytes(),
        );
        let bytes = safetensors::serialize([(name.as_str(), view.unwrap())], None).unwrap();
        std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
        let config = Value::Object(base.model_config().clone()).to_string();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        adapter.layers.clear();
        adapter.config.target_modules = None;
        let saved = adapter.replaced.values().next().unwrap().clone();
        adapter.replaced = [(name, saved)].into();
        adapter.config.modules_to_save = vec!["embed_tokens".into()];
        let base = Checkpoint::open(directory.path()).unwrap();
        let edit = Edit::merge(&base, &weighted(&adapter), EditOptions::default()).unwrap();
        assert!(edit.changed().any(|name| name == head), "{embedding}");
    }
}

#[test]
fn an_adapter_that_changes_nothing_is_told() {
    let case = Case::named("tokens");
    let (base, adapter) = (case.base(), case.adapter());
    let notes = |adapter: &Adapter, weight: f64| {
        let weighted = [Weighted { name: "dead".into(), adapter, weight }];
        Edit::merge(&base, &weighted, EditOptions::default()).unwrap().notes()
    };
    let dead = vec![Note::NothingChanges { adapter: "dead".into() }];
    assert_eq!(notes(&adapter, 1.0), []);
    let mut plain = adapter.clone();
    plain.replaced.clear();
    plain.config.token_indices = None;
    assert_eq!(notes(&plain, 1.0), []);
    assert_eq!(notes(&plain, 0.0), dead);
    for layer in plain.layers.values_mut() {
        layer.b = Tensor::zeros(layer.b.dtype(), layer.b.shape());
    }
    assert_eq!(notes(&plain, 1.0), dead);
    // Trained rows are a change.
    let mut rows = adapter;
    rows.layers = plain.layers;
    assert_eq!(notes(&rows, 1.0), []);
}

#[test]
fn the_head_of_a_classifier_is_in_the_configuration() {
    let case = Case::named("tokens");
    for (task, labels, head, class) in [
        (json!("SEQ_CLS"), 1, "score", "LlamaForSequenceClassification"),
        (json!("TOKEN_CLS"), 5, "score", "LlamaForTokenClassification"),
        (json!("SEQ_CLS"), 2, "score", "LlamaForSequenceClassification"),
        (json!("QUESTION_ANS"), 2, "qa_outputs", "LlamaForQuestionAnswering"),
        (json!(null), 3, "score", "LlamaForSequenceClassification"),
    ] {
        let mut adapter = case.adapter();
        adapter.config.token_indices = None;
        adapter.config.modules_to_save = vec![head.into()];
        adapter.config.other.insert("task_type".into(), task.clone());
        adapter.replaced = [(format!("{head}.weight"), Tensor::zeros(DType::F32, &[labels, 16]))].into();
        let base = case.base();
        let edit = Edit::merge(&base, &weighted(&adapter), EditOptions::default()).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let summary = edit.write(&Cpu::new(), &temporary.path().join("out"), &Progress::new()).unwrap();
        assert!(
            matches!(summary.notes.as_slice(), [Note::NewHead { labels: l, class: Some(c), .. }] if (*l, c.as_str()) == (labels, class)),
            "{:?}",
            summary.notes
        );
        let merged = Checkpoint::open(&temporary.path().join("out")).unwrap();
        let config = merged.model_config();
        assert_eq!(config["architectures"], json!([class]));
        let names = config.get("id2label").map(|names| names.as_object().unwrap().len());
        assert_eq!(names, (labels != 2).then_some(labels), "{task}");
    }
}

#[test]
fn mica_trains_a_only() {
    let case = Case::named("mica");
    let mut model = LoraModel::new(case.base());
    model.add_adapter(&Cpu::new(), "one", case.adapter()).unwrap();
    model.set_trainable("one", true).unwrap();
    let report = model.trainable();
    assert!(
        !report.tensors.is_empty() && report.tensors.keys().all(|name| name.ends_with("lora_A")),
        "{report:?}"
    );
}

#[test]
fn blocks_that_do_not_fit_are_refused() {
    let case = Case::named("bdlora");
    for (key, value, words) in [
        ("nblocks", json!(3), "which are not 3 equal blocks"),
        ("target_modules_bd_a", json!(["o_proj", "q_"]), "blocks in both A and B"),
        ("nblocks", json!(4), "to fit A"),
    ] {
        let directory = changed(&case.directory.join("adapter"), "adapter_config.json", |keys| {
            keys["use_bdlora"][key] = value.clone();
        });
        let error = Adapter::load(directory.path()).and_then(|adapter| {
            let base = case.base();
            Edit::merge(&base, &weighted(&adapter), EditOptions::default()).map(|_| ())
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains(words), "{key}: {message}");
    }
}

#[test]
fn adapters_that_do_not_go_together_are_refused() {
    let refused = |base: &Checkpoint, one: &Adapter, two: &Adapter| {
        let both = [("one", one), ("two", two)];
        let both = both.map(|(name, adapter)| Weighted { name: name.into(), adapter, weight: 1.0 });
        Edit::merge(base, &both, EditOptions::default()).unwrap_err().to_string()
    };
    // A layer for as many tokens as the base has, and an embedding with more.
    let added = Case::named("added");
    let mut layer = Case::named("tokens").adapter();
    layer.config.token_indices = None;
    layer.replaced.clear();
    layer.config.target_modules = Some(ModuleNames::List(vec!["embed_tokens".into()]));
    layer.layers = [(
        "model.embed_tokens".to_owned(),
        AdapterLayer {
            a: Tensor::zeros(DType::F32, &[2, 40]),
            b: Tensor::zeros(DType::F32, &[16, 2]),
            bias: None,
            magnitude: None,
            embedding: true,
        },
    )]
    .into();
    let message = refused(&added.base(), &added.adapter(), &layer);
    assert!(message.contains("which the layer of `two` does not fit"), "{message}");
    // Tokens of all that is tied, and an embedding that parts from its head.
    let tied = Case::named("tokens-tied-shards");
    let mut parting = tied.adapter();
    parting.config.token_indices = None;
    parting.config.modules_to_save = vec!["embed_tokens".into()];
    parting.replaced =
        [("model.embed_tokens.weight".to_owned(), Tensor::zeros(DType::F32, &[40, 16]))].into();
    let message = refused(&tied.base(), &tied.adapter(), &parting);
    assert!(message.contains("merge one after the other"), "{message}");
    // Two that replace rows of one embedding.
    let message = refused(&tied.base(), &tied.adapter(), &tied.adapter());
    assert!(message.contains("both `one` and `two` replace it"), "{message}");
}

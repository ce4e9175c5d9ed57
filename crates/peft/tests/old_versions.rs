//! Adapters that old versions of PEFT saved (`golden/old`), and adapters that old versions are to load.

mod common;

use common::{doubles, golden, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::adapter::{BiasMode, Init, ModuleNames};
use lora_peft::{Adapter, AdapterConfig, Checkpoint, Edit, EditOptions, LoraModel, Note, Progress, Weighted};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One directory below `golden/old/VERSION`.
struct Case {
    name: String,
    directory: PathBuf,
    description: Value,
}

impl Case {
    fn base(&self) -> Checkpoint {
        base(&self.description)
    }
}

fn base(description: &Value) -> Checkpoint {
    Checkpoint::open(&golden().join("bases").join(description["base"].as_str().unwrap())).unwrap()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn cases() -> Vec<Case> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut cases = Vec::new();
    for version in entries(&golden().join("old")) {
        for directory in entries(&version) {
            let text = std::fs::read(directory.join("case.json")).unwrap();
            cases.push(Case {
                name: format!("{}/{}", name(&version), name(&directory)),
                description: serde_json::from_slice(&text).unwrap(),
                directory,
            });
        }
    }
    assert!(cases.len() >= 20);
    cases
}

fn merge(base: &Checkpoint, adapter: &Adapter, out: &Path) -> Checkpoint {
    let weighted = [Weighted { name: "adapter".into(), adapter, weight: 1.0 }];
    let edit = Edit::merge(base, &weighted, EditOptions::default()).unwrap();
    edit.write(&Cpu::new(), out, &Progress::new()).unwrap();
    Checkpoint::open(out).unwrap()
}

/// Where what is saved stays for `generate_old.py --check`, if it is to stay.
fn root(temporary: &tempfile::TempDir) -> PathBuf {
    std::env::var_os("LORA_PEFT_OLD_SAVE_DIRECTORY").map_or(temporary.path().to_owned(), PathBuf::from)
}

#[test]
fn adapters_of_old_versions_merge_as_there() {
    let temporary = tempfile::tempdir().unwrap();
    for case in cases() {
        let base = case.base();
        let adapter = Adapter::load(&case.directory.join("adapter"))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let ours = merge(&base, &adapter, &temporary.path().join(&case.name).join("merged"));
        if case.name == "0.10.0/two-patterns" {
            patterns_count_separately(&base, &adapter, &ours);
            continue;
        }
        let theirs = Checkpoint::open(&case.directory.join("merged.safetensors")).unwrap();
        let mut compared = 0;
        for name in ours.tensors().keys() {
            let Ok(expected) = theirs.tensor(name) else {
                assert_eq!(*ours.bytes(name).unwrap(), *base.bytes(name).unwrap(), "{}: {name}", case.name);
                continue;
            };
            compared += 1;
            let (ours, theirs) = (doubles(&ours.tensor(name).unwrap()), doubles(&expected));
            let bound = 1e-6 * largest(&theirs);
            let close = ours.iter().zip(&theirs).all(|(one, two)| (one - two).abs() <= bound);
            assert!(close && ours.len() == theirs.len(), "{}: {name}", case.name);
        }
        assert_eq!(compared, theirs.tensors().len(), "{}: tensors that PEFT changed", case.name);
    }
}

/// PEFT 0.10 takes the first of all patterns that matches for the rank and for α; today's PEFT, which loads the same
/// file, looks for each by itself.
fn patterns_count_separately(base: &Checkpoint, adapter: &Adapter, merged: &Checkpoint) {
    for (module, layer) in &adapter.layers {
        let name = format!("{module}.weight");
        let (old, new) = (doubles(&base.tensor(&name).unwrap()), doubles(&merged.tensor(&name).unwrap()));
        let (a, b) = (doubles(&layer.a), doubles(&layer.b));
        let (rank, input) = (layer.a.shape()[0], layer.a.shape()[1]);
        assert_eq!(rank, 2);
        for (index, new) in new.iter().enumerate() {
            let (o, i) = (index / input, index % input);
            let sum: f64 = (0..rank).map(|k| b[o * rank + k] * a[k * input + i]).sum();
            let expected = old[index] + 3.0 / 2.0 * sum;
            assert!((new - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}[{index}]");
        }
    }
}

#[test]
fn resaved_adapters_keep_to_the_version_they_came_from() {
    let temporary = tempfile::tempdir().unwrap();
    let root = root(&temporary);
    for case in cases() {
        let source = case.directory.join("adapter");
        let out = root.join(&case.name);
        let adapter = Adapter::load(&source).unwrap();
        adapter.save(&out.join("adapter")).unwrap();
        let keys = |path: &Path| -> BTreeSet<String> {
            let text = std::fs::read(path.join("adapter_config.json")).unwrap();
            let config: serde_json::Map<String, Value> = serde_json::from_slice(&text).unwrap();
            config.keys().cloned().collect()
        };
        let (ours, theirs) = (keys(&out.join("adapter")), keys(&source));
        assert!(ours.is_subset(&theirs), "{}: {:?}", case.name, ours.difference(&theirs));
        let again = Adapter::load(&out.join("adapter")).unwrap();
        assert_eq!((&again.layers, &again.replaced), (&adapter.layers, &adapter.replaced), "{}", case.name);
        merge(&case.base(), &again, &out.join("merged"));
        std::fs::write(out.join("case.json"), case.description.to_string()).unwrap();
    }
}

fn names(names: &[&str]) -> Option<ModuleNames> {
    Some(ModuleNames::List(names.iter().map(|name| (*name).to_owned()).collect()))
}

/// Keys of PEFT 0.10's `LoraConfig`.
const KEYS_OF_0_10: [&str; 24] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

#[test]
fn new_adapters_say_nothing_that_peft_0_10_does_not_know() {
    let temporary = tempfile::tempdir().unwrap();
    let root = root(&temporary);
    let config = AdapterConfig { rank: 3, alpha: 5.0, init: Init::Random, ..Default::default() };
    let attention = names(&["q_proj", "o_proj"]);
    for (name, model, config) in [
        ("plain", "llama", AdapterConfig { target_modules: attention.clone(), ..config.clone() }),
        (
            "rslora",
            "llama",
            AdapterConfig { target_modules: attention.clone(), rank_stabilized: true, ..config.clone() },
        ),
        ("dora", "llama", AdapterConfig { target_modules: attention.clone(), dora: true, ..config.clone() }),
        (
            "patterns",
            "llama",
            AdapterConfig {
                target_modules: names(&["q_proj", "up_proj"]),
                rank_pattern: vec![("layers.1.self_attn.q_proj".into(), 2)],
                alpha_pattern: vec![("up_proj".into(), 2.5)],
                ..config.clone()
            },
        ),
        (
            "layers",
            "llama",
            AdapterConfig {
                target_modules: attention.clone(),
                layers_to_transform: Some(vec![1]),
                layers_pattern: vec!["layers".into()],
                ..config.clone()
            },
        ),
        (
            "all-linear",
            "llama",
            AdapterConfig {
                target_modules: Some(ModuleNames::Pattern("all-linear".into())),
                ..config.clone()
            },
        ),
        ("embedding", "llama", AdapterConfig { target_modules: names(&["embed_tokens"]), ..config.clone() }),
        (
            "saved",
            "llama",
            AdapterConfig {
                target_modules: attention.clone(),
                modules_to_save: vec!["lm_head".into()],
                ..config.clone()
            },
        ),
        (
            "bias-all",
            "llama-biased",
            AdapterConfig { target_modules: attention, bias: BiasMode::All, ..config.clone() },
        ),
        (
            "conv1d",
            "gpt2",
            AdapterConfig { target_modules: names(&["c_attn"]), fan_in_fan_out: true, ..config.clone() },
        ),
        ("conv", "conv", AdapterConfig { target_modules: names(&["first", "point"]), ..config }),
    ] {
        let out = root.join("new").join(name);
        let description = json!({ "base": format!("{model}-f32"), "model": model, "dtype": "f32" });
        let mut lora = LoraModel::new(base(&description));
        lora.create_adapter(&Cpu::new(), "new", config, 1).unwrap();
        lora.save_adapter("new", &out.join("adapter")).unwrap();
        let text = std::fs::read(out.join("adapter/adapter_config.json")).unwrap();
        let saved: serde_json::Map<String, Value> = serde_json::from_slice(&text).unwrap();
        for key in saved.keys() {
            assert!(KEYS_OF_0_10.contains(&key.as_str()), "{name}: {key}");
        }
        let adapter = Adapter::load(&out.join("adapter")).unwrap();
        merge(&base(&description), &adapter, &out.join("merged"));
        std::fs::write(out.join("case.json"), description.to_string()).unwrap();
    }
}

#[test]
fn biases_that_old_versions_lost_are_told() {
    let case = cases().into_iter().find(|case| case.name == "0.10.0/bias-only").unwrap();
    let (base, adapter) = (case.base(), Adapter::load(&case.directory.join("adapter")).unwrap());
    let weighted = [Weighted { name: "old".into(), adapter: &adapter, weight: 1.0 }];
    let edit = Edit::merge(&base, &weighted, EditOptions::default()).unwrap();
    let notes = edit.notes();
    assert!(
        matches!(notes.as_slice(), [Note::LostBiases { adapter, count: 2, first }]
            if adapter == "old" && first.contains("o_proj.bias")),
        "{notes:?}"
    );
    assert!(notes[0].to_string().contains("2 of them"), "{}", notes[0]);
    let temporary = tempfile::tempdir().unwrap();
    let summary = edit.write(&Cpu::new(), &temporary.path().join("out"), &Progress::new()).unwrap();
    assert_eq!(summary.notes, notes);
    let plain = cases().into_iter().find(|case| case.name == "0.10.0/plain").unwrap();
    let (base, adapter) = (plain.base(), Adapter::load(&plain.directory.join("adapter")).unwrap());
    let weighted = [Weighted { name: "old".into(), adapter: &adapter, weight: 1.0 }];
    assert!(Edit::merge(&base, &weighted, EditOptions::default()).unwrap().notes().is_empty());
}

//! Names and patterns that are made to reach the terminal, or to fill it.

mod common;

use common::{Run, changed_adapter, golden, large, lora, open};
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::tensor::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Clears the screen in two ways, claims success on a line of its own, and turns the direction of what follows.
const HOSTILE: &str = "\u{1b}[2J\u{9b}2J\r\nExact: all is well\u{7f}\u{202e}";

/// Nothing but text and ends of lines is printed, and no line is longer than a paragraph.
#[track_caller]
fn is_harmless(run: Run) -> String {
    let text = run.stdout + &run.stderr;
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("Exact")), "{text}");
    let longest = text.lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 5000, "{longest} characters: {text}");
    text
}

fn merge(base: &Path, adapter: &Path) -> Run {
    let directory = tempfile::tempdir().unwrap();
    lora(
        "merge --base {} --adapter {} --out {} --device cpu",
        &[base, adapter, &directory.path().join("out")],
    )
}

#[test]
fn long_patterns_and_values_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let changed = directory.path().join("adapter");
    let (base, adapter) = (golden("bases/llama-bf16"), golden("cases/llama-bf16/adapter"));
    let long = "(".repeat(200_000);
    for (key, value, named) in [
        ("target_modules", json!(long), "target_modules"),
        ("exclude_modules", json!(long), "exclude_modules"),
        ("rank_pattern", json!({ &long: 4 }), "rank_pattern"),
        ("peft_type", json!(long), "peft_type"),
        ("bias", json!(long), "bias"),
        ("init_lora_weights", json!(long), "init_lora_weights"),
        (long.as_str(), json!(1), "(((("),
        ("target_modules", json!([long]), ""),
    ] {
        changed_adapter(&adapter, &changed, key, value);
        let run = merge(&base, &changed).fails(1, &[named]);
        is_harmless(run);
        is_harmless(lora("info {}", &[&changed]));
        is_harmless(lora("info {} {}", &[&base, &changed]));
    }
}

#[test]
fn control_characters_of_configurations_are_escaped() {
    let directory = tempfile::tempdir().unwrap();
    let changed = directory.path().join("adapter");
    let (base, adapter) = (golden("bases/llama-bf16"), golden("cases/llama-bf16/adapter"));
    for (key, value) in [
        (HOSTILE, json!(1)),
        ("target_modules", json!(format!("({HOSTILE}"))),
        ("target_modules", json!([HOSTILE])),
        ("rank_pattern", json!({ format!("({HOSTILE}"): 4 })),
        ("bias", json!(HOSTILE)),
        ("peft_type", json!(HOSTILE)),
    ] {
        changed_adapter(&adapter, &changed, key, value);
        is_harmless(merge(&base, &changed).fails(1, &[]));
        is_harmless(lora("info {} {}", &[&base, &changed]));
    }
    changed_adapter(&adapter, &changed, "base_model_name_or_path", json!(HOSTILE));
    let text = is_harmless(lora("info {}", &[&changed]).succeeds());
    assert!(text.contains(r"\u001b[2J\u009b2J\r\nExact: all is well\u007f\u202e"), "{text}");
    // JSON stays what it was.
    let run = lora("info --json {}", &[&changed]).succeeds();
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found[0]["config"]["base_model_name_or_path"], HOSTILE);
    is_harmless(run);
}

/// A checkpoint and an adapter of it whose modules have such a name.
fn hostile_model(directory: &Path, module: &str) {
    std::fs::create_dir_all(directory.join("base")).unwrap();
    std::fs::create_dir_all(directory.join("adapter")).unwrap();
    let write = |path: &str, tensors: &[(String, [usize; 2])]| {
        let outline = |(name, shape): &(String, [usize; 2])| Outline {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        };
        let outlines: Vec<_> = tensors.iter().map(outline).collect();
        let mut writer = ShardWriter::create(&directory.join(path), &BTreeMap::new(), &outlines).unwrap();
        outlines.iter().for_each(|outline| writer.write(&vec![0; outline.bytes() as usize]).unwrap());
        writer.finish().unwrap();
    };
    write(
        "base/model.safetensors",
        &[(format!("{module}.weight"), [8, 8]), (format!("{module}2.weight"), [8, 8])],
    );
    let key = |factor: &str| format!("base_model.model.{module}.{factor}.weight");
    write("adapter/adapter_model.safetensors", &[(key("lora_A"), [4, 8]), (key("lora_B"), [8, 4])]);
    std::fs::write(directory.join("base/config.json"), json!({ "model_type": HOSTILE }).to_string()).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [module] });
    std::fs::write(directory.join("adapter/adapter_config.json"), config.to_string()).unwrap();
}

#[test]
fn names_of_tensors_and_adapters_are_escaped_and_cut() {
    for module in [HOSTILE.to_owned(), "long".repeat(5000)] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        hostile_model(directory.path(), &module);
        is_harmless(lora("info {} {}", &[&path("base"), &path("adapter")]).succeeds());
        is_harmless(lora("info {} {}", &[&golden("bases/llama-bf16"), &path("adapter")]).fails(1, &[]));
        let run = merge(&golden("bases/llama-bf16"), &path("adapter")).fails(1, &[]);
        is_harmless(run);
        std::fs::rename(path("adapter"), path("an\u{1b}[2J\nExact")).unwrap();
        let line = "merge --base {} --adapter {} --out {} --exact --report --device cpu";
        let run = lora(line, &[&path("base"), &path("an\u{1b}[2J\nExact"), &path("out\u{1b}\nExact")]);
        is_harmless(run.succeeds());
        is_harmless(lora("info {}", &[&path("out\u{1b}\nExact")]).succeeds());
    }
}

#[test]
fn names_of_files_are_escaped() {
    let directory = tempfile::tempdir().unwrap();
    let [base, adapter] = large(directory.path(), 1, 16);
    let out = directory.path().join("out");
    for name in ["a\u{1b}[2J\nExact", "b", "c", "d", "e", "f", "g"] {
        std::fs::write(base.join(name), "").unwrap();
    }
    let run = lora("merge --base {} --adapter {} --out {}", &[&base, &adapter, &out]).succeeds();
    let text = is_harmless(run);
    let words = r"Not copied, as of no known kind: `a\u001b[2J\nExact`, `b`, `c`, `d`, `e` and 2 more.";
    assert!(text.contains(words), "{text}");
    assert_eq!(open(&out).tensors().len(), 2);
    // Names in an index, which may be longer than the system allows.
    for name in [HOSTILE.to_owned(), "x".repeat(100_000)] {
        let index = json!({ "weight_map": { &name: format!("{name}.safetensors") } });
        std::fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
        is_harmless(lora("info {}", &[&base]).fails(1, &[]));
        let index = json!({ "weight_map": { &name: name } });
        std::fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
        is_harmless(lora("info {}", &[&base]).fails(1, &[]));
    }
}

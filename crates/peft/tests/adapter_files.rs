//! What lies beside an adapter and changes the model: further weights, and another tokenizer or chat template.

mod common;

use common::case;
use lora_kernels::cpu::Cpu;
use lora_peft::merge::{AdapterFileOptions, TokenizerOf};
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Note, Progress, Weighted};
use std::path::{Path, PathBuf};

const CASE: &str = "llama-attention";

struct Directories {
    root: tempfile::TempDir,
}

impl Directories {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for (name, source, files) in [
            ("base", case(CASE).base, ["config.json", "model.safetensors"]),
            (
                "adapter",
                case(CASE).directory.join("adapter"),
                ["adapter_config.json", "adapter_model.safetensors"],
            ),
        ] {
            std::fs::create_dir(root.path().join(name)).unwrap();
            files.iter().for_each(|file| {
                std::fs::copy(source.join(file), root.path().join(name).join(file)).unwrap();
            });
        }
        Directories { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Merges from `base`, and returns the notes.
    fn merge(
        &self,
        base: &str,
        directories: &[&str],
        options: AdapterFileOptions,
    ) -> Result<Vec<Note>, Error> {
        let checkpoint = Checkpoint::open(&self.path(base)).unwrap();
        let adapter = Adapter::load(&self.path("adapter")).unwrap();
        let weighted = [Weighted { name: "a".into(), adapter: &adapter, weight: 1.0 }];
        let mut edit = Edit::merge(&checkpoint, &weighted, EditOptions::default()).unwrap();
        let directories: Vec<PathBuf> = directories.iter().map(|name| self.path(name)).collect();
        let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
        let notes = edit.take_adapter_files(&directories, options)?;
        let out = self.path("out");
        if out.exists() {
            std::fs::remove_dir_all(&out).unwrap();
        }
        edit.write(&Cpu::new(), &out, &Progress::new())?;
        Ok(notes)
    }

    fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }
}

const BASE: AdapterFileOptions = AdapterFileOptions { tokenizer: TokenizerOf::Base, leave_weights: false };

#[test]
fn the_adapters_tokenizer_is_taken_unless_the_bases_is_asked_for() {
    let directories = Directories::new();
    for (name, base, adapter) in [
        ("tokenizer.json", Some(r#"{"a": 1, "b": 2}"#), Some(r#"{"a": 1, "b": 3}"#)),
        // The same, written otherwise.
        ("tokenizer_config.json", Some(r#"{"a": 1, "b": 2}"#), Some(r#"{ "b": 2, "a": 1 }"#)),
        ("chat_template.jinja", Some("base"), Some("adapter")),
        // The vocabulary in a form that only the base has.
        ("tokenizer.model", Some("old"), None),
        ("added_tokens.json", None, Some("{}")),
        ("generation_config.json", Some("{}"), Some(r#"{"a": 1}"#)),
    ] {
        base.into_iter().for_each(|text| directories.write(&format!("base/{name}"), text));
        adapter.into_iter().for_each(|text| directories.write(&format!("adapter/{name}"), text));
    }
    let notes = directories.merge("base", &["adapter"], AdapterFileOptions::default()).unwrap();
    let differing =
        ["added_tokens.json", "chat_template.jinja", "tokenizer.json"].map(str::to_owned).to_vec();
    let directory = directories.path("adapter");
    let note = |taken| Note::Tokenizer { directory: directory.clone(), files: differing.clone(), taken };
    assert_eq!(notes, [note(true)]);
    assert!(notes[0].to_string().contains("the adapter's is taken"), "{}", notes[0]);
    assert_eq!(directories.text("out/tokenizer.json").unwrap(), r#"{"a": 1, "b": 3}"#);
    assert_eq!(directories.text("out/chat_template.jinja").unwrap(), "adapter");
    assert_eq!(directories.text("out/added_tokens.json").unwrap(), "{}");
    assert_eq!(directories.text("out/tokenizer.model"), None);
    // No file of a tokenizer.
    assert_eq!(directories.text("out/generation_config.json").unwrap(), "{}");

    assert_eq!(directories.merge("base", &["adapter"], BASE).unwrap(), [note(false)]);
    assert_eq!(directories.text("out/tokenizer.json").unwrap(), r#"{"a": 1, "b": 2}"#);
    assert_eq!(directories.text("out/tokenizer.model").unwrap(), "old");
    assert_eq!(directories.text("out/added_tokens.json"), None);
    // A file without its directory has no tokenizer.
    let none =
        directories.merge("base/model.safetensors", &["adapter"], AdapterFileOptions::default()).unwrap();
    assert!(none.is_empty() && directories.text("out/tokenizer.json").is_none());
}

#[test]
fn a_template_alone_leaves_the_bases_vocabulary() {
    let directories = Directories::new();
    directories.write("base/tokenizer.model", "old");
    directories.write("adapter/chat_template.jinja", "adapter");
    let notes = directories.merge("base", &["adapter"], AdapterFileOptions::default()).unwrap();
    assert_eq!(notes.len(), 1);
    assert_eq!(directories.text("out/tokenizer.model").unwrap(), "old");
    assert_eq!(directories.text("out/chat_template.jinja").unwrap(), "adapter");
    // One like the base's is nothing to speak of.
    directories.write("base/chat_template.jinja", "adapter");
    assert!(directories.merge("base", &["adapter"], AdapterFileOptions::default()).unwrap().is_empty());
}

#[test]
fn two_adapters_with_different_tokenizers_are_refused() {
    let directories = Directories::new();
    std::fs::create_dir(directories.path("other")).unwrap();
    directories.write("adapter/tokenizer.json", "1");
    directories.write("other/tokenizer.json", "1");
    let both = ["adapter", "other"];
    assert_eq!(directories.merge("base", &both, AdapterFileOptions::default()).unwrap().len(), 1);
    directories.write("other/tokenizer.json", "2");
    let error = directories.merge("base", &both, AdapterFileOptions::default()).unwrap_err().to_string();
    assert!(error.contains("other") && error.contains("--tokenizer base"), "{error}");
    assert_eq!(directories.merge("base", &both, BASE).unwrap().len(), 2);
}

#[test]
fn weights_that_change_the_model_are_not_passed_over() {
    for name in ["non_lora_trainables.bin", "new_embeddings.safetensors", "mm_projector.bin"] {
        let directories = Directories::new();
        directories.write(&format!("adapter/{name}"), "");
        let error =
            directories.merge("base", &["adapter"], AdapterFileOptions::default()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("--leave-weights"), "{error}");
        assert!(!directories.path("out").exists());
        let leave = AdapterFileOptions { leave_weights: true, ..Default::default() };
        let notes = directories.merge("base", &["adapter"], leave).unwrap();
        let files = vec![name.to_owned()];
        assert_eq!(notes, [Note::WeightsLeft { directory: directories.path("adapter"), files }]);
    }
    // What is of no known meaning is named; a trainer's state is not.
    let directories = Directories::new();
    for name in [
        "value_head.safetensors",
        "optimizer.pt",
        "rng_state_0.pth",
        "training_args.bin",
        "adapter_model.bin",
    ] {
        directories.write(&format!("adapter/{name}"), "");
    }
    let notes = directories.merge("base", &["adapter"], AdapterFileOptions::default()).unwrap();
    let files = vec!["value_head.safetensors".to_owned()];
    assert_eq!(notes, [Note::WeightsLeft { directory: directories.path("adapter"), files }]);
}

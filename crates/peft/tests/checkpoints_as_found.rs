//! Checkpoints and adapters as they lie around: with names that wrappers have changed, in the hub's cache, with an index that
//! does not say everything, or not downloaded at all. What is certain is taken and said; the rest is refused with its cause.

mod common;

use common::{case, golden};
use lora_kernels::cpu::Cpu;
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Note, Progress, Weighted};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n";

/// The base and the adapter of the case that everything here is made from.
fn source() -> (PathBuf, PathBuf) {
    let case = case("llama-attention");
    let adapter = case.adapter_directories().remove(0);
    (case.base, adapter)
}

fn copied(from: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy_into(from, directory.path());
    directory
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Writes the tensors of a file that `rename` gives names into another one, and more beside them.
fn renamed(from: &Path, to: &Path, rename: impl Fn(&str) -> Option<String>, more: &[&str]) {
    let bytes = std::fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, TensorView<'_>)> =
        file.iter().filter_map(|(name, view)| Some((rename(name)?, view))).collect();
    let one = 1f32.to_le_bytes();
    for name in more {
        let view = TensorView::new(safetensors::Dtype::F32, vec![1, 1], &one).unwrap();
        tensors.push(((*name).to_owned(), view));
    }
    std::fs::write(to, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

fn merged(base: &Checkpoint, adapter: &Adapter) -> (TempDir, Checkpoint, Vec<Note>) {
    let adapters = [Weighted { name: "one".into(), adapter, weight: 1.0 }];
    let edit = Edit::merge(base, &adapters, EditOptions::default()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("merged");
    edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
    let notes = edit.notes();
    (root, Checkpoint::open(&out).unwrap(), notes)
}

/// The merge of a base and an adapter is that of the plain ones; gives what is said about it.
fn same_as_plain(base: &Path, adapter: &Path) -> Vec<Note> {
    let (plain_base, plain_adapter) = source();
    let plain_base = Checkpoint::open(&plain_base).unwrap();
    let (_one, expected, none) = merged(&plain_base, &Adapter::load(&plain_adapter).unwrap());
    assert!(none.is_empty(), "{none:?}");
    let base = Checkpoint::open(base).unwrap();
    let (_two, found, notes) = merged(&base, &Adapter::load(adapter).unwrap());
    assert!(found.notes().is_empty(), "{:?}", found.notes());
    assert!(found.tensors().keys().eq(expected.tensors().keys()));
    for name in expected.tensors().keys() {
        assert_eq!(*found.bytes(name).unwrap(), *expected.bytes(name).unwrap(), "{name}");
    }
    notes
}

fn says<T>(result: Result<T, Error>, words: &[&str]) {
    let message = result.err().expect("an error").to_string();
    for words in words {
        assert!(message.contains(words), "`{message}` does not say `{words}`");
    }
}

#[test]
fn wrapped_bases_are_read_and_come_out_without_wrappers() {
    let (plain, adapter) = source();
    let targets = ["q_proj.", "k_proj.", "v_proj.", "o_proj."];
    let peft = |name: &str| {
        let inside = targets.iter().find(|target| name.contains(*target));
        let name =
            inside.map_or(name.to_owned(), |target| name.replace(target, &format!("{target}base_layer.")));
        format!("base_model.model.{name}")
    };
    type Wrap<'a> = &'a dyn Fn(&str) -> String;
    let wrappers: [(Wrap<'_>, usize); 6] = [
        (&|name| format!("_orig_mod.{name}"), 1),
        (&|name| name.replace("layers.0.", "layers.0._orig_mod."), 1),
        (&|name| format!("module.{name}"), 1),
        (&|name| format!("module._orig_mod.{name}"), 2),
        (&|name| name.replace("self_attn.", "_fsdp_wrapped_module.self_attn._checkpoint_wrapped_module."), 2),
        (&peft, 1),
    ];
    for (wrap, notes) in wrappers {
        let base = copied(&plain);
        let file = base.path().join("model.safetensors");
        renamed(&plain.join("model.safetensors"), &file, |name| Some(wrap(name)), &[]);
        let found = same_as_plain(base.path(), &adapter);
        assert_eq!(found.len(), notes, "{found:?}");
        assert!(found.iter().all(|note| matches!(note, Note::Wrapped { .. })), "{found:?}");
    }
    // With an adapter that was not merged in it.
    let base = copied(&plain);
    let file = base.path().join("model.safetensors");
    let more = ["base_model.model.a.lora_A.default.weight", "base_model.model.a.lora_B.default.weight"];
    renamed(&plain.join("model.safetensors"), &file, |name| Some(peft(name)), &more);
    assert!(same_as_plain(base.path(), &adapter).contains(&Note::UnmergedAdapter { tensors: 2 }));
    // With modules twice nobody knows.
    let more = [
        "base_model.model.score.modules_to_save.default.weight",
        "base_model.model.score.original_module.weight",
    ];
    renamed(&plain.join("model.safetensors"), &file, |name| Some(peft(name)), &more);
    says(Checkpoint::open(base.path()), &["PEFT's wrapper", "merge_and_unload"]);
    // Names that fall together.
    renamed(
        &plain.join("model.safetensors"),
        &file,
        |name| Some(name.to_owned()),
        &["_orig_mod.lm_head.weight"],
    );
    says(Checkpoint::open(base.path()), &["found twice"]);
}

#[test]
fn wrapped_shards_are_read() {
    let (plain, adapter) = source();
    let base = sharded(|name| format!("_orig_mod.{name}"));
    let notes = same_as_plain(base.path(), &adapter);
    assert!(matches!(notes.as_slice(), [Note::Wrapped { .. }]), "{notes:?}");
    assert!(plain.exists());
}

#[test]
fn wrapped_adapters_are_read() {
    let (base, plain) = source();
    let name_after = |name: &str, adapter: &str| {
        name.replace("lora_A.", &format!("lora_A.{adapter}."))
            .replace("lora_B.", &format!("lora_B.{adapter}."))
    };
    let default = |name: &str| name_after(name, "default");
    let mine = |name: &str| name_after(name, "mine");
    let compiled = |name: &str| format!("_orig_mod.{name}");
    let inside = |name: &str| name.replace("base_model.model.", "base_model.model._orig_mod.");
    let parallel = |name: &str| format!("module.{}", name_after(name, "default"));
    let by_name = |name: &str| Note::AdapterName { name: name.to_owned() };
    type Wrap<'a> = &'a dyn Fn(&str) -> String;
    let wraps: [(Wrap<'_>, Option<Note>); 5] = [
        (&default, Some(by_name("default"))),
        (&mine, Some(by_name("mine"))),
        (&compiled, None),
        (&inside, None),
        (&parallel, Some(by_name("default"))),
    ];
    for (wrap, note) in wraps {
        let adapter = copied(&plain);
        let file = adapter.path().join("adapter_model.safetensors");
        renamed(&plain.join("adapter_model.safetensors"), &file, |name| Some(wrap(name)), &[]);
        let notes = same_as_plain(&base, adapter.path());
        assert!(!notes.is_empty() && note.is_none_or(|note| notes.contains(&note)), "{notes:?}");
    }
    // Of two adapters in one file, nobody knows which.
    let adapter = copied(&plain);
    let file = adapter.path().join("adapter_model.safetensors");
    let two = |name: &str| Some(if name.contains("q_proj") { default(name) } else { mine(name) });
    renamed(&plain.join("adapter_model.safetensors"), &file, two, &[]);
    says(Adapter::load(adapter.path()), &["several adapters", "`default` and `mine`"]);
}

#[test]
fn saved_modules_and_biases_may_have_the_adapters_name() {
    let case = case("llama-saved");
    let plain = case.adapter_directories().remove(0);
    let expected = Adapter::load(&plain).unwrap();
    assert!(!expected.replaced.is_empty());
    let in_memory = |name: &str| {
        let name = name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.");
        let saved = expected.replaced.keys().find(|saved| name == format!("base_model.model.{saved}"));
        Some(match saved.and_then(|saved| saved.rsplit_once('.')) {
            Some((module, last)) => format!("base_model.model.{module}.modules_to_save.default.{last}"),
            None => name,
        })
    };
    let adapter = copied(&plain);
    let file = adapter.path().join("adapter_model.safetensors");
    renamed(&plain.join("adapter_model.safetensors"), &file, in_memory, &[]);
    let found = Adapter::load(adapter.path()).unwrap();
    assert_eq!(found.layers, expected.layers);
    assert_eq!(found.replaced, expected.replaced);
    assert_eq!(found.notes, [Note::AdapterName { name: "default".into() }]);
}

/// The hub's cache of one model: files in `blobs`, links in a snapshot.
fn cache(of: &Path) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let snapshot = root.path().join("snapshots/abc123");
    for directory in ["blobs", "refs", "snapshots/abc123", "snapshots/older"] {
        std::fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    std::fs::write(root.path().join("refs/main"), "abc123").unwrap();
    for entry in std::fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        let blob = root.path().join("blobs").join(name);
        std::fs::copy(&path, &blob).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
        #[cfg(not(unix))]
        std::fs::copy(&blob, snapshot.join(name)).unwrap();
    }
    root
}

#[test]
fn roots_of_the_hubs_cache_are_their_snapshots() {
    let (base, adapter) = source();
    let (base, adapter) = (cache(&base), cache(&adapter));
    let note = Note::HubCache { snapshot: "snapshots/abc123".into() };
    assert_eq!(same_as_plain(base.path(), adapter.path()), std::slice::from_ref(&note));
    assert_eq!(Adapter::load(adapter.path()).unwrap().notes, [note]);
    std::fs::write(base.path().join("refs/main"), "gone").unwrap();
    says(Checkpoint::open(base.path()), &["hub cache", "2 snapshots", "snapshots/abc123"]);
    // An adapter where a base is wanted.
    says(Checkpoint::open(adapter.path()), &["it holds an adapter"]);
}

/// The plain base in two shards with an index.
fn sharded(rename: impl Fn(&str) -> String) -> TempDir {
    let (plain, _) = source();
    let directory = copied(&plain);
    let whole = plain.join("model.safetensors");
    std::fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    let names: Vec<String> = Checkpoint::open(&plain).unwrap().tensors().keys().cloned().collect();
    let shard_of = |name: &str| match name.contains("layers.1") {
        true => "model-00002-of-00002.safetensors",
        false => "model-00001-of-00002.safetensors",
    };
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let take = |name: &str| (shard_of(name) == shard).then(|| rename(name));
        renamed(&whole, &directory.path().join(shard), take, &[]);
    }
    let map: serde_json::Map<String, Value> =
        names.iter().map(|name| (rename(name), json!(shard_of(name)))).collect();
    write_index(directory.path(), &json!({ "metadata": {}, "weight_map": map }));
    directory
}

const INDEX: &str = "model.safetensors.index.json";

fn write_index(directory: &Path, index: &Value) {
    std::fs::write(directory.join(INDEX), index.to_string()).unwrap();
}

fn change_index(directory: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut index: Value = serde_json::from_slice(&std::fs::read(directory.join(INDEX)).unwrap()).unwrap();
    change(index["weight_map"].as_object_mut().unwrap());
    write_index(directory, &index);
}

fn plain_name(name: &str) -> String {
    name.to_owned()
}

#[test]
fn an_index_may_name_what_the_model_does_not_use() {
    let (_, adapter) = source();
    let shard = json!("model-00002-of-00002.safetensors");
    for (name, place) in [
        ("mtp.fc.weight", shard.clone()),
        ("mtp.fc.weight", json!("model-mtp.safetensors")),
        ("model.layers.99.eh_proj.weight", json!("model-00003-of-00003.safetensors")),
    ] {
        let base = sharded(plain_name);
        change_index(base.path(), |map| drop(map.insert(name.into(), place)));
        let notes = same_as_plain(base.path(), &adapter);
        assert_eq!(notes, [Note::AbsentTensors { example: name.into(), tensors: 1 }]);
    }
    // What it needs must be there.
    for (name, place) in [
        ("model.layers.1.mlp.extra.weight", shard),
        ("model.layers.1.mlp.extra.weight", json!("model-absent.safetensors")),
        ("lm_head.weight", json!("model-absent.safetensors")),
    ] {
        let base = sharded(plain_name);
        let words =
            if place == json!("model-absent.safetensors") { "model-absent.safetensors" } else { name };
        change_index(base.path(), |map| drop(map.insert(name.into(), place)));
        says(Checkpoint::open(base.path()), &[words]);
    }
}

#[test]
fn the_index_decides_between_copies() {
    let (plain, adapter) = source();
    let base = sharded(plain_name);
    // The right tensor in an overlay, and a wrong one of its name in the shard.
    let name = "model.layers.0.self_attn.q_proj.weight";
    let overlay = base.path().join("model-overlay.safetensors");
    renamed(&plain.join("model.safetensors"), &overlay, |one| (one == name).then(|| one.to_owned()), &[]);
    let shard = base.path().join("model-00001-of-00002.safetensors");
    let rest = base.path().join("rest.safetensors");
    renamed(&shard, &rest, |one| (one != name).then(|| one.to_owned()), &[name]);
    std::fs::rename(&rest, &shard).unwrap();
    change_index(base.path(), |map| drop(map.insert(name.into(), json!("model-overlay.safetensors"))));
    let copies = Note::OtherCopies {
        file: "model-00001-of-00002.safetensors".into(),
        example: name.into(),
        tensors: 1,
    };
    assert_eq!(same_as_plain(base.path(), &adapter), [copies]);
    // A file that the index does not name is not used.
    change_index(base.path(), |map| drop(map.insert(name.into(), json!("model-00001-of-00002.safetensors"))));
    let notes = Checkpoint::open(base.path()).unwrap().notes().to_vec();
    assert_eq!(notes, [Note::NotIndexed { file: "model-overlay.safetensors".into() }]);
}

#[test]
fn shards_without_an_index_are_read_if_all_are_there() {
    let (_, adapter) = source();
    let base = sharded(plain_name);
    std::fs::remove_file(base.path().join(INDEX)).unwrap();
    assert_eq!(same_as_plain(base.path(), &adapter), [Note::NoIndex { shards: 2 }]);
    std::fs::remove_file(base.path().join("model-00001-of-00002.safetensors")).unwrap();
    says(Checkpoint::open(base.path()), &["shard 1 of 2 is missing"]);
    std::fs::rename(
        base.path().join("model-00002-of-00002.safetensors"),
        base.path().join("some.safetensors"),
    )
    .unwrap();
    says(Checkpoint::open(base.path()), &["no checkpoint", "`some.safetensors` can be given itself"]);
}

#[test]
fn files_that_were_not_downloaded_are_named() {
    let (plain, adapter) = source();
    let pointer = |directory: &Path, file: &str| std::fs::write(directory.join(file), POINTER).unwrap();
    for file in ["model.safetensors", "config.json"] {
        let base = copied(&plain);
        pointer(base.path(), file);
        says(Checkpoint::open(base.path()), &[file, "Git LFS pointer", "123 bytes", "git lfs pull"]);
    }
    for file in [INDEX, "model-00002-of-00002.safetensors"] {
        let base = sharded(plain_name);
        pointer(base.path(), file);
        says(Checkpoint::open(base.path()), &[file, "Git LFS pointer"]);
    }
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let adapter = copied(&adapter);
        pointer(adapter.path(), file);
        says(Adapter::load(adapter.path()), &[file, "Git LFS pointer"]);
    }
}

#[test]
fn other_formats_are_named_with_the_way_out() {
    let formats: [(&str, &[u8], &str); 5] = [
        ("model.gguf", b"GGUF\x03\0\0\0rest", "convert_hf_to_gguf.py"),
        ("pytorch_model.bin", b"PK\x03\x04rest", "torch.save"),
        ("model.pth", b"\x80\x02}q\0.", "torch.save"),
        ("model.safetensors", b"<!DOCTYPE html>\n<html></html>", "web page"),
        ("model.safetensors", b"GGUF\x03\0\0\0rest", "GGUF"),
    ];
    for (name, bytes, words) in formats {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        says(Checkpoint::open(&path), &[name, words]);
        says(Checkpoint::open(directory.path()), &[name, words]);
    }
}

#[test]
fn doubles_are_refused_as_what_they_are_and_copied_where_nothing_changes_them() {
    let (plain, adapter) = source();
    let base = copied(&plain);
    let file = base.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let in_doubles = |name: &str| {
        let values = read
            .tensor(name)
            .unwrap()
            .data()
            .chunks(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        values.flat_map(|value| f64::from(value).to_le_bytes()).collect::<Vec<u8>>()
    };
    let write = |changed: &str| {
        let doubles = in_doubles(changed);
        let tensors = read.iter().map(|(name, view)| match name == changed {
            true => {
                (name, TensorView::new(safetensors::Dtype::F64, view.shape().to_vec(), &doubles).unwrap())
            }
            false => (name, view),
        });
        std::fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
        Checkpoint::open(base.path()).unwrap()
    };
    let adapter = Adapter::load(&adapter).unwrap();
    let touched = "model.layers.0.self_attn.q_proj.weight";
    says(lora_peft::binding::fit(&adapter, &write(touched)), &[touched, "F64", "F32"]);
    let base = write("model.norm.weight");
    let (_root, merged, _) = merged(&base, &adapter);
    assert_eq!(*merged.bytes("model.norm.weight").unwrap(), *base.bytes("model.norm.weight").unwrap());
    assert_eq!(merged.info("model.norm.weight").unwrap().dtype, safetensors::Dtype::F64);
}

#[test]
fn adapters_of_grouped_convolutions_are_named_so() {
    let (source, directory) = (golden().join("cases/conv/adapter"), tempfile::tempdir().unwrap());
    std::fs::copy(source.join("adapter_config.json"), directory.path().join("adapter_config.json")).unwrap();
    let config: Value =
        serde_json::from_slice(&std::fs::read(source.join("adapter_config.json")).unwrap()).unwrap();
    let rank = config["r"].as_u64().unwrap() as usize;
    assert!(rank.is_multiple_of(2));
    let bytes = vec![0; 4 * rank * 3 * 9];
    let a = TensorView::new(safetensors::Dtype::F32, vec![rank, 3, 3, 3], &bytes).unwrap();
    let b = TensorView::new(safetensors::Dtype::F32, vec![6, rank / 2, 1, 1], &bytes[..4 * 6 * rank / 2])
        .unwrap();
    let tensors = [("base_model.model.first.lora_A.weight", a), ("base_model.model.first.lora_B.weight", b)];
    let file = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(directory.path().join("adapter_model.safetensors"), file).unwrap();
    says(Adapter::load(directory.path()), &["`first`", "grouped convolution", "cannot be merged"]);
}

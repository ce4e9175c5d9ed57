//! Files that others replace, write to or shorten while they are in use.

mod common;

use common::case;
use lora_kernels::cpu::Cpu;
use lora_kernels::memory::Host;
use lora_kernels::ops::{BackwardSiblings, Conversion, Delta, ForwardSiblings};
use lora_kernels::{Backend, Frozen, MergeReport, WeightUpdate};
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::making::{ExtractOptions, extract};
use lora_peft::tensor::Tensor;
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Progress, Weighted};
use serde_json::{Map, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// The base of a golden case in two shards. With `shifted`, their tensors lie elsewhere and are zero.
fn sharded(directory: &Path, shifted: bool) {
    let source = Checkpoint::open(&case("llama-attention").base).unwrap();
    std::fs::create_dir(directory).unwrap();
    let names: Vec<&String> = source.tensors().keys().collect();
    let mut map = Map::new();
    for (part, shard) in names.chunks(names.len().div_ceil(2)).zip(SHARDS) {
        let mut part = part.to_vec();
        if shifted {
            part.reverse();
        }
        let outline = |name: &&String| {
            let info = source.info(name).unwrap();
            Outline { name: (*name).clone(), dtype: info.dtype, shape: info.shape.clone() }
        };
        let outlines: Vec<Outline> = part.iter().map(outline).collect();
        let mut writer = ShardWriter::create(&directory.join(shard), &BTreeMap::new(), &outlines).unwrap();
        for name in part {
            let bytes = source.bytes(name).unwrap();
            writer.write(&if shifted { vec![0; bytes.len()] } else { bytes }).unwrap();
            map.insert(name.clone(), json!(shard));
        }
        writer.finish().unwrap();
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    std::fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::copy(case("llama-attention").base.join("config.json"), directory.join("config.json")).unwrap();
}

/// A directory with `base` and the shards that will take the place of its own in `new`.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    sharded(&root.path().join("base"), false);
    sharded(&root.path().join("new"), true);
    root
}

fn replace_shards(root: &Path) {
    for shard in SHARDS {
        std::fs::rename(root.join("new").join(shard), root.join("base").join(shard)).unwrap();
    }
}

/// Other bytes at the end of a shard, whose length stays.
fn write_into(root: &Path) {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = std::fs::File::options().write(true).open(root.join("base").join(SHARDS[1])).unwrap();
    file.seek(SeekFrom::End(-4)).unwrap();
    file.write_all(&[1; 4]).unwrap();
    // Clocks of file systems are coarse.
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
}

fn shorten(root: &Path) {
    for shard in SHARDS {
        std::fs::File::options()
            .write(true)
            .open(root.join("base").join(shard))
            .unwrap()
            .set_len(100)
            .unwrap();
    }
}

fn replace_configuration(root: &Path) {
    let path = root.join("base/config.json");
    std::fs::write(path.with_extension("new"), "{}").unwrap();
    std::fs::rename(path.with_extension("new"), &path).unwrap();
}

const CHANGES: [fn(&Path); 4] = [replace_shards, write_into, shorten, replace_configuration];

/// A CPU that lets something happen before its first update.
struct Meddled<'a> {
    cpu: Cpu,
    meddle: Cell<Option<&'a mut dyn FnMut()>>,
}

impl Backend for Meddled<'_> {
    type Memory = Host;
    type Codes = Vec<u8>;

    fn forward_siblings(&self, op: ForwardSiblings<'_>) -> lora_kernels::Result<()> {
        self.cpu.forward_siblings(op)
    }

    fn backward_siblings(&self, op: BackwardSiblings<'_>) -> lora_kernels::Result<()> {
        self.cpu.backward_siblings(op)
    }

    fn frozen(&self, op: Frozen<'_>) -> lora_kernels::Result<()> {
        self.cpu.frozen(op)
    }

    fn update_weights(&self, op: WeightUpdate<'_>) -> lora_kernels::Result<Option<MergeReport>> {
        if let Some(meddle) = self.meddle.take() {
            meddle();
        }
        self.cpu.update_weights(op)
    }

    fn delta(&self, op: Delta<'_>) -> lora_kernels::Result<()> {
        self.cpu.delta(op)
    }

    fn convert(&self, op: Conversion<'_>) -> lora_kernels::Result<()> {
        self.cpu.convert(op)
    }
}

fn names_in(root: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    names.sort();
    names
}

/// Merges while `change` happens, before or during the writing.
fn merge_while(root: &Path, during: bool, change: fn(&Path)) -> lora_peft::Result<()> {
    let adapters = case("llama-attention").adapters();
    let weighted = [Weighted { name: "one".into(), adapter: &adapters[0], weight: 1.0 }];
    let base = Checkpoint::open(&root.join("base"))?;
    let edit = Edit::merge(&base, &weighted, EditOptions::default())?;
    let mut meddle = || change(root);
    if !during {
        meddle();
    }
    let backend = Meddled { cpu: Cpu::new(), meddle: Cell::new(during.then_some(&mut meddle as _)) };
    edit.write(&backend, &root.join("merged"), &Progress::new()).map(|_| ())
}

#[test]
fn a_base_that_changes_during_a_merge_is_an_error() {
    for during in [false, true] {
        for (index, change) in CHANGES.into_iter().enumerate() {
            let root = root();
            let error = merge_while(root.path(), during, change).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{index} {during}: {error}");
            assert!(error.to_string().contains("changed while it was in use"), "{index} {during}: {error}");
            assert_eq!(names_in(root.path()), ["base", "new"].map(PathBuf::from), "{index} {during}");
        }
        let root = root();
        merge_while(root.path(), during, |_| {}).unwrap();
    }
}

/// The merge must not go on for long with what is no longer there, and never mix it with what is.
#[test]
fn tensors_of_replaced_files_are_those_of_the_old_ones() {
    let root = root();
    let base = Checkpoint::open(&root.path().join("base")).unwrap();
    let source = Checkpoint::open(&case("llama-attention").base).unwrap();
    replace_shards(root.path());
    for name in source.tensors().keys() {
        assert_eq!(base.tensor(name).unwrap(), source.tensor(name).unwrap(), "{name}");
        assert_eq!(base.bytes(name).unwrap(), source.bytes(name).unwrap(), "{name}");
    }
    assert!(base.check_unchanged().is_err());
    // What has taken their place does not belong to the index any less.
    Checkpoint::open(&root.path().join("base")).unwrap().check_unchanged().unwrap();
}

/// A map of such a file would end the process.
#[test]
fn a_base_that_shrinks_is_an_error_everywhere() {
    let root = root();
    let base = Checkpoint::open(&root.path().join("base")).unwrap();
    let tuned = Checkpoint::open(&case("llama-attention").base).unwrap();
    let mut saved = case("llama-saved").adapters().remove(0);
    let embedding = "model.embed_tokens.weight".to_owned();
    saved.replaced.insert(embedding.clone(), Tensor::zeros(lora_kernels::DType::F32, &[24, 16]));
    shorten(root.path());
    for name in tuned.tensors().keys() {
        assert!(base.bytes(name).is_err() && base.tensor(name).is_err(), "{name}");
    }
    for result in [
        extract(&base, &tuned, ExtractOptions::default(), &Progress::new()).map(|_| ()),
        extract(&tuned, &base, ExtractOptions::default(), &Progress::new()).map(|_| ()),
        lora_peft::binding::bind(&saved, &base).map(|_| ()),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("changed while it was in use"), "{error}");
    }
}

#[test]
fn a_checkpoint_that_changes_during_an_extraction_is_an_error() {
    let root = root();
    let [base, tuned] = ["base", "new"].map(|name| Checkpoint::open(&root.path().join(name)).unwrap());
    let result = || extract(&base, &tuned, ExtractOptions::default(), &Progress::new());
    result().unwrap();
    replace_configuration(root.path());
    let error = result().unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("changed while it was in use"), "{error}");
}

#[test]
fn weights_of_an_adapter_that_are_no_file_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let source = case("llama-attention").directory.join("adapter");
    std::fs::copy(source.join("adapter_config.json"), root.path().join("adapter_config.json")).unwrap();
    std::fs::create_dir(root.path().join("adapter_model.safetensors")).unwrap();
    let error = Adapter::load(root.path()).unwrap_err().to_string();
    assert!(error.contains("not a plain file"), "{error}");
}

//! Restore records of a merged checkpoint.

use super::two_files;
use half::bf16;
use lora_kernels::cpu::Cpu;
use lora_kernels::restore::RestoreMethod;
use lora_peft::adapter::{BiasMode, ModuleNames};
use lora_peft::merge::seal;
use lora_peft::{
    Adapter, AdapterConfig, AdapterLayer, Checkpoint, Edit, EditOptions, Progress, Tensor, Weighted,
};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

const RECORDS: &str = "merged/lora_restore";
const INPUT: &str = "input.safetensors";

thread_local! {
    static MERGED: Merged = Merged::new(RestoreMethod::Codes);
}

/// A `restore.json`, a zero byte, and the file `input.safetensors` of one tensor's record, in a merged checkpoint that is
/// otherwise right. The list gets the checksum that belongs to it, so that what comes after that is reached.
pub fn record(bytes: &[u8]) -> bool {
    let Some((list, data)) = two_files(bytes) else { return false };
    let list = match serde_json::from_slice(list) {
        Ok(Value::Object(mut list)) => {
            seal(&mut list);
            Value::Object(list).to_string().into_bytes()
        }
        _ => list.to_vec(),
    };
    MERGED.with(|merged| {
        let directory = merged.directory.path();
        std::fs::write(directory.join(RECORDS).join("restore.json"), list).expect("room for a file");
        std::fs::write(directory.join(RECORDS).join(INPUT), data).expect("room for a file");
        let accepted = merged.unmerge("merged", "restored");
        if accepted {
            // Whatever the record made of the weights: merging into them and taking out again must be exact.
            if merged.merge("restored", "merged-again", RestoreMethod::Codes) {
                assert!(merged.unmerge("merged-again", "restored-again"), "the record was just written");
                merged.assert_same("restored", "restored-again");
                merged.remove(&["merged-again", "restored-again"]);
            }
            merged.remove(&["restored"]);
        }
        assert_eq!(entries(directory), ["base", "merged"], "nothing is left behind");
        accepted
    })
}

/// Records as merges write them, one for each tensor and way to keep it, by name.
pub fn record_seeds() -> BTreeMap<String, Vec<u8>> {
    let plain = Merged::new(RestoreMethod::Codes);
    let backup = Merged::new(RestoreMethod::Backup);
    let list = plain.list();
    let mut seeds = BTreeMap::new();
    for merged in [&plain, &backup] {
        for (name, mut entry) in merged.list()["tensors"].as_object().expect("the tensors").clone() {
            let file = entry["file"].as_str().expect("a name").to_owned();
            let kind = entry["parts"][0]["method"].as_str().unwrap_or("original").to_owned();
            entry["file"] = json!(INPUT);
            let mut seed = list.clone();
            seed["tensors"][&name] = entry;
            let mut seed = seed.to_string().into_bytes();
            seed.push(0);
            seed.extend(std::fs::read(merged.directory.path().join(RECORDS).join(file)).expect("written"));
            seeds.insert(format!("{kind}-{name}"), seed);
        }
    }
    seeds
}

/// A base checkpoint with an adapter merged into it.
struct Merged {
    directory: TempDir,
    adapter: Adapter,
}

impl Merged {
    fn new(method: RestoreMethod) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let merged = Merged { directory, adapter: small_adapter() };
        let base = merged.directory.path().join("base");
        std::fs::create_dir(&base).expect("a new directory");
        let tensors = [
            ("layer.q.weight", Tensor::new(&[3, 4], values(12, 0.3).map(bf16::from_f32).collect())),
            ("layer.q.bias", Tensor::new(&[3], values(3, 0.5).map(bf16::from_f32).collect())),
            ("layer.v.weight", Tensor::new(&[2, 5], values(10, 0.7).collect())),
            ("layer.v.bias", Tensor::new(&[2], values(2, 0.9).collect())),
        ];
        let tensors = tensors.map(|(name, tensor)| (name, tensor.expect("as many values as the shape says")));
        let views = tensors.iter().map(|(name, tensor)| {
            let dtype = lora_peft::tensor::file_type(tensor.dtype());
            let view = TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes());
            (*name, view.expect("as many bytes as the shape says"))
        });
        let bytes = safetensors::serialize(views, None).expect("serializable");
        std::fs::write(base.join("model.safetensors"), bytes).expect("room for a file");
        assert!(merged.merge("base", "merged", method), "the adapter fits");
        merged
    }

    /// Whether the adapter could be merged into the checkpoint `from`, giving `to`.
    fn merge(&self, from: &str, to: &str, method: RestoreMethod) -> bool {
        let checkpoint = self.open(from);
        let options = EditOptions { restore: Some(method), ..EditOptions::default() };
        let edit = Edit::merge(&checkpoint, &self.adapters(), options).expect("the adapter fits");
        edit.write(&Cpu::new(), &self.directory.path().join(to), &Progress::new()).is_ok()
    }

    /// Whether the adapter could be taken out of the checkpoint `from`, giving `to`.
    fn unmerge(&self, from: &str, to: &str) -> bool {
        let checkpoint = self.open(from);
        let Ok(edit) = Edit::unmerge(&checkpoint, &self.adapters(), EditOptions::default()) else {
            return false;
        };
        edit.write(&Cpu::new(), &self.directory.path().join(to), &Progress::new()).is_ok()
    }

    /// The list of the records that the merge wrote.
    fn list(&self) -> Value {
        let bytes = std::fs::read(self.directory.path().join(RECORDS).join("restore.json"));
        serde_json::from_slice(&bytes.expect("written")).expect("a JSON text")
    }

    fn adapters(&self) -> [Weighted<'_>; 1] {
        [Weighted { name: "adapter".into(), adapter: &self.adapter, weight: 1.0 }]
    }

    fn open(&self, name: &str) -> Checkpoint {
        Checkpoint::open(&self.directory.path().join(name)).expect("a checkpoint")
    }

    fn assert_same(&self, one: &str, two: &str) {
        let (one, two) = (self.open(one), self.open(two));
        assert_eq!(one.tensors(), two.tensors());
        for name in one.tensors().keys() {
            assert_eq!(*one.bytes(name).expect("read"), *two.bytes(name).expect("read"), "{name}");
        }
    }

    fn remove(&self, names: &[&str]) {
        for name in names {
            std::fs::remove_dir_all(self.directory.path().join(name))
                .expect("a directory that was just written");
        }
    }
}

/// Rank 1 on both layers, with biases.
fn small_adapter() -> Adapter {
    let layer = |input, output| AdapterLayer {
        a: Tensor::new(&[1, input], values(input, 0.2).collect()).expect("as many values"),
        b: Tensor::new(&[output, 1], values(output, 0.1).collect()).expect("as many values"),
        bias: None,
        magnitude: None,
        embedding: false,
    };
    let bias = |len| Tensor::new(&[len], values(len, 0.4).collect()).expect("as many values");
    Adapter {
        config: AdapterConfig {
            rank: 1,
            alpha: 1.0,
            bias: BiasMode::LoraOnly,
            target_modules: Some(ModuleNames::List(vec!["q".into(), "v".into()])),
            ..AdapterConfig::default()
        },
        layers: BTreeMap::from([("layer.q".into(), layer(4, 3)), ("layer.v".into(), layer(5, 2))]),
        replaced: BTreeMap::from([("layer.q.bias".into(), bias(3)), ("layer.v.bias".into(), bias(2))]),
        notes: Vec::new(),
    }
}

fn values(len: usize, first: f32) -> impl Iterator<Item = f32> {
    (0..len).map(move |index| first - 0.13 * index as f32)
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

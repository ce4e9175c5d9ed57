//! Running `lora`, and checkpoints to run it on.

#![allow(dead_code, reason = "each test crate uses a part")]

use lora_peft::Checkpoint;
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A finished run.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn code_is(self, code: i32) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
    }

    /// Ends with `code`, and says each of `words` in one paragraph on stderr.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lora"))
}

/// Runs `lora` with words separated by spaces; `{}` stands for the next path.
pub fn lora(line: &str, paths: &[&Path]) -> Run {
    run(&mut program(), line, paths)
}

/// Runs `lora` under limits that a shell sets first.
pub fn lora_limited(limits: &str, line: &str, paths: &[&Path]) -> Run {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limits}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_lora")]);
    run(&mut shell, line, paths)
}

fn run(command: &mut Command, line: &str, paths: &[&Path]) -> Run {
    command.args(words(line, paths)).output().unwrap().into()
}

pub fn words(line: &str, paths: &[&Path]) -> Vec<PathBuf> {
    let mut paths = paths.iter();
    let words = line.split_whitespace().map(|word| match word {
        "{}" => paths.next().unwrap().to_path_buf(),
        word => word.into(),
    });
    let words = words.collect();
    assert!(paths.next().is_none());
    words
}

pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../peft/tests/golden").join(path)
}

pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

#[track_caller]
pub fn same_tensors(one: &Path, two: &Path) {
    let (one, two) = (open(one), open(two));
    assert!(one.tensors().keys().eq(two.tensors().keys()));
    for name in one.tensors().keys() {
        assert_eq!(*one.bytes(name).unwrap(), *two.bytes(name).unwrap(), "{name}");
    }
}

/// Names in a directory, hidden ones too.
pub fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A bf16 checkpoint of zeros in `base` and an adapter of rank 4 in `adapter`. Each of the shards has an adapted square
/// weight and one that stays as it is.
pub fn large(directory: &Path, shards: usize, features: usize) -> [PathBuf; 2] {
    let (base, adapter) = (directory.join("base"), directory.join("adapter"));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&adapter).unwrap();
    let outline = |name: String, dtype, shape: [usize; 2]| Outline { name, dtype, shape: shape.to_vec() };
    let (mut map, mut factors) = (Map::new(), Vec::new());
    for shard in 0..shards {
        let names = ["q_proj", "o_proj"].map(|module| format!("layers.{shard}.{module}.weight"));
        let outlines = names.clone().map(|name| outline(name, Dtype::BF16, [features, features]));
        let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        drop(ShardWriter::create(&base.join(&file), &BTreeMap::new(), &outlines).unwrap());
        // The rest is a hole in the file, which reads as zeros.
        let data = OpenOptions::new().write(true).open(base.join(&file)).unwrap();
        let header = data.metadata().unwrap().len();
        data.set_len(header + outlines.iter().map(Outline::bytes).sum::<u64>()).unwrap();
        map.extend(names.into_iter().map(|name| (name, json!(file))));
        let path = format!("base_model.model.layers.{shard}.q_proj");
        factors.push(outline(format!("{path}.lora_A.weight"), Dtype::F32, [4, features]));
        factors.push(outline(format!("{path}.lora_B.weight"), Dtype::F32, [features, 4]));
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    std::fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(base.join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"] });
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    let path = adapter.join("adapter_model.safetensors");
    let mut writer = ShardWriter::create(&path, &BTreeMap::new(), &factors).unwrap();
    let ones = 1f32.to_le_bytes().repeat(4 * features);
    factors.iter().for_each(|_| writer.write(&ones).unwrap());
    writer.finish().unwrap();
    [base, adapter]
}

/// A copy of a golden adapter with another value in its configuration.
pub fn changed_adapter(source: &Path, to: &Path, key: &str, value: Value) {
    std::fs::create_dir_all(to).unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(source.join(weights), to.join(weights)).unwrap();
    let text = std::fs::read(source.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config[key] = value;
    std::fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
}

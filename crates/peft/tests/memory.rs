//! Models larger than the memory that the process may have are merged nevertheless, records included; a tensor larger than
//! that is an error.
#![cfg(target_os = "linux")]

use lora_kernels::cpu::Cpu;
use lora_peft::adapter::ModuleNames;
use lora_peft::tensor::Tensor;
use lora_peft::{
    Adapter, AdapterConfig, AdapterLayer, Checkpoint, Edit, EditOptions, Error, Progress, Weighted,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const SIZE: usize = 1024;
const LAYERS: usize = 192;
/// KiB of data that the process may have: a sixth of the model.
const LIMIT: usize = 64 << 10;
const _: () = assert!(2 * SIZE * SIZE * LAYERS >= 6 * 1024 * LIMIT);
/// Outputs of a layer with DoRA: W + Δ of one layer in `f64` alone is a third of the limit, as is Δ with W in `f32`.
const DORA_OUTPUTS: usize = 3 * SIZE;
const _: () = assert!(3 * 8 * SIZE * DORA_OUTPUTS > 1024 * LIMIT);
/// Outputs of a layer whose weights are all zero. Escapes of all of them alone would take three quarters of the limit for
/// records.
const RECORDED_OUTPUTS: usize = 12 * SIZE;
/// KiB of data that a merge with a record may have.
const RECORDED_LIMIT: usize = 256 << 10;
const _: () = assert!(4 * 16 * SIZE * RECORDED_OUTPUTS >= 3 * 1024 * RECORDED_LIMIT);
/// Outputs of a layer that takes four times the limit.
const LARGE_OUTPUTS: usize = 128 * SIZE;
const _: () = assert!(2 * SIZE * LARGE_OUTPUTS >= 4 * 1024 * LIMIT);
const DIRECTORY: &str = "LORA_PEFT_TEST_DIRECTORY";

/// Tensors of zeros, in a file with holes.
fn write_model(path: &Path, outputs: usize, layers: usize) {
    let mut header = serde_json::Map::new();
    let bytes = 2 * SIZE * outputs;
    for layer in 0..layers {
        let offsets = [layer * bytes, (layer + 1) * bytes];
        let info = serde_json::json!({ "dtype": "BF16", "shape": [outputs, SIZE], "data_offsets": offsets });
        header.insert(name(layer), info);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    std::fs::write(path, &file).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len((8 + header.len() + layers * bytes) as u64).unwrap();
}

fn name(layer: usize) -> String {
    format!("layers.{layer:03}.weight")
}

/// Two of three layers are changed, one is copied.
fn adapter(outputs: usize, layers: usize, dora: bool) -> Adapter {
    let layer = AdapterLayer {
        a: Tensor::new(&[1, SIZE], vec![1.0f32; SIZE]).unwrap(),
        b: Tensor::new(&[outputs, 1], vec![2.0f32; outputs]).unwrap(),
        bias: None,
        magnitude: dora.then(|| Tensor::new(&[outputs], vec![96.0f32; outputs]).unwrap()),
        embedding: false,
    };
    let layers: BTreeMap<String, AdapterLayer> = (0..layers)
        .filter(|index| index % 3 != 0)
        .map(|index| (name(index).trim_end_matches(".weight").to_owned(), layer.clone()))
        .collect();
    let config = AdapterConfig {
        rank: 1,
        alpha: 1.0,
        dora,
        target_modules: Some(ModuleNames::List(layers.keys().cloned().collect())),
        ..Default::default()
    };
    Adapter { config, layers, replaced: BTreeMap::new(), notes: Vec::new() }
}

fn merge(adapter: &Adapter) {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let base = Checkpoint::open(&directory.join("model.safetensors")).unwrap();
    let weighted = [Weighted { name: "one".into(), adapter, weight: 1.0 }];
    let edit = Edit::merge(&base, &weighted, EditOptions::default()).unwrap();
    edit.write(&Cpu::new(), &directory.join("merged"), &Progress::new()).unwrap();
}

/// Runs in a process of its own, under the limit.
#[test]
fn merge_under_a_limit() {
    merge(&adapter(SIZE, LAYERS, false));
}

/// Runs in a process of its own, under the limit.
#[test]
fn dora_merge_under_a_limit() {
    merge(&adapter(DORA_OUTPUTS, 3, true));
}

/// Runs in a process of its own, under the limit.
#[test]
fn recorded_merge_under_a_limit() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let adapter = adapter(RECORDED_OUTPUTS, 2, false);
    // 0.3·2 is no bf16 number: what is left of it after the merge is no zero.
    let weighted = [Weighted { name: "one".into(), adapter: &adapter, weight: 0.3 }];
    let base = Checkpoint::open(&directory.join("model.safetensors")).unwrap();
    let options = EditOptions { restore: Some(Default::default()), ..Default::default() };
    let merge = Edit::merge(&base, &weighted, options).unwrap();
    merge.write(&Cpu::new(), &directory.join("merged"), &Progress::new()).unwrap();
    let merged = Checkpoint::open(&directory.join("merged")).unwrap();
    let unmerge = Edit::unmerge(&merged, &weighted, EditOptions::default()).unwrap();
    unmerge.write(&Cpu::new(), &directory.join("back"), &Progress::new()).unwrap();
}

/// Runs in a process of its own, under the limit.
#[test]
fn too_large_merge_under_a_limit() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let adapter = adapter(LARGE_OUTPUTS, 2, false);
    let weighted = [Weighted { name: "one".into(), adapter: &adapter, weight: 1.0 }];
    let base = Checkpoint::open(&directory.join("model.safetensors")).unwrap();
    let merge = Edit::merge(&base, &weighted, EditOptions::default()).unwrap();
    let error = merge.write(&Cpu::new(), &directory.join("merged"), &Progress::new()).unwrap_err();
    let needed = (2 * SIZE * LARGE_OUTPUTS) as u64;
    assert!(matches!(&error, Error::OutOfMemory { bytes, .. } if *bytes == needed), "{error}");
    assert!(error.to_string().contains("layers.001.weight"), "{error}");
    let names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["model.safetensors"]);
}

/// Runs one of the tests above with no more than `limit` KiB of data.
fn run_under(limit: usize, test: &str, directory: &Path) {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -d {limit} && exec \"$0\" --exact {test} --test-threads 1"))
        .arg(std::env::current_exe().unwrap())
        .env(DIRECTORY, directory)
        .env("RAYON_NUM_THREADS", "2")
        .status()
        .unwrap();
    assert!(status.success(), "{test} did not do with {limit} KiB");
}

/// Every weight of a changed layer must become `expected`.
fn is_merged_under_the_limit(test: &str, outputs: usize, layers: usize, expected: f32) {
    let directory = tempfile::tempdir().unwrap();
    write_model(&directory.path().join("model.safetensors"), outputs, layers);
    run_under(LIMIT, test, directory.path());
    let merged = Checkpoint::open(&directory.path().join("merged")).unwrap();
    for layer in [0, 1, layers - 1] {
        let expected = if layer % 3 == 0 { 0.0 } else { expected };
        assert!(
            merged.tensor(&name(layer)).unwrap().to_f32().iter().all(|value| *value == expected),
            "{layer}"
        );
    }
}

#[test]
fn models_larger_than_memory_are_merged() {
    is_merged_under_the_limit("merge_under_a_limit", SIZE, LAYERS, 2.0);
}

#[test]
fn dora_needs_no_copies_of_a_weight_in_more_precision() {
    // m over the square root of 1024 elements.
    is_merged_under_the_limit("dora_merge_under_a_limit", DORA_OUTPUTS, 3, 96.0 / 32.0);
}

#[test]
fn records_of_zeros_take_neither_much_memory_nor_much_room() {
    let directory = tempfile::tempdir().unwrap();
    write_model(&directory.path().join("model.safetensors"), RECORDED_OUTPUTS, 2);
    run_under(RECORDED_LIMIT, "recorded_merge_under_a_limit", directory.path());
    let record = directory.path().join("merged/lora_restore/00000.safetensors");
    let bytes = std::fs::metadata(record).unwrap().len() as usize;
    // The old weights, and a header.
    assert!(bytes <= 2 * SIZE * RECORDED_OUTPUTS + (64 << 10), "{bytes} bytes");
    let back = Checkpoint::open(&directory.path().join("back")).unwrap();
    let zeros = |name: &String| back.tensor(name).unwrap().bytes().iter().all(|byte| *byte == 0);
    assert!(back.tensors().keys().all(zeros));
}

#[test]
fn a_tensor_larger_than_memory_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    write_model(&directory.path().join("model.safetensors"), LARGE_OUTPUTS, 2);
    run_under(LIMIT, "too_large_merge_under_a_limit", directory.path());
}

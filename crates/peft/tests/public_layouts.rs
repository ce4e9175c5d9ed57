//! Checkpoints whose files have other names, other parts or another layout than the class that an adapter was trained with
//! (`golden/public/layouts-*`), against PEFT and transformers.

mod common;

use common::{doubles, golden, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::binding::{Naming, fit};
use lora_peft::{
    Adapter, AdapterConfig, Checkpoint, Edit, EditOptions, Error, LoraModel, Note, Progress, Weighted,
};
use serde_json::json;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden().join("public")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_ours = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("layouts-");
    let mut cases: Vec<PathBuf> = paths.filter(is_ours).collect();
    cases.sort();
    assert_eq!(cases.len(), 26);
    cases
}

fn open(case: &Path) -> (Checkpoint, Adapter) {
    (Checkpoint::open(&case.join("base")).unwrap(), Adapter::load(&case.join("adapter")).unwrap())
}

fn case(name: &str) -> (Checkpoint, Adapter) {
    open(&golden().join("public").join(format!("layouts-{name}")))
}

fn one(adapter: &Adapter) -> [Weighted<'_>; 1] {
    [Weighted { name: "one".into(), adapter, weight: 1.0 }]
}

fn write(edit: &Edit<'_>, out: &Path) -> Checkpoint {
    edit.write(&Cpu::new(), out, &Progress::new()).unwrap();
    Checkpoint::open(out).unwrap()
}

#[test]
fn merged_tensors_equal_those_of_peft_and_are_taken_out_exactly() {
    for case in cases() {
        let (base, adapter) = open(&case);
        let root = tempfile::tempdir().unwrap();
        let options = EditOptions { restore: Some(Default::default()), ..Default::default() };
        let edit =
            Edit::merge(&base, &one(&adapter), options).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let merged = write(&edit, &root.path().join("merged"));
        let expected = Checkpoint::open(&case.join("expected")).unwrap();
        assert!(merged.tensors().keys().eq(base.tensors().keys()), "{case:?}");
        assert!(expected.tensors().keys().all(|name| merged.tensors().contains_key(name)), "{case:?}");
        for name in merged.tensors().keys() {
            let Ok(expected) = expected.tensor(name) else {
                assert_eq!(*merged.bytes(name).unwrap(), *base.bytes(name).unwrap(), "{case:?}: {name}");
                continue;
            };
            let (ours, theirs) = (doubles(&merged.tensor(name).unwrap()), doubles(&expected));
            let bound = 1e-6 * largest(&theirs);
            let fits = ours.iter().zip(&theirs).all(|(one, two)| (one - two).abs() <= bound);
            assert!(fits, "{case:?}: {name}");
        }
        let unmerge = Edit::unmerge(&merged, &one(&adapter), EditOptions::default()).unwrap();
        let restored = write(&unmerge, &root.path().join("restored"));
        for name in base.tensors().keys() {
            assert_eq!(*restored.bytes(name).unwrap(), *base.bytes(name).unwrap(), "{case:?}: {name}");
        }
    }
}

#[test]
fn what_is_fitted_can_be_saved_and_merges_the_same() {
    for case in cases() {
        let (base, adapter) = open(&case);
        let root = tempfile::tempdir().unwrap();
        let (fitted, _) = fit(&adapter, &base).unwrap();
        fitted.save(&root.path().join("adapter")).unwrap();
        let saved = Adapter::load(&root.path().join("adapter")).unwrap();
        let merge = |adapter: &Adapter, name: &str| {
            let edit = Edit::merge(&base, &one(adapter), EditOptions::default());
            write(&edit.unwrap_or_else(|error| panic!("{case:?}: {error}")), &root.path().join(name))
        };
        let (whole, again) = (merge(&adapter, "whole"), merge(&saved, "again"));
        for name in base.tensors().keys() {
            assert_eq!(*whole.bytes(name).unwrap(), *again.bytes(name).unwrap(), "{case:?}: {name}");
        }
    }
}

#[test]
fn models_in_memory_take_the_same_adapters() {
    for case in cases() {
        let (base, adapter) = open(&case);
        let root = tempfile::tempdir().unwrap();
        let merged = Edit::merge(&base, &one(&adapter), EditOptions::default()).unwrap();
        let merged = write(&merged, &root.path().join("merged"));
        let (changed, replaced) = {
            let (_, binding) = fit(&adapter, &base).unwrap();
            let weights: Vec<String> = binding.sites.iter().map(|site| site.weight.clone()).collect();
            (weights, binding.replaced)
        };
        let mut model = LoraModel::new(base);
        model.add_adapter(&Cpu::new(), "one", adapter).unwrap();
        model.merge(&Cpu::new(), None).unwrap();
        for weight in changed.iter().filter(|weight| !replaced.contains_key(*weight)) {
            assert_eq!(model.weight(weight).unwrap(), &merged.tensor(weight).unwrap(), "{case:?}: {weight}");
        }
    }
}

/// What is said of parts for which the adapter has nothing.
fn absent(name: &str) -> Vec<String> {
    let (base, adapter) = case(name);
    let edit = Edit::merge(&base, &one(&adapter), EditOptions::default()).unwrap();
    let subtrees = edit.notes().into_iter().map(|note| match note {
        Note::AbsentSubtrees { subtrees, .. } => subtrees,
        other => panic!("{other}"),
    });
    subtrees.flatten().collect()
}

#[test]
fn parts_without_an_adapter_are_named() {
    assert_eq!(absent("qwen3-5-further-tokens"), ["mtp"]);
    assert_eq!(absent("qwen3-5-text"), ["mtp"]);
    assert_eq!(absent("deepseek-v3-layer-more"), ["model.layers.2"]);
    assert_eq!(absent("bert-without-pooler"), ["bert.pooler"]);
    assert_eq!(absent("gemma3-text"), ["vision_tower"]);
    for name in ["gemma3", "llava", "qwen2-5-vl", "granitemoe", "phi3-split", "vit"] {
        assert!(absent(name).is_empty(), "{name}");
    }
}

fn refused(base: &Checkpoint, adapter: &Adapter) -> String {
    fit(adapter, base).unwrap_err().to_string()
}

#[test]
fn parts_with_some_of_an_adapter_are_refused() {
    // One module of a part, of a layer, and a layer of several.
    for (name, gone) in [
        ("qwen2-5-vl-class-names", "model.visual.blocks.0.mlp.up_proj"),
        ("qwen3-5-further-tokens", "model.language_model.layers.1.self_attn.k_proj"),
        ("qwen3-5-further-tokens", "model.language_model.layers.0."),
        ("deepseek-v3-layer-more", "model.layers.1.self_attn"),
        ("deepseek-v3-layer-more", "model.layers.1.mlp"),
    ] {
        let (base, mut adapter) = case(name);
        let before = adapter.layers.len();
        adapter.layers.retain(|key, _| !key.starts_with(gone));
        assert!(adapter.layers.len() < before);
        let error = refused(&base, &adapter);
        assert!(error.contains(gone.trim_end_matches('.')) && error.contains("missing"), "{name}: {error}");
    }
}

#[test]
fn errors_say_the_names_of_the_file() {
    let (base, mut adapter) = case("gemma3");
    adapter.layers.remove("model.language_model.layers.1.mlp.up_proj").unwrap();
    let error = refused(&base, &adapter);
    assert!(error.contains("base_model.model.model.language_model.layers.1.mlp.up_proj.lora_A"), "{error}");
    assert!(error.contains("`language_model.model.layers.1.mlp.up_proj.weight`"), "{error}");
}

#[test]
fn modules_that_the_checkpoint_lacks_have_names_of_files_too() {
    let (base, adapter) = case("gemma3");
    let naming = Naming::find(&adapter, &base);
    assert!(matches!(naming, Naming::Renamed(_)));
    assert_eq!(naming.to_file("lm_head.weight", &base), "language_model.lm_head.weight");
    assert_eq!(naming.to_model("language_model.model.norm.weight"), "model.language_model.norm.weight");
    for name in base.tensors().keys() {
        assert_eq!(naming.to_file(&naming.to_model(name), &base), *name);
    }
}

fn with_config(adapter: &mut Adapter, change: impl FnOnce(&mut serde_json::Value)) {
    let mut config = adapter.config.to_json();
    change(&mut config);
    adapter.config = AdapterConfig::from_slice(config.to_string().as_bytes()).unwrap();
}

#[test]
fn parts_of_fused_matrices_that_do_not_fit_are_refused() {
    let fused = |change: &dyn Fn(&mut Adapter)| {
        let (base, mut adapter) = case("phi3-split");
        change(&mut adapter);
        refused(&base, &adapter)
    };
    let says =
        |error: String, words: &str| assert!(error.contains(words), "`{error}` does not say `{words}`");
    // The configuration targets a part that is not there.
    says(
        fused(&|adapter| drop(adapter.layers.remove("model.layers.0.self_attn.v_proj"))),
        "layers.0.self_attn.v_proj",
    );
    // More rows than there are.
    says(
        fused(&|adapter| {
            let up = adapter.layers["model.layers.0.self_attn.q_proj"].clone();
            adapter.layers.insert("model.layers.0.self_attn.v_proj".into(), up);
        }),
        "16 rows",
    );
    says(
        fused(&|adapter| {
            with_config(adapter, |config| config["use_dora"] = json!(true));
            for layer in adapter.layers.values_mut() {
                layer.magnitude = Some(lora_peft::Tensor::zeros(layer.b.dtype(), &[layer.b.shape()[0]]));
            }
        }),
        "DoRA",
    );
    says(
        fused(&|adapter| with_config(adapter, |config| config["init_lora_weights"] = json!("pissa"))),
        "PiSSA",
    );
}

#[test]
fn fused_matrices_of_unknown_order_are_named() {
    let root = tempfile::tempdir().unwrap();
    let source = golden().join("public/layouts-phi3-split");
    std::fs::copy(source.join("base/model.safetensors"), root.path().join("model.safetensors")).unwrap();
    std::fs::write(root.path().join("config.json"), r#"{"model_type": "some_model"}"#).unwrap();
    let base = Checkpoint::open(root.path()).unwrap();
    let error = refused(&base, &Adapter::load(&source.join("adapter")).unwrap());
    assert!(error.contains("fused") && error.contains("some_model") && error.contains("_proj`"), "{error}");
}

#[test]
fn single_experts_that_do_not_fit_are_refused() {
    let experts = |change: &dyn Fn(&mut Adapter)| {
        let (base, mut adapter) = case("gpt-oss-single-experts");
        change(&mut adapter);
        refused(&base, &adapter)
    };
    let at = "model.layers.0.mlp.experts";
    // An expert that is targeted and not there.
    let error = experts(&|adapter| drop(adapter.layers.remove(&format!("{at}.gate_up_projs.1"))));
    assert!(error.contains("gate_up_projs.1") && error.contains("missing"), "{error}");
    // An expert that the checkpoint does not have.
    let error = experts(&|adapter| {
        let layer = adapter.layers[&format!("{at}.gate_up_projs.1")].clone();
        with_config(adapter, |config| {
            config["target_modules"].as_array_mut().unwrap().push(json!("gate_up_projs.7"))
        });
        adapter.layers.insert(format!("{at}.gate_up_projs.7"), layer);
    });
    assert!(error.contains("gate_up_projs.7"), "{error}");
    // Another width.
    let error = experts(&|adapter| {
        let layer = adapter.layers[&format!("{at}.gate_up_projs.1")].clone();
        adapter.layers.insert(format!("{at}.down_projs.0"), layer);
    });
    assert!(error.contains("down_proj"), "{error}");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let (base, _) = case("gemma3");
    let (_, adapter) = case("lfm2-moe");
    assert!(matches!(
        fit(&adapter, &base),
        Err(Error::NoMatch(_) | Error::Tensor { .. } | Error::Module { .. })
    ));
}

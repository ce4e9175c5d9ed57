//! Layers of a model in memory against PEFT's, and what can be done with named adapters.

mod common;

use common::{Case, case, cases, doubles, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::adapter::{BiasMode, Init, ModuleNames};
use lora_peft::making::Combination;
use lora_peft::model::Gradients;
use lora_peft::tensor::Tensor;
use lora_peft::{AdapterConfig, Checkpoint, Error, LoraModel};
use std::collections::BTreeSet;

fn open(case: &Case) -> LoraModel {
    LoraModel::new(Checkpoint::open(&case.base).unwrap())
}

fn loaded(case: &Case) -> (LoraModel, Vec<String>) {
    let mut model = open(case);
    let mut names = Vec::new();
    for (index, adapter) in case.adapters().into_iter().enumerate() {
        let name = format!("a{index}");
        model.add_adapter(&Cpu::new(), &name, adapter).unwrap();
        names.push(name);
    }
    let active: Vec<&str> = names.iter().map(String::as_str).collect();
    model.set_active(&active).unwrap();
    (model, names)
}

/// Largest distance, as a share of the largest expected value.
fn distance(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.shape(), expected.shape());
    let (ours, expected) = (doubles(ours), doubles(expected));
    let difference: Vec<f64> = ours.iter().zip(&expected).map(|(one, two)| one - two).collect();
    largest(&difference) / largest(&expected).max(1e-30)
}

struct Golden {
    file: Checkpoint,
    bound: f64,
    name: String,
}

impl Golden {
    fn compare(&self, key: &str, ours: &Tensor) {
        let expected = self.file.tensor(key).unwrap();
        let distance = distance(ours, &expected);
        assert!(distance <= self.bound, "{}: {key} is {distance} away", self.name);
    }
}

#[test]
fn forwards_and_gradients_equal_pefts() {
    let mut compared = 0;
    for case in cases() {
        let path = case.directory.join("layers.safetensors");
        if !path.exists() {
            continue;
        }
        // Sums of up to 24 terms in f32; in 16 bits PEFT rounds the base's output, S or dS once more than we do or less.
        let bound = match case.dtype.as_str() {
            "f32" => 24.0 * 2f64.powi(-24),
            "f16" => 4.0 * 2f64.powi(-11),
            _ => 4.0 * 2f64.powi(-8),
        };
        let golden = Golden { file: Checkpoint::open(&path).unwrap(), bound, name: case.name.clone() };
        let (model, names) = loaded(&case);
        let modules: BTreeSet<String> = golden
            .file
            .tensors()
            .keys()
            .filter_map(|key| key.strip_suffix(".x").map(str::to_owned))
            .collect();
        for module in modules {
            compared += 1;
            let key = |part: &str| format!("{module}.{part}");
            let dy = golden.file.tensor(&key("dy")).unwrap();
            let backend = Cpu::new();
            let (y, gradients): (Tensor, Gradients) = match golden.file.tensor(&key("x")) {
                Ok(x) => (
                    model.forward(&backend, &module, &x, None).unwrap(),
                    model.backward(&backend, &module, &x, &dy, None).unwrap(),
                ),
                Err(_) => {
                    let padding = module.ends_with("word_embeddings").then_some(0);
                    let bytes = golden.file.bytes(&key("x")).unwrap();
                    let indices: Vec<usize> =
                        bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect();
                    (
                        model.embed(&backend, &module, &indices).unwrap(),
                        model.embed_backward(&backend, &module, &indices, padding, &dy).unwrap(),
                    )
                }
            };
            golden.compare(&key("y"), &y);
            if let Some(dx) = &gradients.x {
                golden.compare(&key("dx"), dx);
            }
            for (index, name) in names.iter().enumerate() {
                let Some(found) = gradients.adapters.get(name) else { continue };
                let embedding = if gradients.x.is_none() { "lora_embedding_" } else { "lora_" };
                golden.compare(&key(&format!("{index}.d{embedding}A")), &found.a);
                golden.compare(&key(&format!("{index}.d{embedding}B")), &found.b);
                if let Some(magnitude) = &found.magnitude {
                    golden.compare(&key(&format!("{index}.dlora_magnitude_vector")), magnitude);
                }
            }
        }
    }
    assert!(compared >= 40, "{compared}");
}

#[test]
fn saved_adapters_hold_what_was_loaded() {
    for case in cases() {
        for directory in case.adapter_directories() {
            let adapter = lora_peft::Adapter::load(&directory).unwrap();
            let kept = std::env::var_os("LORA_PEFT_SAVE_DIRECTORY");
            let temporary = tempfile::tempdir().unwrap();
            let root = kept.map_or(temporary.path().to_owned(), Into::into);
            let out = root.join(&case.name).join(directory.file_name().unwrap());
            adapter.save(&out).unwrap();
            let read = |path: &std::path::Path| -> serde_json::Value {
                serde_json::from_slice(&std::fs::read(path.join("adapter_config.json")).unwrap()).unwrap()
            };
            let (ours, theirs) = (read(&out), read(&directory));
            for (key, value) in theirs.as_object().unwrap() {
                // PEFT writes some empty lists as such, others as null; what says nothing is left out for old versions.
                let says_nothing = value.as_array().is_some_and(Vec::is_empty)
                    || value == &serde_json::Value::Bool(false)
                    || ["peft_version", "qalora_group_size"].contains(&key.as_str());
                let same = value == &ours[key] || (says_nothing && ours[key].is_null());
                assert!(same, "{}: {key}: {value} and {}", case.name, ours[key]);
            }
            let open =
                |path: &std::path::Path| Checkpoint::open(&path.join("adapter_model.safetensors")).unwrap();
            let (ours, theirs) = (open(&out), open(&directory));
            assert!(ours.tensors().keys().eq(theirs.tensors().keys()), "{}", case.name);
            for name in theirs.tensors().keys() {
                assert_eq!(*ours.bytes(name).unwrap(), *theirs.bytes(name).unwrap(), "{}: {name}", case.name);
            }
        }
    }
}

#[test]
fn merging_in_memory_is_undone_exactly_with_records() {
    for case in cases() {
        let (mut model, _) = loaded(&case);
        let backend = &mut Cpu::new();
        let weights: Vec<String> =
            model.sites("a0").unwrap().iter().map(|site| site.weight.clone()).collect();
        let before: Vec<Tensor> = weights.iter().map(|name| model.weight(name).unwrap().clone()).collect();
        model.merge(backend, Some(Default::default())).unwrap();
        let merged = case.merged();
        for name in &weights {
            // PiSSA and OLoRA go through a residual whose rounding is theirs.
            if let Ok(theirs) = merged.tensor(name) {
                let bound = if case.dtype == "f32" { 1e-6 } else { 2f64.powi(-7) };
                let found = distance(model.weight(name).unwrap(), &theirs);
                assert!(found <= bound, "{}: {name} is {found} away", case.name);
            }
        }
        assert!(model.restores_exactly());
        model.unmerge(backend).unwrap();
        for (name, before) in weights.iter().zip(&before) {
            assert_eq!(model.weight(name).unwrap().bytes(), before.bytes(), "{}: {name}", case.name);
        }
    }
}

#[test]
fn switching_between_adapters_and_back_changes_nothing() {
    let case = case("llama-bf16-two");
    let (mut model, _) = loaded(&case);
    let backend = &mut Cpu::new();
    let weight = model.sites("a0").unwrap()[0].weight.clone();
    model.set_active(&["a0"]).unwrap();
    let base = model.weight(&weight).unwrap().clone();
    model.merge(backend, Some(Default::default())).unwrap();
    let first = model.weight(&weight).unwrap().clone();
    for _ in 0..3 {
        model.switch(backend, &["a1"]).unwrap();
        assert_ne!(model.weight(&weight).unwrap(), &first);
        model.switch(backend, &["a0"]).unwrap();
        assert_eq!(model.weight(&weight).unwrap(), &first);
    }
    assert!(
        matches!(model.set_active(&[]), Err(Error::Adapter { .. })),
        "merged adapters cannot be deactivated"
    );
    model.unmerge(backend).unwrap();
    assert_eq!(model.weight(&weight).unwrap(), &base);
}

fn new_config(targets: &[&str]) -> AdapterConfig {
    AdapterConfig {
        rank: 4,
        alpha: 8.0,
        target_modules: Some(ModuleNames::List(targets.iter().map(|name| (*name).to_owned()).collect())),
        ..Default::default()
    }
}

#[test]
fn new_adapters_change_nothing_at_first() {
    let case = case("llama-attention");
    let module = "model.layers.1.self_attn.q_proj";
    let x = Tensor::new(&[3, 16], (0..48).map(|i| ((i * 7 % 11) as f32 - 5.0) / 4.0).collect()).unwrap();
    let backend = &mut Cpu::new();
    for (init, dora) in [
        (Init::Default, false),
        (Init::Gaussian, false),
        (Init::Pissa, false),
        (Init::Olora, false),
        (Init::Default, true),
        (Init::Pissa, true),
    ] {
        let mut model = open(&case);
        let config = AdapterConfig { init: init.clone(), dora, ..new_config(&["q_proj", "up_proj"]) };
        let report = model.create_adapter(backend, "new", config.clone(), 7).unwrap();
        assert_eq!(report.matched.len(), 4);
        let with = model.forward(backend, module, &x, None).unwrap();
        let original = model.checkpoint().tensor(&format!("{module}.weight")).unwrap();
        let mut expected = vec![0.0f32; 3 * 16];
        for (m, row) in x.to_f32().chunks(16).enumerate() {
            for (o, weights) in original.to_f32().chunks(16).enumerate() {
                expected[m * 16 + o] = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            }
        }
        let expected = Tensor::new(&[3, 16], expected).unwrap();
        assert!(distance(&with, &expected) < 4e-6, "{init:?} {dora}: {}", distance(&with, &expected));
        // The same seed gives the same adapter, another seed another one.
        if init == Init::Default {
            let mut second = open(&case);
            second.create_adapter(backend, "other", new_config(&["up_proj"]), 0).unwrap();
            second.create_adapter(backend, "new", config.clone(), 7).unwrap();
            second.create_adapter(backend, "third", config, 8).unwrap();
            let a = |model: &LoraModel, name: &str| model.adapter(name).unwrap().layers[module].a.clone();
            assert_eq!(a(&model, "new"), a(&second, "new"));
            assert_ne!(a(&second, "new"), a(&second, "third"));
        }
    }
}

#[test]
fn a_bias_needs_one_of_the_base_to_add_to() {
    let config = AdapterConfig { lora_bias: true, ..new_config(&["q_proj"]) };
    let create = |name: &str| open(&case(name)).create_adapter(&Cpu::new(), "new", config.clone(), 0);
    assert!(create("llama-lora-bias").is_ok());
    let error = create("llama-attention").unwrap_err().to_string();
    assert!(error.contains("q_proj") && error.contains("`lora_bias`"), "{error}");
}

#[test]
fn the_start_of_a_new_adapter_has_pefts_distribution() {
    let backend = &mut Cpu::new();
    let mut model = open(&case("llama-attention"));
    let values = |model: &LoraModel, name: &str| doubles(&model.adapter(name).unwrap().layers["lm_head"].a);
    let config = |init| AdapterConfig { init, rank: 64, ..new_config(&["lm_head"]) };
    model.create_adapter(backend, "uniform", config(Init::Default), 1).unwrap();
    let uniform = values(&model, "uniform");
    assert!(largest(&uniform) <= 0.25 && largest(&uniform) > 0.24, "1/√16");
    model.create_adapter(backend, "gaussian", config(Init::Gaussian), 1).unwrap();
    let gaussian = values(&model, "gaussian");
    let deviation = (gaussian.iter().map(|v| v * v).sum::<f64>() / gaussian.len() as f64).sqrt();
    assert!((deviation * 64.0 - 1.0).abs() < 0.1, "{deviation}");
}

#[test]
fn trainable_parameters_are_counted() {
    let backend = &mut Cpu::new();
    let mut model = open(&case("llama-bias-all"));
    let config = AdapterConfig {
        bias: BiasMode::LoraOnly,
        modules_to_save: vec!["model.norm".into()],
        ..new_config(&["q_proj"])
    };
    model.create_adapter(backend, "one", config, 0).unwrap();
    model.create_adapter(backend, "two", new_config(&["o_proj"]), 0).unwrap();
    model.mark_only_lora_as_trainable();
    let report = model.trainable();
    // A [4, 16], B [16, 4], the bias of q_proj, the final norm.
    assert_eq!(report.trainable, 64 + 64 + 16 + 16);
    assert!(report.tensors.keys().all(|name| name.starts_with("one/")));
    let base: u64 = model.checkpoint().tensors().values().map(|info| info.elements() as u64).sum();
    assert_eq!(report.total, base + report.trainable + 128);
    assert!(model.layer_mut("two", "model.layers.0.self_attn.o_proj").is_err(), "frozen");
    assert!(model.layer_mut("one", "model.layers.0.self_attn.q_proj").is_ok());
}

#[test]
fn combined_adapters_are_the_weighted_sum() {
    let case = case("llama-two");
    let (mut model, _) = loaded(&case);
    let module = "model.layers.0.self_attn.q_proj";
    let delta = |model: &LoraModel, name: &str| {
        let adapter = model.adapter(name).unwrap();
        let site = model.sites(name).unwrap().iter().find(|site| site.layer == module).unwrap();
        let (a, b) = (doubles(&adapter.layers[module].a), doubles(&adapter.layers[module].b));
        let rank = a.len() / 16;
        let mut delta = vec![0.0; 256];
        for (index, value) in delta.iter_mut().enumerate() {
            let (o, i) = (index / 16, index % 16);
            *value = site.scale * (0..rank).map(|k| b[o * rank + k] * a[k * 16 + i]).sum::<f64>();
        }
        delta
    };
    let weights = [("a0", 0.5), ("a1", -2.0)];
    let sum: Vec<f64> =
        delta(&model, "a0").iter().zip(delta(&model, "a1")).map(|(one, two)| 0.5 * one - 2.0 * two).collect();
    model.add_weighted_adapter("cat", &weights, Combination::Cat).unwrap();
    model.add_weighted_adapter("svd", &weights, Combination::Svd { rank: Some(6) }).unwrap();
    for name in ["cat", "svd"] {
        let found = delta(&model, name);
        let difference: Vec<f64> = found.iter().zip(&sum).map(|(one, two)| one - two).collect();
        assert!(largest(&difference) < 1e-5 * largest(&sum), "{name}");
    }
    assert_eq!(model.adapter("cat").unwrap().config.rank, 6);
    // Linear combination needs equal ranks; of one adapter with a weight it is exact.
    assert!(model.add_weighted_adapter("no", &weights, Combination::Linear).is_err());
    model.add_weighted_adapter("linear", &[("a1", -2.0)], Combination::Linear).unwrap();
    let twice: Vec<f64> = delta(&model, "a1").iter().map(|value| -2.0 * value).collect();
    let difference: Vec<f64> =
        delta(&model, "linear").iter().zip(&twice).map(|(one, two)| one - two).collect();
    assert!(largest(&difference) < 1e-5 * largest(&twice));
}

#[test]
fn hot_swap_keeps_buffers_and_takes_smaller_ranks() {
    let case = case("llama-two");
    let adapters = case.adapters();
    let backend = &mut Cpu::new();
    let module = "model.layers.0.self_attn.q_proj";
    let x = Tensor::new(&[2, 16], (0..32).map(|i| (i as f32 - 16.0) / 8.0).collect()).unwrap();
    // The second adapter, cut down to the modules of the first.
    let mut small = adapters[1].clone();
    small.layers.retain(|path, _| path.ends_with("q_proj"));
    small.config.target_modules = adapters[0].config.target_modules.clone();
    let mut alone = open(&case);
    alone.add_adapter(backend, "a", small.clone()).unwrap();
    let expected = alone.forward(backend, module, &x, None).unwrap();

    let mut model = open(&case);
    model.add_adapter(backend, "a", adapters[0].clone()).unwrap();
    let address = model.adapter("a").unwrap().layers[module].a.bytes().as_ptr();
    model.hot_swap("a", small.clone()).unwrap();
    assert_eq!(model.adapter("a").unwrap().layers[module].a.bytes().as_ptr(), address);
    assert!(distance(&model.forward(backend, module, &x, None).unwrap(), &expected) < 1e-6);
    assert_eq!(model.compact("a").unwrap().layers, small.layers, "saved without the zeros");
    let mut grown = open(&case);
    grown.add_adapter(backend, "a", small).unwrap();
    assert!(grown.hot_swap("a", adapters[0].clone()).is_err(), "the rank must not grow");
}

#[test]
fn adapters_can_be_switched_off_and_deleted() {
    let case = case("llama-attention");
    let (mut model, _) = loaded(&case);
    let backend = &mut Cpu::new();
    let module = "model.layers.0.self_attn.q_proj";
    let x = Tensor::new(&[1, 16], vec![1.0f32; 16]).unwrap();
    let with = model.forward(backend, module, &x, None).unwrap();
    model.set_enabled(false).unwrap();
    let without = model.forward(backend, module, &x, None).unwrap();
    assert_ne!(with, without);
    model.set_enabled(true).unwrap();
    model.set_active(&[]).unwrap();
    assert_eq!(model.forward(backend, module, &x, None).unwrap(), without);
    model.set_active(&["a0"]).unwrap();
    assert_eq!(model.forward(backend, module, &x, None).unwrap(), with);
    assert!(model.set_active(&["absent"]).is_err());
    model.delete_adapter("a0").unwrap();
    assert!(model.adapter("a0").is_err() && model.active().is_empty());
}

#[test]
fn configurations_without_targets_get_the_models_defaults() {
    for (name, expected) in [("llama-attention", 4), ("gpt2-attention", 2), ("bert-query", 4)] {
        let mut model = open(&case(name));
        let config = AdapterConfig { target_modules: None, ..new_config(&[]) };
        let report = model.create_adapter(&Cpu::new(), "new", config, 0).unwrap();
        assert_eq!(report.matched.len(), expected, "{name}");
    }
    let mut model = open(&case("conv"));
    let config = AdapterConfig { target_modules: None, ..new_config(&[]) };
    assert!(matches!(model.create_adapter(&Cpu::new(), "new", config, 0), Err(Error::NoMatch(_))));
}

#[test]
fn all_linear_leaves_embeddings_and_the_head_alone() {
    let mut model = open(&case("llama-attention"));
    let config =
        AdapterConfig { target_modules: Some(ModuleNames::Pattern("all-linear".into())), ..new_config(&[]) };
    let report = model.create_adapter(&Cpu::new(), "new", config, 0).unwrap();
    assert_eq!(report.matched.len(), 14);
    assert!(report.matched.iter().all(|target| target.module.ends_with("_proj")));
}

#[test]
fn layers_that_were_changed_to_something_unfit_are_refused() {
    let case = case("llama-attention");
    let module = "model.layers.0.self_attn.q_proj";
    let x = Tensor::new(&[1, 16], vec![1.0f32; 16]).unwrap();
    let backend = &mut Cpu::new();
    for a in [vec![], vec![0, 16], vec![64], vec![4, 8], vec![3, 16]] {
        let (mut model, _) = loaded(&case);
        model.set_trainable("a0", true).unwrap();
        let len = a.iter().product();
        model.layer_mut("a0", module).unwrap().a = Tensor::new(&a, vec![0.0f32; len]).unwrap();
        assert!(model.forward(backend, module, &x, None).is_err(), "{a:?}");
        assert!(model.merge(backend, None).is_err(), "{a:?}");
    }
    let (model, _) = loaded(&case);
    for x in [Tensor::new(&[16], vec![1.0f32; 16]).unwrap(), Tensor::new(&[2, 8], vec![1.0f32; 16]).unwrap()]
    {
        assert!(model.forward(backend, module, &x, None).is_err());
    }
    assert!(model.embed(backend, module, &[0]).is_err(), "not an embedding");
    assert!(Tensor::new(&[usize::MAX, 2], vec![1.0f32; 2]).is_err());
}

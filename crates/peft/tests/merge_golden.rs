//! Merged checkpoints against PEFT's `merge_and_unload`.

mod common;

use common::{Case, cases, doubles, half_step, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::Progress;
use lora_peft::binding::{Site, bind};
use lora_peft::{Adapter, Checkpoint, LayerKind};
use lora_peft::{Edit, EditOptions, Weighted};
use std::collections::BTreeMap;

fn weighted<'a>(adapters: &'a [Adapter]) -> Vec<Weighted<'a>> {
    let one = |(index, adapter)| Weighted { name: format!("adapter {index}"), adapter, weight: 1.0 };
    adapters.iter().enumerate().map(one).collect()
}

fn merge(case: &Case, base: &Checkpoint, adapters: &[Adapter], options: EditOptions) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let edit = Edit::merge(base, &weighted(adapters), options)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    edit.write(&Cpu::new(), &directory.path().join("merged"), &Progress::new())
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    directory
}

#[test]
fn merged_checkpoints_equal_pefts() {
    for case in cases() {
        let base = Checkpoint::open(&case.base).unwrap();
        let adapters = case.adapters();
        let directory = merge(&case, &base, &adapters, EditOptions::default());
        let ours = Checkpoint::open(&directory.path().join("merged")).unwrap();
        let theirs = case.merged();
        let exact = if case.dtype == "f32" { BTreeMap::new() } else { exact_weights(&base, &adapters) };
        let mut compared = 0;
        for name in ours.tensors().keys() {
            let Ok(expected) = theirs.tensor(name) else {
                assert_eq!(&*ours.bytes(name).unwrap(), &*base.bytes(name).unwrap(), "{}: {name}", case.name);
                continue;
            };
            compared += 1;
            let (ours, expected) = (ours.tensor(name).unwrap(), expected);
            assert_eq!(
                (ours.shape(), ours.dtype()),
                (expected.shape(), expected.dtype()),
                "{}: {name}",
                case.name
            );
            let (ours, theirs) = (doubles(&ours), doubles(&expected));
            match exact.get(name) {
                Some(exact) => compare_half(&case, name, &ours, &theirs, exact),
                None => {
                    let bound = 1e-6 * largest(&theirs);
                    for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                        assert!(
                            (ours - theirs).abs() <= bound,
                            "{}: {name}[{index}]: {ours} and {theirs}",
                            case.name
                        );
                    }
                }
            }
        }
        assert_eq!(compared, theirs.tensors().len(), "{}: tensors that PEFT changed", case.name);
    }
}

/// Within one rounding of the exact sum, and never further from it than PEFT. The sum of Δ in `f32` may be off in its
/// last digits, which decides between two equally near values.
fn compare_half(case: &Case, name: &str, ours: &[f64], theirs: &[f64], exact: &[f64]) {
    let slack = 1e-6 * largest(exact);
    for (index, ((ours, theirs), exact)) in ours.iter().zip(theirs).zip(exact).enumerate() {
        let error = (ours - exact).abs();
        assert!(
            error <= half_step(&case.dtype, *exact) + slack,
            "{}: {name}[{index}]: {ours} for {exact}",
            case.name
        );
        assert!(
            error <= (theirs - exact).abs() + slack,
            "{}: {name}[{index}]: {ours} for {exact}, but PEFT has {theirs}",
            case.name
        );
    }
}

/// W + Σ s·B·A in `f64`, normalised for DoRA.
fn exact_weights(base: &Checkpoint, adapters: &[Adapter]) -> BTreeMap<String, Vec<f64>> {
    let mut weights = BTreeMap::new();
    for adapter in adapters {
        assert!(adapter.config.rank_pattern.is_empty() && adapter.config.alpha_pattern.is_empty());
        for site in bind(adapter, base).unwrap().sites {
            let original = || doubles(&base.tensor(&site.weight).unwrap());
            let exact: &mut Vec<f64> = weights.entry(site.weight.clone()).or_insert_with(original);
            add_exactly(exact, &base.info(&site.weight).unwrap().shape, adapter, &site);
            let layer = &adapter.layers[&site.layer];
            if let (Some(bias), Some(name)) = (&layer.bias, &site.bias) {
                let start = adapter.replaced.get(name).cloned();
                let start = start.unwrap_or_else(|| base.tensor(name).unwrap());
                let scale = adapter.config.alpha / adapter.config.rank as f64;
                let sum = doubles(&start)
                    .iter()
                    .zip(doubles(bias))
                    .map(|(sum, value)| sum + scale * value)
                    .collect();
                weights.insert(name.clone(), sum);
            }
        }
    }
    weights
}

fn add_exactly(weight: &mut [f64], shape: &[usize], adapter: &Adapter, site: &Site) {
    let layer = &adapter.layers[&site.layer];
    let rank = adapter.config.rank;
    let scale = adapter.config.alpha / rank as f64;
    let (a, b) = (doubles(&layer.a), doubles(&layer.b));
    let stacked = layer.a.shape()[0];
    let (input, output, experts) = (a.len() / stacked, b.len() / stacked, stacked / rank);
    let input_major = matches!(site.kind, LayerKind::TransposedLinear | LayerKind::Embedding);
    assert_eq!(weight.len(), experts * input * output, "{shape:?}");
    for expert in 0..experts {
        for o in 0..output {
            for i in 0..input {
                let sum: f64 = (0..rank)
                    .map(|k| b[o * stacked + k * experts + expert] * a[(expert * rank + k) * input + i])
                    .sum();
                let index =
                    if input_major { i * output + o } else { expert * input * output + o * input + i };
                weight[index] += scale * sum;
            }
        }
    }
    if let Some(magnitude) = &layer.magnitude {
        for (row, magnitude) in weight.chunks_mut(input).zip(doubles(magnitude)) {
            let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            row.iter_mut().for_each(|value| *value *= magnitude / norm);
        }
    }
}

#[test]
fn records_give_the_base_back_bit_for_bit() {
    for case in cases() {
        let base = Checkpoint::open(&case.base).unwrap();
        let adapters = case.adapters();
        let options = EditOptions { restore: Some(Default::default()), report: true, ..Default::default() };
        let directory = merge(&case, &base, &adapters, options);
        let merged = Checkpoint::open(&directory.path().join("merged")).unwrap();
        let unmerge = Edit::unmerge(&merged, &weighted(&adapters), EditOptions::default()).unwrap();
        assert!(unmerge.is_exact());
        let out = directory.path().join("unmerged");
        unmerge
            .write(&Cpu::new(), &out, &Progress::new())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for file in ["model.safetensors", "config.json"] {
            let (one, two) =
                (std::fs::read(case.base.join(file)).unwrap(), std::fs::read(out.join(file)).unwrap());
            if file == "config.json" {
                let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
                assert_eq!(parse(&one), parse(&two), "{}", case.name);
            } else {
                let (one, two) = (Checkpoint::open(&case.base).unwrap(), Checkpoint::open(&out).unwrap());
                assert_eq!(
                    one.tensors().keys().collect::<Vec<_>>(),
                    two.tensors().keys().collect::<Vec<_>>()
                );
                for name in one.tensors().keys() {
                    assert_eq!(*one.bytes(name).unwrap(), *two.bytes(name).unwrap(), "{}: {name}", case.name);
                }
            }
        }
    }
}

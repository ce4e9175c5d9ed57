//! Merging in files and merging in memory are one computation: the same bits, the same rules.

mod common;

use common::{Case, case, cases};
use lora_kernels::cpu::Cpu;
use lora_peft::adapter::{Init, ModuleNames};
use lora_peft::tensor::{Tensor, Values};
use lora_peft::{
    Adapter, AdapterConfig, Checkpoint, Edit, EditOptions, Error, LoraModel, Progress, Weighted,
};
use std::collections::BTreeMap;
use std::path::Path;

fn model(base: &Path, adapters: &[Adapter]) -> LoraModel {
    let mut model = LoraModel::new(Checkpoint::open(base).unwrap());
    for (index, adapter) in adapters.iter().enumerate() {
        model.add_adapter(&Cpu::new(), &index.to_string(), adapter.clone()).unwrap();
    }
    model
}

/// The checkpoint that merging into files gives.
fn merged(base: &Path, adapters: &[Adapter], out: &Path) -> Checkpoint {
    let base = Checkpoint::open(base).unwrap();
    let adapters: Vec<Weighted<'_>> =
        adapters.iter().map(|adapter| Weighted { name: "adapter".into(), adapter, weight: 1.0 }).collect();
    let edit = Edit::merge(&base, &adapters, EditOptions::default()).unwrap();
    edit.write(&Cpu::new(), out, &Progress::new()).unwrap();
    Checkpoint::open(out).unwrap()
}

/// The weights that a model has in memory, among those of a checkpoint.
fn weights(model: &LoraModel, checkpoint: &Checkpoint) -> BTreeMap<String, Tensor> {
    let names = checkpoint.tensors().keys();
    names.filter_map(|name| Some((name.clone(), model.weight(name).ok()?.clone()))).collect()
}

#[test]
fn every_case_is_merged_to_the_same_bits() {
    let mut compared = 0;
    // What PiSSA and OLoRA leave is rounded in memory, before the adapter is added.
    let takes_from_base = |case: &Case| {
        case.adapters().iter().any(|adapter| matches!(adapter.config.init, Init::Pissa | Init::Olora))
    };
    for case in cases().iter().filter(|case| !takes_from_base(case)) {
        let directory = tempfile::tempdir().unwrap();
        let adapters = case.adapters();
        let files = merged(&case.base, &adapters, &directory.path().join("merged"));
        for restore in [None, Some(Default::default())] {
            let mut model = model(&case.base, &adapters);
            let names: Vec<String> = model.adapter_names().map(str::to_owned).collect();
            model.set_active(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            model.merge(&Cpu::new(), restore).unwrap();
            for (name, weight) in weights(&model, &files) {
                assert_eq!(weight.bytes(), files.bytes(&name).unwrap(), "{}: {name}", case.name);
                compared += 1;
            }
        }
    }
    assert!(compared >= 200, "{compared}");
}

#[test]
fn pissa_with_magnitudes_is_merged_from_what_it_left() {
    let (base, backend) = (case("llama-attention").base, &mut Cpu::new());
    let config = AdapterConfig {
        rank: 4,
        init: Init::Pissa,
        dora: true,
        target_modules: Some(ModuleNames::List(vec!["q_proj".into()])),
        ..Default::default()
    };
    let mut trained = model(&base, &[]);
    trained.create_adapter(backend, "0", config, 1).unwrap();
    let modules: Vec<String> = trained.adapter("0").unwrap().layers.keys().cloned().collect();
    for module in &modules {
        let Values::F32(b) = trained.layer_mut("0", module).unwrap().b.values_mut() else { panic!("f32") };
        b.iter_mut().for_each(|value| *value *= 1.5);
    }
    let directory = tempfile::tempdir().unwrap();
    trained.save_adapter("0", &directory.path().join("adapter")).unwrap();
    let adapters = [Adapter::load(&directory.path().join("adapter")).unwrap()];
    let files = merged(&base, &adapters, &directory.path().join("merged"));
    let mut model = model(&base, &adapters);
    model.merge(backend, None).unwrap();
    let found = weights(&model, &files);
    assert!(found.len() >= modules.len());
    for (name, weight) in found {
        assert_eq!(weight.bytes(), files.bytes(&name).unwrap(), "{name}");
    }
}

/// A plain adapter and one with magnitudes, of one base.
fn plain_and_dora() -> (LoraModel, Checkpoint) {
    let (plain, dora) = (case("llama-attention"), case("llama-dora"));
    let adapters = [plain.adapters().remove(0), dora.adapters().remove(0)];
    (model(&plain.base, &adapters), Checkpoint::open(&plain.base).unwrap())
}

#[test]
fn a_switch_from_magnitudes_stays_exact() {
    let ((mut model, base), backend) = (plain_and_dora(), &mut Cpu::new());
    let before = weights(&model, &base);
    model.set_active(&["0"]).unwrap();
    model.merge(backend, Some(Default::default())).unwrap();
    let plain = weights(&model, &base);
    for _ in 0..2 {
        model.switch(backend, &["1"]).unwrap();
        assert!(model.restores_exactly());
        assert_ne!(weights(&model, &base), plain);
        model.switch(backend, &["0"]).unwrap();
        assert!(model.restores_exactly());
        assert_eq!(weights(&model, &base), plain);
    }
    model.unmerge(backend).unwrap();
    assert_eq!(weights(&model, &base), before);
}

#[test]
fn a_switch_that_fails_changes_nothing() {
    for restore in [None, Some(Default::default())] {
        let ((mut model, base), backend) = (plain_and_dora(), &mut Cpu::new());
        model.set_active(&["0"]).unwrap();
        model.merge(backend, restore).unwrap();
        let merged = weights(&model, &base);
        assert!(matches!(model.switch(backend, &["0", "1"]), Err(Error::Module { .. })));
        assert!(matches!(model.switch(backend, &["none"]), Err(Error::Adapter { .. })));
        assert_eq!((model.merged(), model.active()), (&["0".to_owned()][..], &["0".to_owned()][..]));
        assert_eq!(weights(&model, &base), merged);
        model.unmerge(backend).unwrap();
    }
}

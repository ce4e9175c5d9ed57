//! Editing checkpoints on disk: shards, element types, records, tied weights, extraction.

mod common;

use common::{Case, case, doubles, half_step, largest};
use lora_kernels::cpu::Cpu;
use lora_kernels::{DType, Rounding};
use lora_peft::adapter::ModuleNames;
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::making::{ExtractOptions, Extracted, extract};
use lora_peft::merge::Records;
use lora_peft::tensor::{Dtype, Tensor};
use lora_peft::{
    Adapter, AdapterConfig, AdapterLayer, Checkpoint, Edit, EditOptions, Error, Progress, Weighted,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn one<'a>(adapter: &'a Adapter, weight: f64) -> Vec<Weighted<'a>> {
    vec![Weighted { name: "one".into(), adapter, weight }]
}

fn write(edit: Edit<'_>, out: PathBuf) -> Checkpoint {
    edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
    Checkpoint::open(&out).unwrap()
}

fn same_tensors(one: &Checkpoint, two: &Checkpoint) {
    assert!(one.tensors().keys().eq(two.tensors().keys()));
    for name in one.tensors().keys() {
        assert_eq!(*one.bytes(name).unwrap(), *two.bytes(name).unwrap(), "{name}");
    }
}

fn recorded() -> EditOptions {
    EditOptions { restore: Some(Default::default()), ..Default::default() }
}

/// Writes tensors of a checkpoint into a new file, with an integer tensor beside them.
fn write_file(path: &Path, source: &Checkpoint, names: &[&String], with_integers: bool) {
    let mut outlines: Vec<Outline> = names
        .iter()
        .map(|name| {
            let info = source.info(name).unwrap();
            Outline { name: (*name).clone(), dtype: info.dtype, shape: info.shape.clone() }
        })
        .collect();
    if with_integers {
        outlines.push(Outline { name: "positions".into(), dtype: Dtype::I64, shape: vec![3] });
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = ShardWriter::create(path, &metadata, &outlines).unwrap();
    for name in names {
        writer.write(&source.bytes(name).unwrap()).unwrap();
    }
    if with_integers {
        writer.write(&[7; 24]).unwrap();
    }
    writer.finish().unwrap();
}

fn sharded(case: &Case, directory: &Path) {
    let source = Checkpoint::open(&case.base).unwrap();
    let names: Vec<&String> = source.tensors().keys().collect();
    let (first, second) = names.split_at(names.len() / 2);
    std::fs::create_dir(directory).unwrap();
    write_file(&directory.join("model-00001-of-00002.safetensors"), &source, first, false);
    write_file(&directory.join("model-00002-of-00002.safetensors"), &source, second, true);
    let mut map = serde_json::Map::new();
    map.extend(first.iter().map(|name| ((*name).clone(), json!("model-00001-of-00002.safetensors"))));
    map.extend(second.iter().map(|name| ((*name).clone(), json!("model-00002-of-00002.safetensors"))));
    map.insert("positions".into(), json!("model-00002-of-00002.safetensors"));
    let index = json!({ "metadata": { "total_size": 0, "origin": "here" }, "weight_map": map });
    std::fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(directory.join("tokenizer.json"), b"{}").unwrap();
    std::fs::write(directory.join("adapter_config.json"), b"{}").unwrap();
    std::fs::write(directory.join("pytorch_model.bin"), b"old weights").unwrap();
    for name in ["pooling", "dense", "onnx"] {
        std::fs::create_dir(directory.join(name)).unwrap();
    }
    std::fs::write(directory.join("pooling/config.json"), b"{}").unwrap();
    std::fs::write(directory.join("dense/model.safetensors"), b"a module's own").unwrap();
    std::fs::write(directory.join("onnx/model.onnx"), b"old weights").unwrap();
    // As sentence-transformers lists them.
    let modules =
        json!([{ "idx": 0, "path": "" }, { "idx": 1, "path": "pooling" }, { "idx": 2, "path": "dense" }]);
    std::fs::write(directory.join("modules.json"), modules.to_string()).unwrap();
}

#[test]
fn shards_stay_shards_and_side_files_come_along() {
    let case = case("llama-attention");
    let root = tempfile::tempdir().unwrap();
    sharded(&case, &root.path().join("base"));
    let base = Checkpoint::open(&root.path().join("base")).unwrap();
    let adapters = case.adapters();
    let whole = Checkpoint::open(&case.base).unwrap();
    let whole = write(
        Edit::merge(&whole, &one(&adapters[0], 1.0), EditOptions::default()).unwrap(),
        root.path().join("whole"),
    );
    let edit = Edit::merge(&base, &one(&adapters[0], 1.0), EditOptions::default()).unwrap();
    let bytes = edit.bytes();
    let progress = Progress::new();
    let out = root.path().join("merged");
    let summary = edit.write(&Cpu::new(), &out, &progress).unwrap();
    assert_eq!((progress.done(), progress.total(), summary.bytes), (bytes, bytes, bytes));

    let merged = Checkpoint::open(&out).unwrap();
    assert_eq!(merged.shards().len(), 2);
    for (new, old) in merged.shards().iter().zip(base.shards()) {
        assert_eq!(
            (new.file_name(), new.names(), new.metadata()),
            (old.file_name(), old.names(), old.metadata())
        );
    }
    assert_eq!(merged.index_metadata()["origin"], json!("here"));
    assert_eq!(merged.index_metadata()["total_size"], json!(bytes));
    assert_eq!(*merged.bytes("positions").unwrap(), [7; 24]);
    for name in whole.tensors().keys() {
        assert_eq!(*whole.bytes(name).unwrap(), *merged.bytes(name).unwrap(), "{name}");
    }
    assert!(out.join("tokenizer.json").exists() && out.join("pooling/config.json").exists());
    assert!(!out.join("adapter_config.json").exists() && !out.join("pytorch_model.bin").exists());
    assert_eq!(std::fs::read(out.join("dense/model.safetensors")).unwrap(), b"a module's own");
    assert!(!out.join("onnx/model.onnx").exists());
}

#[test]
fn the_element_type_can_be_changed_on_the_way() {
    for (name, dtype, file_type) in
        [("llama-attention", DType::Bf16, "bf16"), ("llama-bf16", DType::F32, "f32")]
    {
        let case = case(name);
        let root = tempfile::tempdir().unwrap();
        let base = Checkpoint::open(&case.base).unwrap();
        let adapters = case.adapters();
        let plain = EditOptions { dtype: Some(DType::F32), ..Default::default() };
        let exact =
            write(Edit::merge(&base, &one(&adapters[0], 1.0), plain).unwrap(), root.path().join("f32"));
        let options = EditOptions { dtype: Some(dtype), ..Default::default() };
        let merged =
            write(Edit::merge(&base, &one(&adapters[0], 1.0), options).unwrap(), root.path().join("out"));
        for name in merged.tensors().keys() {
            let (found, exact) = (merged.tensor(name).unwrap(), doubles(&exact.tensor(name).unwrap()));
            assert_eq!(found.dtype(), dtype);
            for (found, exact) in doubles(&found).iter().zip(&exact) {
                assert!((found - exact).abs() <= half_step(file_type, *exact), "{name}");
            }
        }
        let key = if base.model_config().contains_key("dtype") { "dtype" } else { "torch_dtype" };
        let expected = if dtype == DType::F32 { "float32" } else { "bfloat16" };
        assert_eq!(merged.model_config()[key], json!(expected));
        let both = EditOptions { restore: Some(Default::default()), ..options };
        assert!(matches!(Edit::merge(&base, &one(&adapters[0], 1.0), both), Err(Error::Record(_))));
    }
}

#[test]
fn weights_scale_adapters() {
    let case = case("llama-attention");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let mut halved = adapters[0].clone();
    halved.config.alpha /= 2.0;
    let weighted = write(
        Edit::merge(&base, &one(&adapters[0], 0.5), EditOptions::default()).unwrap(),
        root.path().join("a"),
    );
    let scaled =
        write(Edit::merge(&base, &one(&halved, 1.0), EditOptions::default()).unwrap(), root.path().join("b"));
    same_tensors(&weighted, &scaled);
    // A saved module is there or not; half of it makes no sense.
    let saved = common::case("llama-saved");
    let (base, adapters) = (Checkpoint::open(&saved.base).unwrap(), saved.adapters());
    assert!(Edit::merge(&base, &one(&adapters[0], 0.5), EditOptions::default()).is_err());
    let dora = common::case("llama-dora").adapters();
    let edit = Edit::merge(&base, &one(&dora[0], 0.5), EditOptions::default()).unwrap();
    assert!(edit.write(&Cpu::new(), &root.path().join("c"), &Progress::new()).is_err());
}

#[test]
fn adapters_that_reshape_a_weight_are_merged_alone() {
    let base = Checkpoint::open(&case("llama-attention").base).unwrap();
    let (plain, pissa, dora) =
        (case("llama-attention").adapters(), case("llama-pissa").adapters(), case("llama-dora").adapters());
    for (first, second) in
        [(&plain, &pissa), (&pissa, &plain), (&plain, &dora), (&dora, &plain), (&pissa, &pissa)]
    {
        let both = [one(&first[0], 1.0), one(&second[0], 1.0)].concat();
        let edit = Edit::merge(&base, &both, EditOptions::default());
        assert!(matches!(edit, Err(Error::Module { .. })), "{edit:?}");
    }
}

#[test]
fn switching_on_disk_is_exact_with_a_record() {
    let case = case("llama-bf16-two");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let (from, to) = (one(&adapters[0], 1.0), one(&adapters[1], 0.75));
    let first = write(Edit::merge(&base, &from, recorded()).unwrap(), root.path().join("first"));
    let records = Records::open(&first).unwrap().unwrap();
    assert_eq!(records.adapters(), [("one".to_owned(), 1.0)]);
    let second = write(Edit::merge(&base, &to, recorded()).unwrap(), root.path().join("second"));

    let switch = Edit::switch(&first, &from, &to, EditOptions::default()).unwrap();
    assert!(switch.is_exact());
    let switched = write(switch, root.path().join("switched"));
    same_tensors(&switched, &second);
    let unmerge = Edit::unmerge(&switched, &to, EditOptions::default()).unwrap();
    let unmerged = write(unmerge, root.path().join("unmerged"));
    same_tensors(&unmerged, &base);
    assert!(Records::open(&unmerged).unwrap().is_none());

    // The wrong adapter, or the right one with another weight, is refused.
    for wrong in [one(&adapters[1], 1.0), one(&adapters[0], 0.5)] {
        let result = Edit::unmerge(&first, &wrong, EditOptions::default())
            .and_then(|edit| edit.write(&Cpu::new(), &root.path().join("wrong"), &Progress::new()));
        assert!(matches!(result, Err(Error::Kernel(lora_kernels::Error::RecordMismatch(_)))), "{result:?}");
        assert!(!root.path().join("wrong").exists());
    }
}

#[test]
fn records_survive_a_switch_to_and_from_dora() {
    let plain = case("llama-attention");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&plain.base).unwrap();
    let (plain, dora) = (plain.adapters(), case("llama-dora").adapters());
    let (plain, dora) = (one(&plain[0], 1.0), one(&dora[0], 1.0));
    let merged = write(Edit::merge(&base, &plain, recorded()).unwrap(), root.path().join("plain"));
    let there = write(
        Edit::switch(&merged, &plain, &dora, EditOptions::default()).unwrap(),
        root.path().join("dora"),
    );
    let direct = write(Edit::merge(&base, &dora, recorded()).unwrap(), root.path().join("direct"));
    same_tensors(&there, &direct);
    let back =
        write(Edit::switch(&there, &dora, &plain, EditOptions::default()).unwrap(), root.path().join("back"));
    same_tensors(&back, &merged);
    let unmerged =
        write(Edit::unmerge(&back, &plain, EditOptions::default()).unwrap(), root.path().join("unmerged"));
    same_tensors(&unmerged, &base);
}

#[test]
fn without_a_record_unmerging_is_close_and_says_so() {
    let case = case("llama-bf16-two");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let merged = write(
        Edit::merge(&base, &one(&adapters[0], 1.0), EditOptions::default()).unwrap(),
        root.path().join("merged"),
    );
    let unmerge = Edit::unmerge(&merged, &one(&adapters[0], 1.0), EditOptions::default()).unwrap();
    assert!(!unmerge.is_exact());
    let unmerged = write(unmerge, root.path().join("unmerged"));
    let mut changed = 0;
    for name in base.tensors().keys() {
        let (old, new) = (doubles(&base.tensor(name).unwrap()), doubles(&unmerged.tensor(name).unwrap()));
        let merged = largest(&doubles(&merged.tensor(name).unwrap()));
        // Rounding to the merged value and back.
        let bound = half_step("bf16", merged) + half_step("bf16", largest(&old));
        for (old, new) in old.iter().zip(&new) {
            assert!((old - new).abs() <= bound, "{name}");
            changed += usize::from(old != new);
        }
    }
    assert!(changed > 0, "this is what records are for");
    let dora = common::case("llama-dora").adapters();
    assert!(matches!(
        Edit::unmerge(&merged, &one(&dora[0], 1.0), EditOptions::default()),
        Err(Error::Record(_))
    ));
    let saved = common::case("llama-saved").adapters();
    assert!(matches!(
        Edit::unmerge(&merged, &one(&saved[0], 1.0), EditOptions::default()),
        Err(Error::Record(_))
    ));
}

/// A model whose output head is its input embedding: the head is not in the file.
fn tied(root: &Path) -> Checkpoint {
    let case = case("llama-attention");
    let source = Checkpoint::open(&case.base).unwrap();
    let directory = root.join("tied");
    std::fs::create_dir(&directory).unwrap();
    let names: Vec<&String> = source.tensors().keys().filter(|name| *name != "lm_head.weight").collect();
    write_file(&directory.join("model.safetensors"), &source, &names, false);
    let mut config = source.model_config().clone();
    config.insert("tie_word_embeddings".into(), json!(true));
    std::fs::write(directory.join("config.json"), Value::Object(config).to_string()).unwrap();
    Checkpoint::open(&directory).unwrap()
}

fn vocabulary_adapter(module: &str) -> Adapter {
    let embedding = module != "lm_head";
    let values = |len: usize| (0..len).map(|i| (i % 5) as f32 - 2.0).collect::<Vec<f32>>();
    let (a, b) = if embedding { ([2, 24], [16, 2]) } else { ([2, 16], [24, 2]) };
    let layer = AdapterLayer {
        a: Tensor::new(&a, values(a[0] * a[1])).unwrap(),
        b: Tensor::new(&b, values(b[0] * b[1])).unwrap(),
        bias: None,
        magnitude: None,
        embedding,
    };
    let config = AdapterConfig {
        rank: 2,
        target_modules: Some(ModuleNames::List(vec![module.to_owned()])),
        ..Default::default()
    };
    Adapter {
        config,
        layers: BTreeMap::from([(module.to_owned(), layer)]),
        replaced: BTreeMap::new(),
        notes: Vec::new(),
    }
}

#[test]
fn tied_weights_part_ways_when_one_changes() {
    let root = tempfile::tempdir().unwrap();
    let base = tied(root.path());
    let embedding = "model.embed_tokens.weight";
    for (module, changed, kept) in
        [("lm_head", "lm_head.weight", embedding), ("model.embed_tokens", embedding, "lm_head.weight")]
    {
        let adapter = vocabulary_adapter(module);
        let edit = Edit::merge(&base, &one(&adapter, 1.0), recorded()).unwrap();
        let merged = write(edit, root.path().join(module));
        assert_eq!(*merged.bytes(kept).unwrap(), *base.bytes(embedding).unwrap(), "{kept}");
        assert_ne!(*merged.bytes(changed).unwrap(), *base.bytes(embedding).unwrap(), "{changed}");
        assert_eq!(merged.model_config()["tie_word_embeddings"], json!(false));
        let unmerge = Edit::unmerge(&merged, &one(&adapter, 1.0), EditOptions::default()).unwrap();
        let unmerged = write(unmerge, root.path().join(format!("{module} back")));
        same_tensors(&unmerged, &base);
        assert_eq!(unmerged.model_config(), base.model_config());
    }
}

#[test]
fn switching_is_exact_whichever_of_two_tied_weights_an_adapter_changes() {
    let root = tempfile::tempdir().unwrap();
    let base = tied(root.path());
    let mut other = case("llama-attention").adapters().remove(0);
    // As PEFT saves adapted embeddings: with the base's own beside them.
    let embedding = "model.embed_tokens.weight";
    let mut along = vocabulary_adapter("model.embed_tokens");
    along.replaced.insert(embedding.into(), base.tensor(embedding).unwrap());
    other.config.rank = 4;
    let adapters = [
        ("head", vocabulary_adapter("lm_head")),
        ("embedding", vocabulary_adapter("model.embed_tokens")),
        ("along", along),
        ("attention", other),
    ];
    for (from, removed) in &adapters {
        let merge = Edit::merge(&base, &one(removed, 1.0), recorded()).unwrap();
        let merged = write(merge, root.path().join(from));
        for (to, added) in &adapters {
            let direct = Edit::merge(&base, &one(added, 0.5), recorded());
            let direct = write(direct.unwrap(), root.path().join(format!("{from} direct {to}")));
            let switch =
                Edit::switch(&merged, &one(removed, 1.0), &one(added, 0.5), EditOptions::default()).unwrap();
            assert!(switch.is_exact());
            let switched = write(switch, root.path().join(format!("{from} to {to}")));
            same_tensors(&switched, &direct);
            assert_eq!(switched.model_config(), direct.model_config(), "{from} to {to}");
            // The new record is of the new adapter.
            let unmerge = Edit::unmerge(&switched, &one(added, 0.5), EditOptions::default()).unwrap();
            let unmerged = write(unmerge, root.path().join(format!("{from} from {to}")));
            same_tensors(&unmerged, &base);
            assert_eq!(unmerged.model_config(), base.model_config(), "{from} to {to}");
        }
    }
}

#[test]
fn without_a_record_an_untied_head_stays_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let base = tied(root.path());
    let adapter = vocabulary_adapter("lm_head");
    let merge = Edit::merge(&base, &one(&adapter, 1.0), EditOptions::default()).unwrap();
    let merged = write(merge, root.path().join("merged"));
    let unmerge = Edit::unmerge(&merged, &one(&adapter, 1.0), EditOptions::default()).unwrap();
    assert!(!unmerge.is_exact());
    let unmerged = write(unmerge, root.path().join("unmerged"));
    assert_eq!(unmerged.model_config()["tie_word_embeddings"], json!(false));
    let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
    assert_eq!(*unmerged.bytes(embedding).unwrap(), *base.bytes(embedding).unwrap());
    let largest = largest(&doubles(&merged.tensor(head).unwrap()));
    let old = doubles(&base.tensor(embedding).unwrap());
    for (new, old) in doubles(&unmerged.tensor(head).unwrap()).iter().zip(&old) {
        assert!((new - old).abs() <= 2.0 * half_step("f32", largest), "{new} for {old}");
    }
    let switch = Edit::switch(&merged, &one(&adapter, 1.0), &one(&adapter, 0.5), EditOptions::default());
    let switched = write(switch.unwrap(), root.path().join("switched"));
    assert_ne!(*switched.bytes(head).unwrap(), *unmerged.bytes(head).unwrap());
}

#[test]
fn records_are_of_all_adapters_together() {
    let case = case("llama-two");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let both = [one(&adapters[0], 1.0), one(&adapters[1], 1.0)].concat();
    let merged = write(Edit::merge(&base, &both, recorded()).unwrap(), root.path().join("merged"));
    for part in &both {
        let error = Edit::unmerge(&merged, std::slice::from_ref(part), EditOptions::default()).unwrap_err();
        assert!(error.to_string().contains("2 adapters were merged"), "{error}");
    }
    // One that changes less than the one that was merged: the rest must not stay merged unseen.
    let second =
        write(Edit::merge(&base, &one(&adapters[1], 1.0), recorded()).unwrap(), root.path().join("b"));
    let error = Edit::unmerge(&second, &one(&adapters[0], 1.0), EditOptions::default()).unwrap_err();
    assert!(error.to_string().contains("o_proj"), "{error}");
}

#[test]
fn reports_count_every_weight() {
    let case = case("llama-bf16");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let options = EditOptions { report: true, ..Default::default() };
    let edit = Edit::merge(&base, &one(&adapters[0], 1e-3), options).unwrap();
    let summary = edit.write(&Cpu::new(), &root.path().join("out"), &Progress::new()).unwrap();
    let total = summary.total().unwrap();
    let adapted: usize =
        summary.weights.iter().map(|weight| base.info(&weight.weight).unwrap().elements()).sum();
    assert_eq!(total.elements, adapted as u64);
    assert_eq!(summary.weights.len(), 14);
    assert!(total.unchanged > 0 && total.unchanged < total.elements, "a small Δ is lost in part: {total:?}");
    assert!(total.rms_error > 0.0 && total.rms_error <= total.max_error);
}

#[test]
fn stochastic_rounding_keeps_small_deltas_on_average() {
    let case = case("llama-bf16");
    let root = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let options = EditOptions { rounding: Rounding::Stochastic { seed: 5 }, ..Default::default() };
    let merged = |name: &str| {
        write(Edit::merge(&base, &one(&adapters[0], 1e-3), options).unwrap(), root.path().join(name))
    };
    let (first, second) = (merged("first"), merged("second"));
    same_tensors(&first, &second);
    let exact = EditOptions { dtype: Some(DType::F32), ..Default::default() };
    let exact =
        write(Edit::merge(&base, &one(&adapters[0], 1e-3), exact).unwrap(), root.path().join("exact"));
    let (mut bias, mut variance) = (0.0, 0.0);
    for name in base.tensors().keys() {
        for (found, exact) in
            doubles(&first.tensor(name).unwrap()).iter().zip(doubles(&exact.tensor(name).unwrap()))
        {
            // A step up or down with the right probability has mean zero and at most this variance.
            bias += found - exact;
            variance += half_step("bf16", exact).powi(2);
        }
    }
    assert!(bias.abs() < 5.0 * variance.sqrt(), "{bias} of {}", variance.sqrt());
}

#[test]
fn an_extracted_adapter_gives_the_tuned_model_back() {
    for name in ["llama-attention", "gpt2-attention", "bert-query", "conv-bias", "bert-embedding"] {
        let case = case(name);
        let root = tempfile::tempdir().unwrap();
        let base = Checkpoint::open(&case.base).unwrap();
        let adapters = case.adapters();
        let tuned = write(
            Edit::merge(&base, &one(&adapters[0], 1.0), EditOptions::default()).unwrap(),
            root.path().join("tuned"),
        );
        let options = ExtractOptions { rank: 4, ..Default::default() };
        let Extracted { adapter, modules, .. } = extract(&base, &tuned, options, &Progress::new()).unwrap();
        assert_eq!(modules.len(), adapters[0].layers.len(), "{name}");
        for module in &modules {
            assert!(module.relative_error < 1e-5, "{name}: {module:?}");
        }
        // Through files, as others will read it.
        adapter.save(&root.path().join("adapter")).unwrap();
        let adapter = Adapter::load(&root.path().join("adapter")).unwrap();
        let again = write(
            Edit::merge(&base, &one(&adapter, 1.0), EditOptions::default()).unwrap(),
            root.path().join("again"),
        );
        for name in tuned.tensors().keys() {
            let (tuned, again) =
                (doubles(&tuned.tensor(name).unwrap()), doubles(&again.tensor(name).unwrap()));
            let bound = 2e-6 * largest(&tuned);
            assert!(
                tuned.iter().zip(&again).all(|(one, two)| (one - two).abs() <= bound),
                "{}: {name}",
                case.name
            );
        }
        // A rank that is too small keeps the best part and says what is left.
        let options = ExtractOptions { rank: 1, ..Default::default() };
        let modules = extract(&base, &tuned, options, &Progress::new()).unwrap().modules;
        assert!(
            modules.iter().all(|module| module.relative_error > 0.01 && module.relative_error < 1.0),
            "{name}"
        );
    }
    let base = Checkpoint::open(&case("conv").base).unwrap();
    assert!(matches!(
        extract(&base, &base, ExtractOptions::default(), &Progress::new()),
        Err(Error::NoMatch(_))
    ));
}

/// The same adapter under names with another first component.
fn renamed(adapter: &Adapter, rename: impl Fn(&str) -> String) -> Adapter {
    let mut renamed = adapter.clone();
    renamed.layers = adapter.layers.iter().map(|(name, layer)| (rename(name), layer.clone())).collect();
    renamed.replaced = adapter.replaced.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect();
    renamed
}

#[test]
fn adapters_of_another_class_of_the_same_model_are_found_their_place() {
    let root = tempfile::tempdir().unwrap();
    // BertModel's checkpoint and an adapter trained on a class that holds it as `bert`; and the other way round.
    for (base, name, rename) in [
        ("bert-query", "bert-query", (|name: &str| format!("bert.{name}")) as fn(&str) -> String),
        ("bert-classifier", "bert-classifier", |name| name.trim_start_matches("bert.").to_owned()),
    ] {
        let base = Checkpoint::open(&case(base).base).unwrap();
        let adapter = &case(name).adapters()[0];
        let other = renamed(adapter, rename);
        let expected = Edit::merge(&base, &one(adapter, 1.0), EditOptions::default()).unwrap();
        let expected = write(expected, root.path().join(format!("{name} expected")));
        let found = Edit::merge(&base, &one(&other, 1.0), EditOptions::default()).unwrap();
        same_tensors(&write(found, root.path().join(name)), &expected);
    }
}

#[test]
fn tensors_that_changed_after_the_merge_are_not_restored() {
    for name in ["llama-attention", "llama-dora"] {
        let case = case(name);
        let root = tempfile::tempdir().unwrap();
        let base = Checkpoint::open(&case.base).unwrap();
        let adapters = case.adapters();
        let edit = Edit::merge(&base, &one(&adapters[0], 1.0), recorded()).unwrap();
        let merged = write(edit, root.path().join("merged"));
        refuse_a_changed_bit(root.path(), merged, "model.layers.0.self_attn.q_proj.weight", 3, &adapters[0]);
    }
}

#[test]
fn a_change_that_no_sample_sees_is_refused() {
    // Larger than the sample of 65,536 elements that the record of a weight is recognised by.
    let (rows, columns) = (400, 512);
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("base");
    std::fs::create_dir(&directory).unwrap();
    let outline = Outline { name: "layer.weight".into(), dtype: Dtype::BF16, shape: vec![rows, columns] };
    let path = directory.join("model.safetensors");
    let mut writer = ShardWriter::create(&path, &BTreeMap::new(), &[outline]).unwrap();
    let values: Vec<u8> = (0..rows * columns)
        .flat_map(|i| half::bf16::from_f32((i % 97) as f32 / 100.0).to_le_bytes())
        .collect();
    writer.write(&values).unwrap();
    writer.finish().unwrap();
    let base = Checkpoint::open(&directory).unwrap();
    let values = |len: usize| (0..len).map(|i| (i % 7) as f32 / 50.0).collect::<Vec<f32>>();
    let layer = AdapterLayer {
        a: Tensor::new(&[2, columns], values(2 * columns)).unwrap(),
        b: Tensor::new(&[rows, 2], values(2 * rows)).unwrap(),
        bias: None,
        magnitude: None,
        embedding: false,
    };
    let config = AdapterConfig {
        rank: 2,
        target_modules: Some(ModuleNames::List(vec!["layer".into()])),
        ..Default::default()
    };
    let adapter = Adapter {
        config,
        layers: BTreeMap::from([("layer".into(), layer)]),
        replaced: BTreeMap::new(),
        notes: Vec::new(),
    };
    let merged =
        write(Edit::merge(&base, &one(&adapter, 1.0), recorded()).unwrap(), root.path().join("merged"));
    for element in [1, 77_777, 204_799] {
        refuse_a_changed_bit(
            root.path(),
            Checkpoint::open(merged.directory()).unwrap(),
            "layer.weight",
            element,
            &adapter,
        );
    }
    // Its file was written to meanwhile.
    let merged = Checkpoint::open(merged.directory()).unwrap();
    let unmerge = Edit::unmerge(&merged, &one(&adapter, 1.0), EditOptions::default()).unwrap();
    same_tensors(&write(unmerge, root.path().join("back")), &base);
}

/// Flips the last bit of one element in the file for a while.
fn refuse_a_changed_bit(root: &Path, merged: Checkpoint, name: &str, element: usize, adapter: &Adapter) {
    let info = merged.info(name).unwrap();
    let size = (info.bytes() / info.elements() as u64) as usize;
    let position = info.range.start as usize + element * size;
    let directory = merged.directory().to_owned();
    drop(merged);
    let path = directory.join("model.safetensors");
    let original = std::fs::read(&path).unwrap();
    let mut bytes = original.clone();
    bytes[position] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let merged = Checkpoint::open(&directory).unwrap();
    let edits = [
        Edit::unmerge(&merged, &one(adapter, 1.0), EditOptions::default()),
        Edit::switch(&merged, &one(adapter, 1.0), &one(adapter, 1.0), EditOptions::default()),
    ];
    for edit in edits {
        let out = root.join("out");
        let error = edit.unwrap().write(&Cpu::new(), &out, &Progress::new()).unwrap_err();
        assert!(matches!(error, Error::Record(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(!out.exists());
    }
    std::fs::write(&path, original).unwrap();
}

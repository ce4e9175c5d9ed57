//! Broken and contradictory input: each must be refused with an error that names what is wrong.

mod common;

use common::{case, golden};
use lora_peft::binding::bind;
use lora_peft::checkpoint::{Outline, ShardWriter};
use lora_peft::tensor::{Dtype, Tensor};
use lora_peft::{Adapter, AdapterConfig, Checkpoint, Error};
use lora_peft::{Edit, EditOptions, Weighted};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A copy of a golden adapter to break.
fn adapter(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(case(name).directory.join("adapter").join(file), directory.path().join(file)).unwrap();
    }
    directory
}

fn with_config(name: &str, change: impl FnOnce(&mut Value)) -> Result<Adapter, Error> {
    let directory = adapter(name);
    let path = directory.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    Adapter::load(directory.path())
}

fn with_weights(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<Adapter, Error> {
    let directory = adapter(name);
    let path = directory.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    Adapter::load(directory.path())
}

/// Rebuilds the weights' file with another set of tensors.
fn with_tensors(name: &str, change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> Result<Adapter, Error> {
    let directory = adapter(name);
    let path = directory.path().join("adapter_model.safetensors");
    let file = Checkpoint::open(&path).unwrap();
    let mut tensors: Vec<(String, Tensor)> =
        file.tensors().keys().map(|name| (name.clone(), file.tensor(name).unwrap())).collect();
    drop(file);
    change(&mut tensors);
    let views = tensors.iter().map(|(name, tensor)| {
        let dtype = lora_peft::tensor::file_type(tensor.dtype());
        let view = safetensors::tensor::TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes());
        (name.as_str(), view.unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    Adapter::load(directory.path())
}

fn config_key(result: Result<Adapter, Error>) -> String {
    match result {
        Err(Error::Config { key, .. }) => key,
        other => panic!("{other:?}"),
    }
}

fn tensor_name(result: Result<Adapter, Error>) -> String {
    match result {
        Err(Error::Tensor { name, .. }) => name,
        other => panic!("{other:?}"),
    }
}

fn says<T: std::fmt::Debug>(result: Result<T, Error>, words: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(words), "`{message}` does not say `{words}`");
}

const LLAMA: &str = "llama-attention";
const Q_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

#[test]
fn unknown_and_unsupported_keys_are_named() {
    for (key, value) in [
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 0})),
        ("use_bdlora", json!({"target_modules_bd_a": "q_proj"})),
        ("trainable_token_indices", json!([3, 3])),
        ("trainable_token_indices", json!({"embed_tokens": [-1]})),
        ("ensure_weight_tying", json!("yes")),
        ("kasa_config", json!({"x": 1})),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("loftq")),
        ("alora_invocation_tokens", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("arrow_config", json!({"x": 1})),
        ("a_key_of_the_future", json!(0.5)),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("bias", json!("some")),
        ("r", json!(0)),
        ("r", json!(-3)),
        ("r", json!("8")),
        ("lora_alpha", json!("x")),
        ("lora_dropout", json!(1.0)),
        ("peft_type", json!("LOHA")),
        ("target_modules", json!([1])),
        ("target_modules", json!("(")),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"(": 4})),
        ("alpha_pattern", json!([4])),
        ("layers_pattern", json!("layers")),
        ("layers_to_transform", json!("all")),
    ] {
        let found = config_key(with_config(LLAMA, |config| config[key] = value.clone()));
        assert_eq!(found, key, "{value}");
    }
}

#[test]
fn neutral_values_of_unknown_keys_are_kept() {
    for value in [json!(null), json!(false), json!([]), json!({})] {
        let adapter = with_config(LLAMA, |config| config["a_key_of_the_future"] = value.clone()).unwrap();
        assert_eq!(adapter.config.to_json()["a_key_of_the_future"], value);
    }
}

#[test]
fn configurations_that_are_no_json_are_refused() {
    assert!(matches!(AdapterConfig::from_slice(b"{\"r\": 8"), Err(Error::Malformed { .. })));
    assert!(matches!(AdapterConfig::from_slice(b"[1]"), Err(Error::Malformed { .. })));
    assert!(matches!(AdapterConfig::from_slice(b"{}"), Err(Error::Config { .. })));
    assert!(matches!(
        AdapterConfig::from_slice(b"{\"peft_type\": \"LORA\", \"lora_alpha\": NaN}"),
        Err(Error::Malformed { .. })
    ));
}

#[test]
fn broken_weights_files_are_refused() {
    says(with_weights(LLAMA, |bytes| bytes.truncate(bytes.len() - 4)), "truncated");
    says(with_weights(LLAMA, |bytes| bytes.truncate(100)), "truncated");
    says(with_weights(LLAMA, |bytes| bytes.truncate(3)), "shorter than 8 bytes");
    says(with_weights(LLAMA, |bytes| bytes.clear()), "shorter than 8 bytes");
    says(
        with_weights(LLAMA, |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes())),
        "larger than 100 MB",
    );
    says(
        with_weights(LLAMA, |bytes| bytes[..8].copy_from_slice(&200_000_000u64.to_le_bytes())),
        "larger than 100 MB",
    );
    says(with_weights(LLAMA, |bytes| bytes[8] = b'['), "malformed");
    says(with_weights(LLAMA, |bytes| bytes[20] = 0xFF), "UTF-8");
    says(with_weights(LLAMA, |bytes| bytes.extend([0; 8])), "too long");
}

#[test]
fn tensors_are_checked_one_by_one() {
    let position =
        |tensors: &[(String, Tensor)], name: &str| tensors.iter().position(|(n, _)| n == name).unwrap();
    let remove = |name: &'static str| {
        with_tensors(LLAMA, |tensors| {
            tensors.remove(position(tensors, name));
        })
    };
    assert_eq!(tensor_name(remove(Q_A)), Q_A);
    let b = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
    assert_eq!(tensor_name(remove(b)), b);

    let reshaped = with_tensors(LLAMA, |tensors| {
        let tensor = &mut tensors[0].1;
        let (rows, columns) = (tensor.shape()[0], tensor.shape()[1]);
        *tensor = tensor.clone().reshape(&[columns, rows]).unwrap();
    });
    assert!(matches!(reshaped, Err(Error::Tensor { .. })));
    let flat = with_tensors(LLAMA, |tensors| {
        let at = position(tensors, Q_A);
        let len = tensors[at].1.len();
        tensors[at].1 = tensors[at].1.clone().reshape(&[len]).unwrap();
    });
    assert_eq!(tensor_name(flat), Q_A);
    for value in [f32::NAN, f32::INFINITY] {
        let poisoned = with_tensors(LLAMA, |tensors| {
            let at = position(tensors, Q_A);
            let mut values = tensors[at].1.to_f32();
            values[3] = value;
            tensors[at].1 = Tensor::new(tensors[at].1.shape(), values).unwrap();
        });
        assert_eq!(tensor_name(poisoned), Q_A);
    }
    for name in [
        "base_model.model.model.layers.0.self_attn.q_proj.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ] {
        let added = with_tensors(LLAMA, |tensors| {
            tensors.push((name.into(), Tensor::new(&[1], vec![1.0f32]).unwrap()))
        });
        assert_eq!(tensor_name(added), name);
    }
    let magnitude = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
    let added = with_tensors(LLAMA, |tensors| {
        tensors.push((magnitude.into(), Tensor::new(&[16], vec![1.0f32; 16]).unwrap()))
    });
    assert_eq!(tensor_name(added), magnitude);
    let missing = with_tensors("llama-dora", |tensors| {
        tensors.retain(|(name, _)| !name.ends_with("layers.0.self_attn.q_proj.lora_magnitude_vector"))
    });
    assert!(tensor_name(missing).ends_with("lora_magnitude_vector"));
    assert!(
        tensor_name(with_config(LLAMA, |config| config["use_dora"] = json!(true)))
            .ends_with("lora_magnitude_vector")
    );
    // A magnitude under both of its names.
    let q = "layers.0.self_attn.q_proj.lora_magnitude_vector";
    let twice = with_tensors("llama-dora", |tensors| {
        let (name, tensor) = tensors.iter().find(|(name, _)| name.ends_with(q)).unwrap().clone();
        tensors.push((format!("{name}.weight"), tensor));
    });
    assert!(tensor_name(twice).contains(q));
    // A bias with and without `base_layer`.
    let bias = with_tensors("llama-bias-all", |tensors| {
        let inside = |name: &str| name.ends_with(".base_layer.bias");
        let (name, tensor) = tensors.iter().find(|(name, _)| inside(name)).unwrap().clone();
        tensors.push((name.replace(".base_layer.", "."), tensor));
    });
    assert!(tensor_name(bias).ends_with("bias"));
    // The rank in the configuration is not the tensors'.
    assert!(tensor_name(with_config(LLAMA, |config| config["r"] = json!(5))).ends_with("lora_A.weight"));
}

#[test]
fn magnitudes_may_have_the_name_of_their_parameter() {
    let renamed = with_tensors("llama-dora", |tensors| {
        for (name, _) in tensors.iter_mut().filter(|(name, _)| name.ends_with("magnitude_vector")) {
            *name += ".weight";
        }
    });
    assert_eq!(renamed.unwrap().layers, case("llama-dora").adapters()[0].layers);
}

#[test]
fn copies_of_saved_modules_must_be_copies() {
    let head = "base_model.model.lm_head";
    let with = |name: String, change: &dyn Fn(Tensor) -> Tensor| {
        with_tensors("llama-saved", |tensors| {
            let saved = tensors.iter().find(|(name, _)| *name == format!("{head}.weight")).unwrap().1.clone();
            tensors.push((name, change(saved)));
        })
    };
    let zeros = |tensor: Tensor| Tensor::zeros(tensor.dtype(), tensor.shape());
    let copy = format!("{head}.modules_to_save.weight");
    let original = format!("{head}.original_module.weight");
    let plain = &case("llama-saved").adapters()[0];
    assert_eq!(with(copy.clone(), &|saved| saved).unwrap().replaced, plain.replaced);
    assert_eq!(tensor_name(with(copy.clone(), &zeros)), copy);
    assert_eq!(with(original, &zeros).unwrap().replaced, plain.replaced);
    // Of modules that are not saved there is neither.
    let original = "base_model.model.model.norm.original_module.weight";
    assert_eq!(tensor_name(with(original.into(), &|saved| saved)), original);
    let copy = "base_model.model.model.norm.modules_to_save.weight";
    assert_eq!(tensor_name(with(copy.into(), &|saved| saved)), copy);
}

#[test]
fn adapters_that_do_not_fit_the_base_are_refused() {
    let base = Checkpoint::open(&case(LLAMA).base).unwrap();
    let bound = |adapter: Adapter| bind(&adapter, &base).map(|_| ());
    // More targets than layers, layers without a target, and another model's adapter.
    let more = with_config(LLAMA, |config| config["target_modules"] = json!(["q_proj", "v_proj", "k_proj"]))
        .unwrap();
    says(bound(more), "k_proj.lora_A.weight");
    let fewer = with_config(LLAMA, |config| config["target_modules"] = json!(["q_proj"])).unwrap();
    says(bound(fewer), "does not target it");
    says(
        bound(Adapter::load(&case("bert-query").directory.join("adapter")).unwrap()),
        "none of the adapter's modules, `encoder.layer.0.attention.self.query` for one; the adapter was made for `tiny-bert`",
    );
    let mut one_too_many = case(LLAMA).adapters().remove(0);
    let layer = one_too_many.layers["model.layers.0.self_attn.q_proj"].clone();
    one_too_many.layers.insert("model.layers.7.self_attn.q_proj".into(), layer);
    says(bound(one_too_many), "`model.layers.7.self_attn.q_proj`: the checkpoint has no such module");
    let biased = with_config(LLAMA, |config| config["bias"] = json!("all")).unwrap();
    assert!(bound(biased).is_ok(), "this base has no bias");
    let with_biases = Checkpoint::open(&case("llama-bias-all").base).unwrap();
    let missing = with_config("llama-lora-bias", |config| config["bias"] = json!("all")).unwrap();
    says(bind(&missing, &with_biases), ".bias");
    let saved = with_config(LLAMA, |config| config["modules_to_save"] = json!(["model.norm"])).unwrap();
    says(bound(saved), "model.norm.weight");
}

/// The base of a case with one tensor replaced by others, of zeros.
fn with_base_tensors(
    name: &str,
    replaced: &str,
    tensors: &[(&str, Dtype, &[usize])],
    config: Value,
) -> TempDir {
    let source = Checkpoint::open(&case(name).base).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kept = source.tensors().iter().filter(|(name, _)| *name != replaced);
    let mut outlines: Vec<Outline> = kept
        .map(|(name, info)| Outline { name: name.clone(), dtype: info.dtype, shape: info.shape.clone() })
        .collect();
    let new = |(name, dtype, shape): &(&str, Dtype, &[usize])| Outline {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: shape.to_vec(),
    };
    outlines.extend(tensors.iter().map(new));
    let path = directory.path().join("model.safetensors");
    let mut writer = ShardWriter::create(&path, &Default::default(), &outlines).unwrap();
    for outline in &outlines {
        match source.bytes(&outline.name).ok().filter(|_| outline.name != replaced) {
            Some(bytes) => writer.write(&bytes).unwrap(),
            None => writer.write(&vec![0; outline.bytes() as usize]).unwrap(),
        }
    }
    writer.finish().unwrap();
    let mut all = source.model_config().clone();
    all.extend(config.as_object().unwrap().clone());
    std::fs::write(directory.path().join("config.json"), Value::Object(all).to_string()).unwrap();
    directory
}

#[test]
fn quantized_weights_are_refused_by_name() {
    let module = "model.layers.0.self_attn.q_proj";
    let weight = format!("{module}.weight");
    let beside = |name: &str| format!("{module}.{name}");
    let adapters = case(LLAMA).adapters();
    let merge = |tensors: &[(&str, Dtype, &[usize])], config: Value| {
        let base = with_base_tensors(LLAMA, &weight, tensors, config);
        let base = Checkpoint::open(base.path()).unwrap();
        let weighted = [Weighted { name: "a".into(), adapter: &adapters[0], weight: 1.0 }];
        Edit::merge(&base, &weighted, EditOptions::default()).map(|_| ()).unwrap_err().to_string()
    };
    for (tensors, named) in [
        // bitsandbytes in 8 and 4 bits, FP8 with scales, a weight in double precision.
        (vec![(weight.clone(), Dtype::I8, vec![16, 16]), (beside("SCB"), Dtype::F32, vec![16])], &weight),
        (vec![(weight.clone(), Dtype::U8, vec![128, 1])], &weight),
        (vec![(weight.clone(), Dtype::F8_E4M3, vec![16, 16])], &weight),
        (vec![(weight.clone(), Dtype::F64, vec![16, 16])], &weight),
        // A scale says that even a weight in plain numbers is not the whole truth.
        (
            vec![(weight.clone(), Dtype::BF16, vec![16, 16]), (beside("weight_scale"), Dtype::F32, vec![1])],
            &beside("weight_scale"),
        ),
        // GPTQ and compressed-tensors have no `weight`.
        (
            vec![(beside("qweight"), Dtype::I32, vec![2, 16]), (beside("scales"), Dtype::F16, vec![1, 16])],
            &beside("qweight"),
        ),
        (vec![(beside("weight_packed"), Dtype::I32, vec![16, 2])], &beside("weight_packed")),
    ] {
        let dtype = tensors.iter().find(|(name, ..)| name == named).unwrap().1.to_string();
        let tensors: Vec<_> = tensors.iter().map(|(n, d, s)| (n.as_str(), *d, s.as_slice())).collect();
        let error = merge(&tensors, json!({ "quantization_config": { "quant_method": "some_method" } }));
        for words in [named.as_str(), &dtype, "some_method", "quantise"] {
            assert!(error.contains(words), "`{error}` does not say `{words}`");
        }
        assert!(merge(&tensors, json!({})).contains(named.as_str()));
    }
}

#[test]
fn quantized_weights_that_stay_are_copied_but_not_converted() {
    let packed: &[(&str, Dtype, &[usize])] = &[("model.layers.0.mlp.up_proj.weight", Dtype::U8, &[160, 1])];
    let config = json!({ "quantization_config": { "load_in_4bit": true } });
    let base = with_base_tensors(LLAMA, "model.layers.0.mlp.up_proj.weight", packed, config);
    let base = Checkpoint::open(base.path()).unwrap();
    let adapters = case(LLAMA).adapters();
    let weighted = [Weighted { name: "a".into(), adapter: &adapters[0], weight: 1.0 }];
    assert!(Edit::merge(&base, &weighted, EditOptions::default()).is_ok());
    let options = EditOptions { dtype: Some(lora_kernels::DType::Bf16), ..Default::default() };
    says(Edit::merge(&base, &weighted, options).map(|_| ()), "quantised");
}

#[test]
fn quantized_tensors_are_not_replaced() {
    let head: &[(&str, Dtype, &[usize])] = &[("lm_head.weight", Dtype::I8, &[24, 16])];
    let base = with_base_tensors("llama-saved", "lm_head.weight", head, json!({}));
    let base = Checkpoint::open(base.path()).unwrap();
    says(bind(&case("llama-saved").adapters()[0], &base), "lm_head.weight");
    let stacked: &[(&str, Dtype, &[usize])] = &[("experts.gate_up_proj_blocks", Dtype::U8, &[3, 12, 4])];
    let base = with_base_tensors("moe", "experts.gate_up_proj", stacked, json!({}));
    let base = Checkpoint::open(base.path()).unwrap();
    says(bind(&case("moe").adapters()[0], &base), "experts.gate_up_proj_blocks");
}

fn sharded() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let base = case(LLAMA).base;
    std::fs::copy(base.join("model.safetensors"), directory.path().join("a.safetensors")).unwrap();
    let file = Checkpoint::open(&base).unwrap();
    let map: serde_json::Map<String, Value> =
        file.tensors().keys().map(|name| (name.clone(), json!("a.safetensors"))).collect();
    write_index(directory.path(), &json!({ "metadata": {}, "weight_map": map }));
    directory
}

fn write_index(directory: &Path, index: &Value) {
    std::fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn broken_checkpoints_are_refused() {
    let index = |change: &dyn Fn(&mut Value)| {
        let directory = sharded();
        let path = directory.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut index);
        write_index(directory.path(), &index);
        Checkpoint::open(directory.path()).map(|_| ())
    };
    assert!(index(&|_| {}).is_ok());
    says(index(&|index| index["weight_map"]["lm_head.weight"] = json!("b.safetensors")), "b.safetensors");
    // An index that leads back to itself, and one that leads elsewhere.
    says(
        index(&|index| index["weight_map"]["lm_head.weight"] = json!("model.safetensors.index.json")),
        "not a safetensors file",
    );
    says(
        index(&|index| index["weight_map"]["lm_head.weight"] = json!("../a.safetensors")),
        "not a safetensors file",
    );
    says(index(&|index| index["weight_map"]["lm_head.weight"] = json!(3)), "lm_head.weight");
    says(index(&|index| index["weight_map"]["no.such.tensor"] = json!("a.safetensors")), "no.such.tensor");
    says(
        index(&|index| {
            index["weight_map"].as_object_mut().unwrap().remove("lm_head.weight");
        }),
        "lm_head.weight",
    );
    says(index(&|index| index["weight_map"] = json!([])), "weight_map");
    says(Checkpoint::open(&golden()).map(|_| ()), "no checkpoint");
    says(Checkpoint::open(&golden().join("absent")).map(|_| ()), "absent");
}

#[test]
fn nothing_is_left_behind_by_failures() {
    let case = case(LLAMA);
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let weighted = [Weighted { name: "a".into(), adapter: &adapters[0], weight: 1.0 }];
    let edit = Edit::merge(&base, &weighted, EditOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let progress = lora_peft::Progress::new();
    progress.cancel();
    let out = directory.path().join("out");
    let backend = lora_kernels::cpu::Cpu::new();
    assert!(matches!(edit.write(&backend, &out, &progress), Err(Error::Cancelled)));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    // What is there already is not touched.
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("precious"), b"x").unwrap();
    says(edit.write(&backend, &out, &lora_peft::Progress::new()), "already exists");
    assert_eq!(std::fs::read(out.join("precious")).unwrap(), b"x");
}

#[test]
fn weights_that_overflow_are_refused() {
    let case = case("llama-f16");
    let base = Checkpoint::open(&case.base).unwrap();
    let adapters = case.adapters();
    let weighted = [Weighted { name: "a".into(), adapter: &adapters[0], weight: 1e6 }];
    let edit = Edit::merge(&base, &weighted, EditOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let result = edit.write(
        &lora_kernels::cpu::Cpu::new(),
        &directory.path().join("out"),
        &lora_peft::Progress::new(),
    );
    says(result, "NaN or infinite");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

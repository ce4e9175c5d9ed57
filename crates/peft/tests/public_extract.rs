//! Adapters from full fine-tunes of whole models: what is written loads, and gives the tuned weights back within the error
//! that the extraction reports. `golden/generate_extract.py` makes the models and lets PEFT load what is written here.

mod common;

use common::{doubles, golden, half_step, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::adapter::{BiasMode, ModuleNames};
use lora_peft::making::{ExtractOptions, Extracted, extract};
use lora_peft::tensor::{Tensor, file_type};
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Note, Progress, Weighted};
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CASES: [&str; 16] = [
    "llama",
    "llama-tied",
    "gpt2",
    "vit",
    "mamba",
    "wav2vec2",
    "qwen3-5",
    "gpt-oss",
    "mixtral",
    "deepseek-v3",
    "llava",
    "gemma3",
    "convnext",
    "added-tokens",
    "added-tokens-tied",
    "other-files",
];

fn place(case: &str, side: &str) -> PathBuf {
    golden().join("public").join(format!("extract-{case}")).join(side)
}

fn open(case: &str, side: &str) -> Checkpoint {
    Checkpoint::open(&place(case, side)).unwrap()
}

fn extracted(base: &Checkpoint, tuned: &Checkpoint) -> Result<Extracted, Error> {
    let options = ExtractOptions { rank: 4, ..Default::default() };
    extract(base, tuned, options, &Progress::new())
}

fn of(case: &str) -> Extracted {
    extracted(&open(case, "base"), &open(case, "tuned")).unwrap()
}

fn merged(base: &Checkpoint, adapter: &Adapter, out: &Path) -> (Checkpoint, BTreeSet<String>) {
    let weighted = [Weighted { name: "a".into(), adapter, weight: 1.0 }];
    let edit = Edit::merge(base, &weighted, EditOptions::default()).unwrap();
    let summary = edit.write(&Cpu::new(), out, &Progress::new()).unwrap();
    (Checkpoint::open(out).unwrap(), summary.weights.into_iter().map(|weight| weight.weight).collect())
}

#[test]
fn what_is_extracted_gives_the_tuned_weights_back() {
    let written = std::env::var_os("LORA_PEFT_EXTRACTED_DIRECTORY").map(PathBuf::from);
    for case in CASES {
        let root = tempfile::tempdir().unwrap();
        let (base, tuned) = (open(case, "base"), open(case, "tuned"));
        let Extracted { adapter, modules, .. } = extracted(&base, &tuned).unwrap();
        let directory = written.as_deref().unwrap_or(root.path()).join(case);
        adapter.save(&directory).unwrap();
        let errors: Map<String, Value> =
            modules.iter().map(|module| (module.module.clone(), json!(module.relative_error))).collect();
        std::fs::write(directory.join("errors.json"), json!(errors).to_string()).unwrap();
        let adapter = Adapter::load(&directory).unwrap();
        let (merged, factored) = merged(&base, &adapter, &root.path().join("merged"));
        assert_eq!(
            merged.tensors().keys().collect::<Vec<_>>(),
            base.tensors().keys().collect::<Vec<_>>(),
            "{case}"
        );
        let reported: f64 = modules.iter().map(|module| (module.relative_error * module.norm).powi(2)).sum();
        let (mut left, mut rounding) = (0.0, 0.0);
        for name in base.tensors().keys() {
            let (found, wanted) = (merged.tensor(name).unwrap(), tuned.tensor(name).unwrap());
            if factored.contains(name) {
                let dtype = if case == "llama-tied" { "bf16" } else { "f32" };
                let (found, wanted) = (doubles(&found), doubles(&wanted));
                left += found.iter().zip(&wanted).map(|(one, two)| (one - two).powi(2)).sum::<f64>();
                // One rounding of each weight; sums of four products in f32 beside it.
                let each = half_step(dtype, largest(&found)) + 8.0 * half_step("f32", largest(&found));
                rounding += each.powi(2) * found.len() as f64;
            } else if found.dtype() == wanted.dtype() {
                assert!(found == wanted, "{case}: {name}");
            } else {
                // The same in another type is left as it is in the base.
                assert!(found == base.tensor(name).unwrap(), "{case}: {name}");
            }
        }
        assert!(!factored.is_empty(), "{case}");
        let bound = reported.sqrt() + rounding.sqrt();
        assert!(left.sqrt() <= bound, "{case}: {} left, {} reported", left.sqrt(), reported.sqrt());
        assert!(reported > 0.0, "{case}: a full difference is of no small rank");
    }
}

#[test]
fn each_tensor_goes_in_the_form_that_peft_has_for_it() {
    // Case, a layer, a tensor that goes whole with a module, one that goes in the place of the base's.
    for (case, layer, saved, in_place) in [
        ("vit", "vit.layers.0.attention.q_proj", "vit.layernorm", "vit.embeddings.cls_token"),
        (
            "mamba",
            "backbone.layers.0.mixer.in_proj",
            "backbone.layers.1.mixer.conv1d",
            "backbone.layers.0.mixer.A_log",
        ),
        (
            "mamba",
            "backbone.layers.0.mixer.x_proj",
            "backbone.layers.0.mixer.out_proj",
            "backbone.embeddings.weight",
        ),
        (
            "wav2vec2",
            "wav2vec2.encoder.layers.0.attention.q_proj",
            "wav2vec2.feature_extractor.conv_layers.0.conv",
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        ),
        (
            "qwen3-5",
            "model.language_model.layers.0.linear_attn.in_proj_qkv",
            "model.language_model.layers.0.linear_attn.conv1d",
            "model.language_model.layers.0.linear_attn.dt_bias",
        ),
        (
            "gpt-oss",
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.router",
            "model.layers.0.mlp.experts.gate_up_proj_bias",
        ),
        (
            "gemma3",
            "model.language_model.layers.0.self_attn.q_proj",
            "model.language_model.layers.0.input_layernorm",
            "model.vision_tower.head.probe",
        ),
        (
            "convnext",
            "convnext.encoder.stages.1.downsampling_layer.1",
            "convnext.encoder.stages.0.layers.0.dwconv",
            "convnext.encoder.stages.0.layers.0.layer_scale_parameter",
        ),
    ] {
        let Extracted { adapter, notes, .. } = of(case);
        assert!(adapter.layers.contains_key(layer), "{case}: {:?}", adapter.layers.keys());
        let saved_modules = &adapter.config.modules_to_save;
        assert!(saved_modules.iter().any(|module| module == saved), "{case}: {saved_modules:?}");
        assert!(!adapter.layers.contains_key(saved), "{case}");
        assert!(adapter.replaced.contains_key(in_place), "{case}: {:?}", adapter.replaced.keys());
        assert!(!saved_modules.iter().any(|module| in_place.starts_with(&format!("{module}."))), "{case}");
        let told = notes
            .iter()
            .any(|note| matches!(note, Note::InPlace(names) if names.iter().any(|name| name == in_place)));
        assert!(told, "{case}: {notes:?}");
    }
    let embedding = of("qwen3-5").adapter.layers["model.visual.pos_embed"].embedding;
    assert!(embedding, "an nn.Embedding whose name does not say so");
    let tied = of("llama-tied");
    assert!(tied.notes.contains(&Note::TiedWhole("model.embed_tokens.weight".into())), "{:?}", tied.notes);
    assert!(!tied.adapter.config.modules_to_save.iter().any(|module| module.ends_with("embed_tokens")));
}

#[test]
fn experts_become_factors_of_the_parameters_that_the_class_stacks_them_in() {
    for (case, wide) in [("gpt-oss", [12, 16 * 2]), ("mixtral", [12, 16])] {
        let adapter = of(case).adapter;
        let module = "model.layers.1.mlp.experts";
        let names = [format!("{module}.gate_up_proj"), format!("{module}.down_proj")];
        for name in &names {
            assert!(
                adapter.config.target_parameters.contains(name),
                "{case}: {:?}",
                adapter.config.target_parameters
            );
        }
        // Three experts of rank four; the parameter that is defined last has the module's own path.
        assert_eq!(adapter.layers[module].a.shape(), [3 * 4, wide[0]], "{case}");
        assert_eq!(adapter.layers[&format!("{module}.base_layer")].a.shape()[0], 3 * 4, "{case}");
        assert!(!adapter.layers.keys().any(|layer| layer.contains("experts.0")), "{case}");
    }
}

/// PEFT takes every `up_proj` in `target_modules` of such models for one of the experts'.
#[test]
fn shared_experts_are_named_by_their_weights() {
    let config = of("deepseek-v3").adapter.config;
    let shared = "model.layers.1.mlp.shared_experts.up_proj.weight".to_owned();
    assert!(config.target_parameters.contains(&shared), "{:?}", config.target_parameters);
    let Some(ModuleNames::List(modules)) = config.target_modules else { panic!("{config:?}") };
    assert!(
        !modules.iter().any(|module| module.ends_with("_proj") && module.contains(".mlp.")),
        "{modules:?}"
    );
}

#[test]
fn added_tokens_bring_the_whole_vocabulary() {
    let Extracted { adapter, notes, .. } = of("added-tokens");
    for name in ["model.embed_tokens", "lm_head"] {
        assert_eq!(adapter.replaced[&format!("{name}.weight")].shape(), [34, 16]);
        assert!(adapter.config.modules_to_save.contains(&name.to_owned()));
    }
    let resized = |note: &&Note| matches!(note, Note::Vocabulary { base: 32, tuned: 34, .. });
    assert_eq!(notes.iter().filter(resized).count(), 2, "{notes:?}");
    assert!(notes[0].to_string().contains("resize_token_embeddings(34)"), "{}", notes[0]);
    // A tied one in the place of the base's, so that the head stays tied to it.
    let tied = of("added-tokens-tied").adapter;
    assert_eq!(tied.replaced["model.embed_tokens.weight"].shape(), [34, 16]);
    assert!(!tied.replaced.contains_key("lm_head.weight"));
    assert!(!tied.config.modules_to_save.iter().any(|module| module.ends_with("embed_tokens")));
}

/// A checkpoint with these tensors, and the configuration of a case.
fn written(directory: &Path, config: Option<&Path>, tensors: &BTreeMap<String, Tensor>) -> Checkpoint {
    std::fs::create_dir_all(directory).unwrap();
    if let Some(config) = config {
        std::fs::copy(config.join("config.json"), directory.join("config.json")).unwrap();
    }
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(file_type(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes());
        (name.as_str(), view.unwrap())
    });
    std::fs::write(directory.join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    Checkpoint::open(directory).unwrap()
}

fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, Tensor> {
    checkpoint.tensors().keys().map(|name| (name.clone(), checkpoint.tensor(name).unwrap())).collect()
}

/// The base of a case with changes to its tensors.
fn changed(root: &Path, case: &str, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Checkpoint {
    let mut tensors = tensors(&open(case, "base"));
    change(&mut tensors);
    written(&root.join("changed"), Some(&place(case, "base")), &tensors)
}

fn add_one(tensor: &mut Tensor) {
    let values = tensor.to_f32().into_iter().map(|value| value + 1.0).collect();
    *tensor = Tensor::new(tensor.shape(), values).unwrap();
}

#[test]
fn equal_values_in_another_type_are_no_difference() {
    let root = tempfile::tempdir().unwrap();
    let base = open("llama", "base");
    let in_bf16 = changed(root.path(), "llama", |tensors| {
        tensors.values_mut().for_each(|tensor| *tensor = tensor.cast(lora_kernels::DType::Bf16));
    });
    // Both ways: with what rounding took, and without.
    for (base, tuned) in [(&base, &in_bf16), (&in_bf16, &open("llama", "base"))] {
        let found = extracted(base, tuned);
        let is_rounded = std::ptr::eq(tuned, &in_bf16);
        match found {
            Err(Error::NoMatch(reason)) if is_rounded => {
                assert!(reason.contains("do not differ"), "{reason}")
            }
            Ok(_) if !is_rounded => {}
            other => panic!("{other:?}"),
        }
    }
    let root = tempfile::tempdir().unwrap();
    let upcast = changed(root.path(), "llama", |tensors| {
        tensors.values_mut().for_each(|tensor| {
            *tensor = tensor.cast(lora_kernels::DType::Bf16).cast(lora_kernels::DType::F32);
        });
    });
    assert!(matches!(extracted(&in_bf16, &upcast), Err(Error::NoMatch(_))));
}

#[test]
fn what_no_adapter_can_have_is_told_before_the_work() {
    let root = tempfile::tempdir().unwrap();
    let base = open("llama", "base");
    let norm = "model.norm.weight";
    let tuned = changed(root.path(), "llama", |tensors| {
        add_one(tensors.get_mut(norm).unwrap());
        tensors.insert("value_head.weight".into(), Tensor::zeros(lora_kernels::DType::F32, &[1, 16]));
        tensors.insert(
            "model.layers.0.mlp.up_proj.weight".into(),
            Tensor::zeros(lora_kernels::DType::F32, &[9, 16]),
        );
        tensors.remove("model.layers.1.mlp.up_proj.weight");
    });
    let error = extracted(&base, &tuned).unwrap_err().to_string();
    for words in ["value_head.weight", "the base checkpoint does not have it", "2 more", "--skip"] {
        assert!(error.contains(words), "{error}");
    }
    let options = ExtractOptions { rank: 4, skip: true, ..Default::default() };
    let Extracted { adapter, notes, .. } = extract(&base, &tuned, options, &Progress::new()).unwrap();
    let left_out = notes.iter().find_map(|note| match note {
        Note::LeftOut { tensors, .. } => Some(tensors),
        _ => None,
    });
    assert_eq!(left_out.unwrap().len(), 3);
    // Nothing but a norm is left: PEFT needs a word for no modules.
    assert_eq!(adapter.config.target_modules, Some(ModuleNames::Pattern("dummy-target-modules".into())));
    assert_eq!(adapter.config.modules_to_save, ["model.norm"]);
    adapter.save(&root.path().join("adapter")).unwrap();
    let adapter = Adapter::load(&root.path().join("adapter")).unwrap();
    let (merged, _) = merged(&base, &adapter, &root.path().join("merged"));
    assert_eq!(merged.tensor(norm).unwrap(), tuned.tensor(norm).unwrap());
    // And where nothing at all is left.
    let root = tempfile::tempdir().unwrap();
    let tuned = changed(root.path(), "llama", |tensors| {
        tensors.remove(norm);
    });
    let error = extract(&base, &tuned, options, &Progress::new()).unwrap_err().to_string();
    assert!(error.contains(norm) && error.contains("nothing is left"), "{error}");
}

#[test]
fn a_head_that_is_no_longer_tied_comes_along() {
    let root = tempfile::tempdir().unwrap();
    let base = open("llama-tied", "base");
    let head = "lm_head.weight";
    let tuned = changed(root.path(), "llama-tied", |tensors| {
        let embedding = tensors.get_mut("model.embed_tokens.weight").unwrap();
        let mut own = embedding.clone();
        add_one(embedding);
        add_one(&mut own);
        add_one(&mut own);
        tensors.insert(head.into(), own);
    });
    let adapter = extracted(&base, &tuned).unwrap().adapter;
    assert_eq!(adapter.config.modules_to_save, ["lm_head", "model.embed_tokens"]);
    let (merged, _) = merged(&base, &adapter, &root.path().join("merged"));
    for name in [head, "model.embed_tokens.weight"] {
        // The head is new; the embedding keeps the base's type.
        let found = merged.tensor(name).unwrap();
        assert_eq!(found, tuned.tensor(name).unwrap().cast(found.dtype()), "{name}");
    }
    assert_eq!(merged.model_config()["tie_word_embeddings"], false);
}

#[test]
fn tied_embeddings_stay_tied() {
    let root = tempfile::tempdir().unwrap();
    let (base, tuned) = (open("llama-tied", "base"), open("llama-tied", "tuned"));
    let adapter = extracted(&base, &tuned).unwrap().adapter;
    let (merged, _) = merged(&base, &adapter, &root.path().join("merged"));
    assert!(!merged.tensors().contains_key("lm_head.weight"));
    assert_eq!(merged.model_config(), base.model_config());
    // A head that the base's file has beside the embedding that the tuned model ties it to.
    let untied = changed(root.path(), "llama-tied", |tensors| {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    });
    let adapter = extracted(&untied, &tuned).unwrap().adapter;
    assert!(adapter.layers.contains_key("lm_head") && adapter.layers.contains_key("model.embed_tokens"));
}

#[test]
fn files_of_both_layouts_belong_together() {
    let root = tempfile::tempdir().unwrap();
    let (base, tuned) = (open("gemma3", "base"), open("gemma3", "tuned"));
    let as_in_class = tensors(&tuned).into_iter().map(|(name, tensor)| {
        let name = match name.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{name}"),
        };
        (name, tensor)
    });
    let other = written(&root.path().join("other"), Some(&place("gemma3", "tuned")), &as_in_class.collect());
    let (one, two) = (extracted(&base, &tuned).unwrap().adapter, extracted(&base, &other).unwrap().adapter);
    assert_eq!((one.config, one.layers, one.replaced), (two.config, two.layers, two.replaced));
}

/// A model and its class with a head: the adapter is for the base's class.
#[test]
fn classes_of_one_model_belong_together() {
    let root = tempfile::tempdir().unwrap();
    let base = open("gpt2", "base");
    let config = place("gpt2", "base");
    let without_prefix: BTreeMap<String, Tensor> = tensors(&open("gpt2", "tuned"))
        .into_iter()
        .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor))
        .collect();
    let tuned = written(&root.path().join("tuned"), Some(&config), &without_prefix);
    let (one, two) = (of("gpt2").adapter, extracted(&base, &tuned).unwrap().adapter);
    assert_eq!((one.config, one.layers, one.replaced), (two.config, two.layers, two.replaced));
}

#[test]
fn paths_that_end_alike_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(lora_kernels::DType::F32, shape);
    let mut before = BTreeMap::from([
        ("layers.0.q.weight".to_owned(), zeros(&[4, 4])),
        ("tower.layers.0.q.weight".to_owned(), zeros(&[4, 4])),
        ("norm.weight".to_owned(), zeros(&[4])),
        ("tower.norm.weight".to_owned(), zeros(&[4])),
        ("q.bias".to_owned(), zeros(&[4])),
    ]);
    let base = written(&root.path().join("base"), None, &before);
    for name in ["layers.0.q.weight", "norm.weight", "q.bias"] {
        add_one(before.get_mut(name).unwrap());
    }
    let tuned = written(&root.path().join("tuned"), None, &before);
    let adapter = extracted(&base, &tuned).unwrap().adapter;
    assert_eq!(adapter.config.target_modules, Some(ModuleNames::Pattern(r"layers\.0\.q".into())));
    assert_eq!(adapter.config.bias, BiasMode::All);
    // `norm` would save `tower.norm` as well.
    assert!(adapter.config.modules_to_save.is_empty());
    assert_eq!(adapter.in_place().unwrap(), ["norm.weight"]);
    adapter.save(&root.path().join("adapter")).unwrap();
    let adapter = Adapter::load(&root.path().join("adapter")).unwrap();
    let (merged, _) = merged(&base, &adapter, &root.path().join("merged"));
    assert_eq!(tensors(&merged), tensors(&tuned));
}

#[test]
fn tensors_that_only_an_extraction_may_bring_must_be_in_the_base() {
    let mut adapter = of("mamba").adapter;
    let strange = adapter.replaced["backbone.layers.0.mixer.D"].clone();
    adapter.replaced.insert("backbone.layers.7.mixer.D".into(), strange);
    let base = open("mamba", "base");
    let weighted = [Weighted { name: "a".into(), adapter: &adapter, weight: 1.0 }];
    let error = Edit::merge(&base, &weighted, EditOptions::default()).unwrap_err().to_string();
    assert!(error.contains("backbone.layers.7.mixer.D") && error.contains("nothing uses it"), "{error}");
    // The file says which they are; without that, nothing asks for them.
    let root = tempfile::tempdir().unwrap();
    of("mamba").adapter.save(root.path()).unwrap();
    let path = root.path().join("adapter_model.safetensors");
    let file = Checkpoint::open(&path).unwrap();
    let all = tensors(&file);
    drop(file);
    let views = all.iter().map(|(name, tensor)| {
        (
            name.as_str(),
            TensorView::new(file_type(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes()).unwrap(),
        )
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let error = Adapter::load(root.path()).unwrap_err().to_string();
    assert!(error.contains("nothing uses it"), "{error}");
}

//! Parameters (`target_parameters`) of a model in memory: stacked experts against PEFT, and new adapters of them.

mod common;

use common::{Case, case, cases, doubles, golden, largest};
use lora_kernels::cpu::Cpu;
use lora_peft::adapter::{Init, ModuleNames};
use lora_peft::tensor::Tensor;
use lora_peft::{Adapter, AdapterConfig, Checkpoint, Error, LayerKind, LoraModel};
use std::path::Path;

const GATE_UP: &str = "experts.gate_up_proj";
const DOWN: &str = "experts.down_proj";

fn open(base: &Path) -> LoraModel {
    LoraModel::new(Checkpoint::open(base).unwrap())
}

fn loaded(case: &Case) -> LoraModel {
    let mut model = open(&case.base);
    for (index, adapter) in case.adapters().into_iter().enumerate() {
        model.add_adapter(&Cpu::new(), &format!("a{index}"), adapter).unwrap();
    }
    model
}

/// Largest distance, as a share of the largest expected value.
fn distance(ours: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let difference: Vec<f64> = ours.iter().zip(expected).map(|(one, two)| one - two).collect();
    largest(&difference) / largest(expected).max(1e-30)
}

fn says<T: std::fmt::Debug>(result: Result<T, Error>, words: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(words), "`{message}` does not say `{words}`");
}

/// Numbers that look random, from −1 to 1.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((((i + 1) * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) / 1001.0).collect()
}

#[test]
fn experts_equal_pefts() {
    let mut compared = 0;
    for case in cases() {
        let path = case.directory.join("experts.safetensors");
        if !path.exists() {
            continue;
        }
        // f32: sums of up to 12 terms of several factors. bf16: PEFT rounds Δ and W + Δ, we round S and dS.
        let bound = if case.dtype == "f32" { 24.0 * 2f64.powi(-24) } else { 4.0 * 2f64.powi(-8) };
        let file = Checkpoint::open(&path).unwrap();
        let (model, backend) = (loaded(&case), &mut Cpu::new());
        for parameter in file.tensors().keys().filter_map(|key| key.strip_suffix(".x")) {
            compared += 1;
            let read = |part: &str| file.tensor(&format!("{parameter}.{part}")).unwrap();
            let bytes = file.bytes(&format!("{parameter}.experts")).unwrap();
            let experts: Vec<usize> =
                bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect();
            let (x, dy) = (read("x"), read("dy"));
            let y = model.forward_experts(backend, parameter, &x, &experts).unwrap();
            let gradients = model.backward_experts(backend, parameter, &x, &dy, &experts).unwrap();
            let adapter = &gradients.adapters["a0"];
            for (part, ours) in [
                ("y", &y),
                ("dx", gradients.x.as_ref().unwrap()),
                ("0.dlora_A", &adapter.a),
                ("0.dlora_B", &adapter.b),
            ] {
                let expected = read(part);
                assert_eq!(ours.shape(), expected.shape());
                let distance = distance(&doubles(ours), &doubles(&expected));
                assert!(distance <= bound, "{}: {parameter}.{part} is {distance} away", case.name);
            }
            // The same by the key of the layer.
            let site = model.sites("a0").unwrap().iter().find(|site| site.weight == parameter).unwrap();
            assert_eq!(model.forward_experts(backend, &site.layer, &x, &experts).unwrap(), y);
            // Sums of dY over the rows of each expert, of which one has none.
            let (width, sums) = (dy.shape()[1], doubles(&gradients.bias));
            let dy = doubles(&dy);
            for (index, sum) in sums.iter().enumerate() {
                let rows = experts.iter().zip(dy.chunks(width)).filter(|(e, _)| **e == index / width);
                let expected: f64 = rows.map(|(_, row)| row[index % width]).sum();
                assert!((sum - expected).abs() <= 5.0 * 2f64.powi(-23) * largest(&dy));
            }
        }
    }
    assert_eq!(compared, 5);
}

/// y of each row in f64, from the tensors alone. A is expert-major, B's columns are rank-major.
fn rows(
    weight: &Tensor,
    input_major: bool,
    adapters: &[(&Adapter, &str, f64, usize)],
    x: &[f64],
    experts: &[usize],
) -> Vec<f64> {
    let &[count, w_rows, w_columns] = weight.shape() else { panic!("{:?}", weight.shape()) };
    let (input, output) = if input_major { (w_rows, w_columns) } else { (w_columns, w_rows) };
    let mut adapted = doubles(weight);
    for (adapter, key, scale, rank) in adapters {
        let layer = &adapter.layers[*key];
        let (a, b) = (doubles(&layer.a), doubles(&layer.b));
        let (a_width, transposed) = (layer.a.shape()[1], layer.a.shape()[1] == w_rows);
        for e in 0..count {
            for r in 0..w_rows {
                for c in 0..w_columns {
                    let (a_index, b_index) = if transposed { (r, c) } else { (c, r) };
                    let product: f64 = (0..*rank)
                        .map(|k| a[(e * rank + k) * a_width + a_index] * b[(b_index * rank + k) * count + e])
                        .sum();
                    adapted[(e * w_rows + r) * w_columns + c] += scale * product;
                }
            }
        }
    }
    let mut y = Vec::new();
    for (x, e) in x.chunks(input).zip(experts) {
        for o in 0..output {
            y.push(
                (0..input)
                    .map(|i| {
                        let (r, c) = if input_major { (i, o) } else { (o, i) };
                        x[i] * adapted[(e * w_rows + r) * w_columns + c]
                    })
                    .sum(),
            );
        }
    }
    y
}

/// A checkpoint of this model type with these tensors.
fn checkpoint(root: &Path, model_type: Option<&str>, tensors: &[(&str, Tensor)]) -> Checkpoint {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            tensor.shape().to_vec(),
            tensor.bytes(),
        );
        (*name, view.unwrap())
    });
    std::fs::write(root.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let config = model_type.map_or("{}".to_owned(), |name| format!(r#"{{"model_type": "{name}"}}"#));
    std::fs::write(root.join("config.json"), config).unwrap();
    Checkpoint::open(root).unwrap()
}

fn tensor(shape: &[usize], seed: usize) -> Tensor {
    Tensor::new(shape, numbers(shape.iter().product(), seed)).unwrap()
}

fn new_config(parameters: &[&str]) -> AdapterConfig {
    AdapterConfig {
        rank: 2,
        alpha: 3.0,
        init: Init::Random,
        target_modules: Some(ModuleNames::List(Vec::new())),
        target_parameters: parameters.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

#[test]
fn every_layout_computes_what_the_model_does_with_its_weights() {
    // gpt_oss says that its weights are [experts, in, out], Llama 4 has them so without saying it.
    for (model_type, input_major, kind) in [
        (Some("mixtral"), false, LayerKind::Experts),
        (Some("gpt_oss"), true, LayerKind::TransposedExperts),
        (Some("llama4_text"), true, LayerKind::Experts),
        (None, false, LayerKind::Experts),
    ] {
        let root = tempfile::tempdir().unwrap();
        let weight = tensor(&[3, 4, 6], 1);
        let base = checkpoint(root.path(), model_type, &[("m.experts.gate_up_proj", weight.clone())]);
        let (mut model, backend) = (LoraModel::new(base), &mut Cpu::new());
        for (name, rank) in [("one", 2), ("two", 1)] {
            let config = AdapterConfig { rank, ..new_config(&["experts.gate_up_proj"]) };
            model.create_adapter(backend, name, config, rank as u64).unwrap();
            assert_eq!(model.sites(name).unwrap()[0].kind, kind, "{model_type:?}");
        }
        let (input, output) = if input_major { (4, 6) } else { (6, 4) };
        let experts = [1, 1, 0, 1];
        let (x, dy) = (tensor(&[4, input], 2), tensor(&[4, output], 3));
        for active in [&["one"][..], &["two", "one"], &[]] {
            model.set_active(active).unwrap();
            let adapters: Vec<_> = active
                .iter()
                .map(|name| {
                    let site = &model.sites(name).unwrap()[0];
                    (model.adapter(name).unwrap(), "m.experts", site.scale, site.rank)
                })
                .collect();
            let expected = rows(&weight, input_major, &adapters, &doubles(&x), &experts);
            let y = model.forward_experts(backend, "m.experts", &x, &experts).unwrap();
            assert_eq!(y.shape(), [4, output]);
            assert!(distance(&doubles(&y), &expected) < 24.0 * 2f64.powi(-24), "{model_type:?} {active:?}");
            let gradients = model.backward_experts(backend, "m.experts", &x, &dy, &experts).unwrap();
            assert_eq!(gradients.adapters.len(), active.len());
            // Σ y·dy is linear in each of x, A and B: with one adapter, <dX, x>, and <dA, A> = <dB, B> = its part.
            let dot = |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(a, b)| a * b).sum::<f64>();
            let loss = dot(&expected, &doubles(&dy));
            let found = dot(&doubles(gradients.x.as_ref().unwrap()), &doubles(&x));
            assert!((found - loss).abs() < 1e-5, "{model_type:?} {active:?}: dX");
            for (adapter, name) in adapters.iter().zip(active) {
                let only = rows(
                    &Tensor::zeros(weight.dtype(), weight.shape()),
                    input_major,
                    &[*adapter],
                    &doubles(&x),
                    &experts,
                );
                let (layer, gradient) = (&adapter.0.layers["m.experts"], &gradients.adapters[*name]);
                for (gradient, values) in [(&gradient.a, &layer.a), (&gradient.b, &layer.b)] {
                    assert_eq!(gradient.shape(), values.shape());
                    let found = dot(&doubles(gradient), &doubles(values));
                    assert!((found - dot(&only, &doubles(&dy))).abs() < 1e-5, "{model_type:?} {active:?}");
                }
                // Expert 2 has no rows.
                let (stacked, width) = (layer.a.shape()[0], layer.a.shape()[1]);
                let untouched = &doubles(&gradient.a)[stacked / 3 * 2 * width..];
                assert!(untouched.iter().all(|value| *value == 0.0));
                assert!(doubles(&gradient.b).iter().skip(2).step_by(3).all(|value| *value == 0.0));
            }
        }
        model.set_active(&["one", "two"]).unwrap();
        let apart = model.forward_experts(backend, "m.experts", &x, &experts).unwrap();
        model.merge(backend, Some(Default::default())).unwrap();
        let merged = model.forward_experts(backend, "m.experts", &x, &experts).unwrap();
        assert!(distance(&doubles(&merged), &doubles(&apart)) < 24.0 * 2f64.powi(-24), "{model_type:?}");
        says(model.backward_experts(backend, "m.experts", &x, &dy, &experts), "is merged");
    }
}

#[test]
fn what_does_not_fit_experts_is_refused() {
    let (model, backend) = (loaded(&case("moe")), &mut Cpu::new());
    let (x, dy) = (tensor(&[2, 8], 1), tensor(&[2, 12], 2));
    says(model.forward_experts(backend, GATE_UP, &x, &[0, 3]), "row 1 is for expert 3 of 3");
    says(model.forward_experts(backend, GATE_UP, &x, &[0]), "f32 [1, 8] is needed");
    says(model.forward_experts(backend, GATE_UP, &tensor(&[2, 6], 1), &[0, 1]), "[2, 8] is needed");
    says(model.forward_experts(backend, GATE_UP, &tensor(&[16], 1), &[0, 1]), "[2, 8] is needed");
    let half = x.cast(lora_kernels::DType::Bf16);
    says(model.forward_experts(backend, GATE_UP, &half, &[0, 1]), "X is bf16");
    says(model.backward_experts(backend, GATE_UP, &x, &x, &[0, 1]), "[2, 12] is needed");
    says(model.forward_experts(backend, "gate", &x, &[0, 1]), "`forward`");
    says(model.forward_experts(backend, "absent", &x, &[0, 1]), "absent");
    for result in [
        model.forward(backend, GATE_UP, &x, None).map(drop),
        model.backward(backend, "experts.base_layer", &x, &dy, None).map(drop),
        model.embed(backend, "experts", &[0]).map(drop),
    ] {
        says(result, "`forward_experts`");
    }
    let none = model.forward_experts(backend, GATE_UP, &tensor(&[0, 8], 1), &[]).unwrap();
    assert_eq!(none.shape(), [0, 12]);

    let mut model = model;
    model.set_trainable("a0", true).unwrap();
    let layer = model.layer_mut("a0", "experts").unwrap();
    let whole = layer.clone();
    layer.a = tensor(&[4, 6], 1);
    layer.b = tensor(&[8, 4], 1);
    says(model.forward_experts(backend, DOWN, &tensor(&[1, 6], 1), &[0]), "at rank 2");
    let layer = model.layer_mut("a0", "experts").unwrap();
    *layer = whole;
    layer.magnitude = Some(tensor(&[8], 1));
    says(model.forward_experts(backend, DOWN, &tensor(&[1, 6], 1), &[0]), "magnitudes");
}

#[test]
fn one_key_for_different_parameters_is_no_name() {
    let case = case("moe");
    let (mut model, backend) = (loaded(&case), &mut Cpu::new());
    model.create_adapter(backend, "up", new_config(&[GATE_UP]), 1).unwrap();
    model.set_active(&["a0", "up"]).unwrap();
    let x = tensor(&[2, 8], 1);
    says(model.forward_experts(backend, "experts", &x, &[0, 1]), DOWN);
    let y = model.forward_experts(backend, GATE_UP, &x, &[2, 1]).unwrap();
    let parts = [("a0", "experts.base_layer"), ("up", "experts")].map(|(name, key)| {
        let site = model.sites(name).unwrap().iter().find(|site| site.layer == key).unwrap();
        assert_eq!(site.weight, GATE_UP);
        (model.adapter(name).unwrap(), key, site.scale, site.rank)
    });
    let expected = rows(model.weight(GATE_UP).unwrap(), false, &parts, &doubles(&x), &[2, 1]);
    assert!(distance(&doubles(&y), &expected) < 24.0 * 2f64.powi(-24));
}

#[test]
fn adapters_made_for_different_layouts_do_not_mix() {
    let (mut model, backend) = (open(&case("moe").base), &mut Cpu::new());
    model.create_adapter(backend, "out-in", new_config(&[DOWN]), 1).unwrap();
    // As PEFT before it looked at `is_transposed`.
    let mut other = model.adapter("out-in").unwrap().clone();
    let layer = other.layers.get_mut("experts").unwrap();
    (layer.a, layer.b) = (tensor(&[6, 8], 1), tensor(&[6, 6], 2));
    model.add_adapter(backend, "in-out", other).unwrap();
    let (x, experts) = (tensor(&[3, 6], 3), [1, 0, 1]);
    model.set_active(&["in-out"]).unwrap();
    let site = &model.sites("in-out").unwrap()[0];
    let adapters = [(model.adapter("in-out").unwrap(), "experts", site.scale, site.rank)];
    let expected = rows(model.weight(DOWN).unwrap(), false, &adapters, &doubles(&x), &experts);
    let y = model.forward_experts(backend, DOWN, &x, &experts).unwrap();
    assert!(distance(&doubles(&y), &expected) < 24.0 * 2f64.powi(-24));
    model.set_active(&["out-in", "in-out"]).unwrap();
    says(model.forward_experts(backend, DOWN, &x, &experts), "different layouts");
    says(model.merge(backend, None), "TransposedExperts");
}

#[test]
fn new_adapters_of_parameters_start_as_pefts_do() {
    let (mut model, backend) = (open(&case("moe").base), &mut Cpu::new());
    let config = AdapterConfig {
        rank: 64,
        init: Init::Default,
        rank_pattern: vec![("down_proj".into(), 32)],
        target_modules: Some(ModuleNames::List(vec!["out".into()])),
        ..new_config(&[DOWN, GATE_UP, "gate.weight"])
    };
    let report = model.create_adapter(backend, "new", config.clone(), 5).unwrap();
    let named: Vec<&str> = report.matched.iter().map(|target| target.module.as_str()).collect();
    assert_eq!(named, ["out", DOWN, GATE_UP, "gate.weight"]);
    let layers = &model.adapter("new").unwrap().layers;
    let shapes: Vec<_> =
        layers.iter().map(|(key, layer)| (key.as_str(), layer.a.shape(), layer.b.shape())).collect();
    assert_eq!(
        shapes,
        [
            ("experts", &[96, 6][..], &[8, 96][..]),
            ("experts.base_layer", &[192, 8], &[12, 192]),
            ("gate", &[64, 8], &[3, 64]),
            ("out", &[64, 8], &[8, 64]),
        ]
    );
    for (key, layer) in layers {
        // Uniform within 1/√in: A of 576 elements comes near the bound.
        let bound = 1.0 / (layer.a.shape()[1] as f64).sqrt();
        let most = largest(&doubles(&layer.a));
        assert!(most <= bound && most > 0.95 * bound, "{key}: {most}");
        assert!(doubles(&layer.b).iter().all(|value| *value == 0.0));
    }
    let mut random = open(&case("moe").base);
    random.create_adapter(backend, "new", AdapterConfig { init: Init::Random, ..config.clone() }, 5).unwrap();
    let b = largest(&doubles(&random.adapter("new").unwrap().layers["experts"].b));
    let bound = 1.0 / 96f64.sqrt();
    assert!(b <= bound && b > 0.95 * bound, "{b}");
    let mut gaussian = open(&case("moe").base);
    gaussian.create_adapter(backend, "new", AdapterConfig { init: Init::Gaussian, ..config }, 5).unwrap();
    let a = doubles(&gaussian.adapter("new").unwrap().layers["experts.base_layer"].a);
    // Normal with deviation 1/r: the sum of 1536 squares is within 5 deviations (√(2/n) each) of its mean.
    let square = a.iter().map(|value| value * value).sum::<f64>() / a.len() as f64 * 64.0 * 64.0;
    assert!((square - 1.0).abs() < 5.0 * (2.0 / a.len() as f64).sqrt(), "{square}");
}

#[test]
fn new_adapters_of_parameters_come_back_from_their_files() {
    for name in ["moe", "moe-one", "moe-bf16"] {
        let (case, backend) = (case(name), &mut Cpu::new());
        let mut model = open(&case.base);
        let loaded = case.adapters().remove(0);
        let config = AdapterConfig { init: Init::Random, ..loaded.config.clone() };
        model.create_adapter(backend, "new", config, 3).unwrap();
        let keys = |adapter: &Adapter| adapter.layers.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(model.adapter("new").unwrap()), keys(&loaded), "the keys that PEFT wrote");
        let kept = std::env::var_os("LORA_PEFT_CREATED_DIRECTORY");
        let temporary = tempfile::tempdir().unwrap();
        let root = kept.map_or(temporary.path().to_owned(), Into::into).join(name);
        let directory = root.join("adapter");
        model.save_adapter("new", &directory).unwrap();
        let mut again = open(&case.base);
        again.add_adapter(backend, "again", Adapter::load(&directory).unwrap()).unwrap();
        assert_eq!(again.adapter("again").unwrap().layers, model.adapter("new").unwrap().layers);
        let sites = |model: &LoraModel, name: &str| {
            let mut sites = model.sites(name).unwrap().to_vec();
            sites.sort_by(|one, two| one.layer.cmp(&two.layer));
            sites
        };
        assert_eq!(sites(&again, "again"), sites(&model, "new"), "{name}");
    }
}

#[test]
fn adapters_of_parameters_that_peft_could_not_have_are_refused() {
    let backend = &mut Cpu::new();
    let create = |config: AdapterConfig| open(&case("moe").base).create_adapter(backend, "new", config, 0);
    let config = || new_config(&[GATE_UP]);
    says(create(AdapterConfig { dropout: 0.1, ..config() }), "lora_dropout");
    says(create(AdapterConfig { dora: true, ..config() }), "use_dora");
    says(create(AdapterConfig { lora_bias: true, ..config() }), "lora_bias");
    says(create(AdapterConfig { fan_in_fan_out: true, ..config() }), "fan_in_fan_out");
    says(create(AdapterConfig { init: Init::Pissa, ..config() }), "`weight`");
    says(create(AdapterConfig { init: Init::Other("orthogonal".into()), ..config() }), "orthogonal");
    says(create(new_config(&["experts.absent"])), "experts.absent");
    says(create(new_config(&["out.bias"])), "1 dimensions");
    says(create(new_config(&["out.bias", "out.weight"])), "order");
    let both = AdapterConfig {
        target_modules: Some(ModuleNames::List(vec!["gate".into()])),
        ..new_config(&["gate.weight"])
    };
    says(create(both), "`target_modules` names its module already");
    let saved = AdapterConfig { modules_to_save: vec!["experts".into()], ..config() };
    says(create(saved), "`modules_to_save` names its module already");
    says(create(new_config(&[])), "matches none");
    let mut apart = open(&golden().join("separate_experts/mixtral/base"));
    says(apart.create_adapter(backend, "new", config(), 0), "names them in `target_modules`");
}

#[test]
fn a_matrix_as_parameter_is_a_linear_layer() {
    let (mut model, backend) = (open(&case("moe").base), &mut Cpu::new());
    model.create_adapter(backend, "parameter", new_config(&["out.weight"]), 7).unwrap();
    let module = AdapterConfig {
        target_parameters: Vec::new(),
        target_modules: Some(ModuleNames::List(vec!["out".into()])),
        ..new_config(&[])
    };
    model.create_adapter(backend, "module", module, 7).unwrap();
    let (x, dy) = (tensor(&[3, 8], 1), tensor(&[3, 8], 2));
    let mut run = |active: &str, name: &str| {
        model.set_active(&[active]).unwrap();
        let y = model.forward(backend, name, &x, None).unwrap();
        let mut gradients = model.backward(backend, name, &x, &dy, None).unwrap();
        (y, gradients.x.take(), gradients.adapters.remove(active).unwrap())
    };
    let expected = run("module", "out");
    assert_eq!(run("parameter", "out"), expected, "with the module's bias");
    assert_eq!(run("parameter", "out.weight"), expected);
}

#[test]
fn a_conv1d_as_parameter_is_not_mistaken_for_a_linear_layer() {
    let (mut model, backend) = (open(&case("gpt2-attention").base), &mut Cpu::new());
    model.create_adapter(backend, "new", new_config(&["attn.c_proj.weight"]), 7).unwrap();
    let module = "transformer.h.0.attn.c_proj";
    says(model.forward(backend, module, &tensor(&[1, 16], 1), None), "merge it");
}

#[test]
fn parameters_of_one_module_are_wrapped_in_the_order_of_their_definition() {
    // GptOssExperts of transformers 5.24 under PEFT 0.21.2.
    let root = tempfile::tempdir().unwrap();
    let names = ["down_proj", "down_proj_bias", "gate_up_proj", "gate_up_proj_bias"];
    let paths = names.map(|name| format!("m.experts.{name}"));
    let shapes: [&[usize]; 4] = [&[3, 6, 8], &[3, 8], &[3, 8, 12], &[3, 12]];
    let tensors: Vec<_> =
        paths.iter().zip(shapes).map(|(path, shape)| (path.as_str(), tensor(shape, 1))).collect();
    let mut model = LoraModel::new(checkpoint(root.path(), Some("gpt_oss"), &tensors));
    let targets = names.map(|name| format!("experts.{name}"));
    let config = new_config(&targets.each_ref().map(String::as_str));
    model.create_adapter(&Cpu::new(), "new", config, 1).unwrap();
    let adapter = model.adapter("new").unwrap();
    for (depth, a, b) in
        [(0, [2, 8], [3, 2]), (1, [6, 6], [8, 6]), (2, [2, 12], [3, 2]), (3, [6, 8], [12, 6])]
    {
        let layer = &adapter.layers[&format!("m.experts{}", ".base_layer".repeat(depth))];
        assert_eq!((layer.a.shape(), layer.b.shape()), (&a[..], &b[..]), "{depth}");
    }
    let mut again = LoraModel::new(Checkpoint::open(root.path()).unwrap());
    again.add_adapter(&Cpu::new(), "again", adapter.clone()).unwrap();
}

#[test]
fn pissa_takes_its_start_off_a_weight_that_is_a_parameter() {
    let (mut model, backend) = (open(&case("moe").base), &mut Cpu::new());
    let before = model.checkpoint().tensor("out.weight").unwrap();
    let config = AdapterConfig { init: Init::Pissa, ..new_config(&["out.weight"]) };
    model.create_adapter(backend, "new", config, 0).unwrap();
    assert_ne!(model.weight("out.weight").unwrap(), &before);
    model.merge(backend, None).unwrap();
    let whole = doubles(model.weight("out.weight").unwrap());
    assert!(distance(&whole, &doubles(&before)) < 16.0 * 2f64.powi(-24));
}

#[test]
fn experts_that_are_apart_in_the_files_are_linear_layers() {
    for name in ["mixtral", "qwen2-moe"] {
        let (directory, backend) = (golden().join("separate_experts").join(name), &mut Cpu::new());
        let mut model = open(&directory.join("base"));
        model.add_adapter(backend, "a", Adapter::load(&directory.join("adapter")).unwrap()).unwrap();
        let merged = Checkpoint::open(&directory.join("merged.safetensors")).unwrap();
        let mut compared = 0;
        for site in model.sites("a").unwrap().to_vec() {
            let weight = merged.tensor(&site.weight).unwrap();
            let (out, input) = (weight.shape()[0], weight.shape()[1]);
            let x = tensor(&[2, input], 4);
            let (xs, ws) = (doubles(&x), doubles(&weight));
            let mut expected: Vec<f64> = Vec::new();
            for row in xs.chunks(input) {
                expected.extend(ws.chunks(input).map(|w| row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>()));
            }
            if let Some(bias) = &site.bias {
                let bias = doubles(&model.checkpoint().tensor(bias).unwrap());
                expected.iter_mut().enumerate().for_each(|(index, y)| *y += bias[index % out]);
            }
            let y = model.forward(backend, &site.layer, &x, None).unwrap();
            let distance = distance(&doubles(&y), &expected);
            assert!(distance < 24.0 * 2f64.powi(-24), "{name}: {}: {distance}", site.layer);
            compared += usize::from(site.weight.contains(".experts.0."));
        }
        assert_eq!(compared, 3, "{name}");
        let saved = tempfile::tempdir().unwrap();
        model.save_adapter("a", saved.path()).unwrap();
        let mut again = open(&directory.join("base"));
        again.add_adapter(backend, "a", Adapter::load(saved.path()).unwrap()).unwrap();
        assert_eq!(again.sites("a").unwrap(), model.sites("a").unwrap());
    }
}

#[test]
fn experts_are_swapped_at_the_same_rank() {
    let (case, backend) = (case("moe"), &mut Cpu::new());
    let (mut model, mut other) = (loaded(&case), open(&case.base));
    let config =
        AdapterConfig { alpha: 5.0, init: Init::Random, ..model.adapter("a0").unwrap().config.clone() };
    other.create_adapter(backend, "a0", config.clone(), 1).unwrap();
    let new = other.adapter("a0").unwrap().clone();
    let (x, experts) = (tensor(&[2, 8], 1), [2, 1]);
    let expected = other.forward_experts(backend, GATE_UP, &x, &experts).unwrap();
    assert_ne!(model.forward_experts(backend, GATE_UP, &x, &experts).unwrap(), expected);
    let address = |model: &LoraModel| model.adapter("a0").unwrap().layers["experts"].a.bytes().as_ptr();
    let before = address(&model);
    model.hot_swap("a0", new.clone()).unwrap();
    assert_eq!(address(&model), before);
    assert_eq!(model.forward_experts(backend, GATE_UP, &x, &experts).unwrap(), expected);
    assert_eq!(model.compact("a0").unwrap().layers, new.layers);

    let mut smaller = open(&case.base);
    smaller.create_adapter(backend, "a0", AdapterConfig { rank: 1, ..config }, 1).unwrap();
    let smaller = smaller.adapter("a0").unwrap().clone();
    says(model.hot_swap("a0", smaller), "the rank must not change");
    let [mut one, mut two] = [GATE_UP, DOWN].map(|parameter| {
        let mut model = open(&case.base);
        model.create_adapter(backend, "one", new_config(&[parameter]), 1).unwrap();
        model
    });
    let swap = |model: &mut LoraModel, other: &LoraModel| {
        let new = other.adapter("one").unwrap().clone();
        model.hot_swap("one", new)
    };
    says(swap(&mut one, &two), "other parameters");
    says(swap(&mut two, &one), "other parameters");
}

#[test]
fn experts_that_are_apart_are_swapped_like_linear_layers() {
    let (directory, backend) = (golden().join("separate_experts/mixtral"), &mut Cpu::new());
    let adapter = Adapter::load(&directory.join("adapter")).unwrap();
    let mut other = adapter.clone();
    for layer in other.layers.values_mut() {
        layer.b = tensor(layer.b.shape(), 9);
    }
    let [mut model, expected] = [&adapter, &other].map(|adapter| {
        let mut model = open(&directory.join("base"));
        model.add_adapter(backend, "a", adapter.clone()).unwrap();
        model
    });
    assert_ne!(model.adapter("a").unwrap().layers, expected.adapter("a").unwrap().layers);
    model.hot_swap("a", other).unwrap();
    assert_eq!(model.adapter("a").unwrap().layers, expected.adapter("a").unwrap().layers);
}

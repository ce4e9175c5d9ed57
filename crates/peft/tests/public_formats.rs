//! Adapters in other programs' formats and quantised bases, against float64 computations of `golden/generate_formats.py`.

mod common;

use common::{doubles, golden, half_step};
use lora_kernels::DType;
use lora_kernels::cpu::Cpu;
use lora_peft::formats::{self, Format, Target};
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Error, Note, Progress, Weighted};
use std::path::{Path, PathBuf};

fn public(case: &str) -> PathBuf {
    golden().join("public").join(case)
}

/// The cases with this beginning.
fn cases(beginning: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden().join("public")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(beginning)).collect();
    cases.sort();
    assert!(cases.len() >= 11, "{cases:?}");
    cases
}

fn adapter_of(case: &Path) -> PathBuf {
    let file = case.join("adapter.safetensors");
    if file.exists() { file } else { case.join("adapter") }
}

fn merged(base: &Checkpoint, adapter: &Adapter, dtype: Option<DType>) -> (Checkpoint, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let adapters = [Weighted { name: "adapter".into(), adapter, weight: 1.0 }];
    let options = EditOptions { dtype, ..EditOptions::default() };
    let edit = Edit::merge(base, &adapters, options).unwrap();
    let out = directory.path().join("merged");
    edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
    // The files stay open.
    (Checkpoint::open(&out).unwrap(), edit.notes().iter().map(ToString::to_string).collect())
}

/// Each value is the expected one or its neighbour: that was rounded once from float64, this from an f32 sum.
#[track_caller]
fn same(found: &Checkpoint, expected: &Path, dtype: Option<&str>) {
    let expected = Checkpoint::open(expected).unwrap();
    assert!(found.tensors().keys().eq(expected.tensors().keys()), "{:?}", found.tensors().keys());
    for name in expected.tensors().keys() {
        let (one, two) = (found.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!((one.dtype(), one.shape()), (two.dtype(), two.shape()), "{name}");
        let type_name = two.dtype().to_string();
        let expected_type = if name.ends_with("correction_bias") { Some("f32") } else { dtype };
        assert!(expected_type.is_none_or(|dtype| dtype == type_name), "{name}: {type_name}");
        // Of rank 4, f32 sums are a few units of its last place off.
        let largest = common::largest(&doubles(&two));
        for (one, two) in doubles(&one).into_iter().zip(doubles(&two)) {
            let bound = 2.0 * half_step(&type_name, two) + 16.0 * half_step("f32", largest);
            assert!((one - two).abs() <= bound, "{name}: {one} for {two}");
        }
    }
}

#[test]
fn adapters_of_other_programs_are_merged() {
    for case in cases("format-") {
        let base = Checkpoint::open(&case.join("base")).unwrap();
        let (_, adapter) =
            formats::load(&adapter_of(&case)).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let (found, _) = merged(&base, &adapter, None);
        same(&found, &case.join("expected"), None);
    }
}

#[test]
fn files_are_called_what_they_are() {
    for (case, expected) in [
        ("format-kohya", Format::Kohya),
        ("format-flux-fused", Format::Kohya),
        ("format-diffusers", Format::Diffusers),
        ("format-diffusers-old-names", Format::Diffusers),
        ("format-mlx", Format::Mlx),
        ("format-peft-pickled", Format::PeftPickled),
        ("format-peft-sharded", Format::PeftSharded),
        ("quant-nf4", Format::Peft),
    ] {
        assert_eq!(formats::identify(&adapter_of(&public(case))).unwrap(), expected, "{case}");
        assert_eq!(formats::identify(&public(case).join("base")).unwrap(), Format::Checkpoint, "{case}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut bytes = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    std::fs::write(&path, &bytes).unwrap();
    let text = formats::identify(&path).unwrap().to_string();
    assert_eq!(text, "model in GGUF (llama.cpp), version 3, 2 tensors");
    says(formats::load(&path), &["model.gguf", "GGUF", "safetensors"]);
    says(Checkpoint::open(&path), &["model.gguf", "GGUF", "safetensors"]);
    std::fs::write(directory.path().join("model_index.json"), "{}").unwrap();
    says(Checkpoint::open(directory.path()), &["diffusers pipeline", "unet"]);
    bytes.extend(b"\x0c\0\0\0\0\0\0\0general.type\x08\0\0\0\x07\0\0\0\0\0\0\0adapter");
    std::fs::write(&path, &bytes).unwrap();
    assert!(formats::identify(&path).unwrap().to_string().starts_with("LoRA adapter in GGUF"));
}

#[test]
fn layers_for_other_parts_are_left_out_with_a_note() {
    for case in ["format-kohya", "format-diffusers"] {
        let base = Checkpoint::open(&public(case).join("base")).unwrap();
        let (_, adapter) = formats::load(&adapter_of(&public(case))).unwrap();
        let (placed, notes) = formats::place(&adapter, &base).unwrap();
        assert_eq!(placed.layers.len() + 1, adapter.layers.len());
        assert_eq!(notes, [Note::OtherParts { part: "text_encoder".into(), layers: 1 }]);
        let (_, warnings) = merged(&base, &adapter, None);
        assert!(warnings.iter().any(|text| text.contains("text_encoder")), "{warnings:?}");
    }
}

/// Each format's file, written and read, does what the original does.
#[test]
fn conversions_come_back() {
    let cases = [
        ("format-kohya", vec![Target::Kohya, Target::Diffusers, Target::Peft]),
        ("format-diffusers", vec![Target::Kohya, Target::Diffusers, Target::Peft]),
        ("format-flux-fused", vec![Target::Kohya, Target::Diffusers, Target::Peft]),
        ("format-mlx", vec![Target::Mlx, Target::Peft, Target::Kohya]),
        ("format-mlx-dora", vec![Target::Mlx, Target::Peft, Target::Kohya]),
        ("format-peft-sharded", vec![Target::Mlx, Target::Peft, Target::Kohya]),
    ];
    for (case, targets) in cases {
        let base = Checkpoint::open(&public(case).join("base")).unwrap();
        let (_, adapter) = formats::load(&adapter_of(&public(case))).unwrap();
        for target in targets {
            let directory = tempfile::tempdir().unwrap();
            let (placed, _) = formats::place(&adapter, &base).unwrap();
            formats::write(&placed, target, directory.path()).unwrap();
            let (_, again) =
                formats::load(directory.path()).unwrap_or_else(|error| panic!("{case} {target:?}: {error}"));
            let (found, _) = merged(&base, &again, None);
            same(&found, &public(case).join("expected"), None);
        }
    }
}

#[test]
fn what_a_format_has_no_place_for_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let write = |case: &str, target| {
        let (_, adapter) = formats::load(&adapter_of(&public(case))).unwrap();
        formats::write(&adapter, target, directory.path())
    };
    says(write("format-kohya", Target::Peft), &["lora_", "--base"]);
    says(write("format-kohya", Target::Diffusers), &["lora_", "--base"]);
    says(write("format-diffusers", Target::Peft), &["text_encoder", "--base"]);
    says(write("format-diffusers", Target::Mlx), &["mlx-lm", "convolutions"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn quantised_bases_are_merged_in_plain_numbers() {
    for case in cases("quant-") {
        let base = Checkpoint::open(&case.join("base")).unwrap();
        let adapter = Adapter::load(&case.join("adapter")).unwrap();
        assert!(!base.quantized_formats().unwrap().is_empty(), "{case:?}");
        // Without being asked to, nothing is dequantised.
        let adapters = [Weighted { name: "adapter".into(), adapter: &adapter, weight: 1.0 }];
        says(Edit::merge(&base, &adapters, EditOptions::default()), &["--dequantize bf16"]);
        let base = base.dequantized().unwrap();
        let (found, _) = merged(&base, &adapter, Some(DType::Bf16));
        same(&found, &case.join("expected"), Some("bf16"));
        let config = found.model_config();
        assert!(
            !config.contains_key("quantization_config") && config["torch_dtype"] == "bfloat16",
            "{config:?}"
        );
    }
}

/// Half the distance to the next number of the type, and what rounding of the scale moves.
#[test]
fn fp8_is_quantised_again() {
    for (case, relative) in [("block", 4), ("block-bf16-scales", 4), ("row", 4), ("tensor", 4), ("e5m2", 3)] {
        let case = public(&format!("quant-fp8-{case}"));
        let base = Checkpoint::open(&case.join("base")).unwrap();
        let adapter = Adapter::load(&case.join("adapter")).unwrap();
        let plain = Checkpoint::open(&case.join("base")).unwrap().dequantized().unwrap();
        let adapters = [Weighted { name: "adapter".into(), adapter: &adapter, weight: 1.0 }];
        let options = EditOptions { requantize: true, ..EditOptions::default() };
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("merged");
        let edit = Edit::merge(&plain, &adapters, options).unwrap();
        let summary = edit.write(&Cpu::new(), &out, &Progress::new()).unwrap();
        let found = Checkpoint::open(&out).unwrap();
        assert_eq!(found.model_config(), base.model_config());
        assert!(found.tensors().keys().eq(base.tensors().keys()));
        let changed: Vec<&str> = summary.requantized.iter().map(|weight| weight.weight.as_str()).collect();
        assert_eq!(changed.len(), 2);
        for (name, info) in base.tensors() {
            assert_eq!(
                (info.dtype, &info.shape),
                (found.tensors()[name].dtype, &found.tensors()[name].shape)
            );
            if !changed.iter().any(|weight| name.starts_with(&weight[..weight.len() - 6])) {
                assert_eq!(base.bytes(name).unwrap(), found.bytes(name).unwrap(), "{name}");
            }
        }
        let found = found.dequantized().unwrap();
        let expected = Checkpoint::open(&case.join("expected")).unwrap();
        for weight in &summary.requantized {
            let [one, two] = [&found, &expected].map(|file| doubles(&file.tensor(&weight.weight).unwrap()));
            let largest = common::largest(&two);
            let mut error = 0f64;
            for (one, two) in one.into_iter().zip(two) {
                // The expected values are rounded to bf16, and the smallest numbers of the type lie evenly.
                let bound = two.abs() * (0.5f64.powi(relative) + 0.5f64.powi(8)) + largest * 0.5f64.powi(18);
                assert!((one - two).abs() <= bound, "{case:?} {}: {one} for {two}", weight.weight);
                error = error.max((one - two).abs());
            }
            assert!(error <= f64::from(weight.max_error) + largest * 0.5f64.powi(8), "{error}");
            assert!(weight.rms_error > 0.0 && weight.rms_error < 0.1 * weight.rms);
        }
    }
}

#[test]
fn plain_bases_are_not_dequantised() {
    let base = Checkpoint::open(&public("format-mlx").join("base")).unwrap();
    assert!(base.quantized_formats().unwrap().is_empty());
    says(base.dequantized(), &["nothing in it is quantised"]);
}

/// A part of a quantised weight that is missing or has another shape is named.
#[test]
fn broken_quantised_weights_are_named() {
    let module = "model.layers.0.self_attn.q_proj";
    for (case, part) in [
        ("quant-fp8-block", "weight_scale_inv"),
        ("quant-fp8-row", "weight_scale"),
        ("quant-int8-bitsandbytes", "SCB"),
        ("quant-nf4", "weight.absmax"),
        ("quant-nf4", "weight.quant_map"),
        ("quant-nf4-double", "weight.nested_absmax"),
        ("quant-gptq", "qzeros"),
        ("quant-gptq", "scales"),
        ("quant-gptq-act-order", "g_idx"),
        ("quant-awq", "scales"),
    ] {
        for change in ["rename", "shape"] {
            // Without g_idx groups follow each other; a matrix of 8-bit integers alone is not known to be quantised.
            if change == "rename" && ["g_idx", "SCB", "weight.absmax"].contains(&part) {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            for file in ["config.json", "model.safetensors"] {
                std::fs::copy(public(case).join("base").join(file), directory.path().join(file)).unwrap();
            }
            edit_header(&directory.path().join("model.safetensors"), &format!("{module}.{part}"), change);
            let base = Checkpoint::open(directory.path()).unwrap();
            let error =
                base.dequantized().err().unwrap_or_else(|| panic!("{case} {part} {change}")).to_string();
            assert!(error.contains(module), "{case} {part} {change}: {error}");
        }
    }
}

fn edit_header(path: &Path, name: &str, change: &str) {
    let bytes = std::fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let mut tensor = header.as_object_mut().unwrap().remove(name).unwrap();
    let name = match change {
        "rename" => "something.else",
        _ => {
            let count: u64 =
                tensor["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product();
            // The same bytes as numbers of a type that no part has.
            let sizes = [("F32", 4), ("I32", 4), ("F16", 2)];
            let size = sizes.iter().find(|(dtype, _)| tensor["dtype"] == *dtype).map_or(1, |(_, size)| *size);
            tensor["dtype"] = serde_json::json!("BOOL");
            tensor["shape"] = serde_json::json!([count * size]);
            name
        }
    };
    header[name] = tensor;
    let text = header.to_string().into_bytes();
    let new = [&(text.len() as u64).to_le_bytes()[..], &text, &bytes[end..]].concat();
    std::fs::write(path, new).unwrap();
}

#[test]
fn pickles_are_data() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for file in ["adapter_config.json", "adapter_model.bin"] {
        std::fs::copy(public("format-peft-pickled").join("adapter").join(file), path(file)).unwrap();
    }
    assert!(formats::load(directory.path()).is_ok());
    let bytes = std::fs::read(path("adapter_model.bin")).unwrap();
    let place = bytes.windows(17).position(|window| window == b"_rebuild_tensor_v").unwrap();
    let mut program = bytes.clone();
    program[place..place + 17].copy_from_slice(b"_rebuild_tensor_x");
    std::fs::write(path("adapter_model.bin"), program).unwrap();
    // The archive's checksum sees the change before its meaning is looked at.
    says(formats::load(directory.path()), &["adapter_model.bin", "torch", "save_file"]);
    for wrong in [&b"not an archive"[..], &[0x80, 2, 0x8a], &bytes[..bytes.len() / 2], b"PK\x03\x04", b""] {
        std::fs::write(path("adapter_model.bin"), wrong).unwrap();
        says(formats::load(directory.path()), &["adapter_model.bin", "torch"]);
    }
}

#[test]
fn other_methods_and_formats_are_named_with_a_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.safetensors");
    for (names, words) in [
        (vec!["lora_unet_a.hada_w1_a"], vec!["LyCORIS", "networks.lora"]),
        (vec!["layers.0.attn.q_proj.lora_a.weight"], vec!["torchtune", "adapter_config.json"]),
        (vec!["model.layers.0.q.lora_a"], vec!["mlx-lm", "adapter_config.json"]),
        (vec!["model.weight"], vec!["model weights"]),
        (vec!["lora_unet_a.lora_down.weight"], vec!["lora_unet_a", "lora_up"]),
        (vec!["unet.a.lora_A.weight", "unet.a.weight"], vec!["unet.a.weight", "nothing uses it"]),
    ] {
        write_tensors(&path, &names);
        says(formats::load(&path), &words);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(directory.path().join("adapter_0.pt"), b"PK\x03\x04").unwrap();
    says(formats::load(directory.path()), &["torchtune", "adapter_config.json"]);
    let mlx = |config: &str| formats::from_mlx(config.as_bytes(), formats::Contents::default());
    says(mlx(r#"{"fine_tune_type": "full"}"#), &["full", "mlx_lm.fuse"]);
    says(mlx(r#"{"fine_tune_type": "lora", "lora_parameters": {"rank": 4}}"#), &["lora_parameters.scale"]);
}

/// The two text encoders of SDXL have modules of the same names.
#[test]
fn the_directory_tells_equal_text_encoders_apart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file.safetensors");
    let module = |encoder: u8| format!("lora_te{encoder}_text_model_encoder_layers_0_self_attn_q_proj");
    let names =
        [1, 2].map(|encoder| ["lora_down", "lora_up"].map(|end| format!("{}.{end}.weight", module(encoder))));
    write_tensors(&file, &names.iter().flatten().map(String::as_str).collect::<Vec<_>>());
    let (_, adapter) = formats::load(&file).unwrap();
    for (name, other) in
        [("text_encoder", Some("text_encoder_2")), ("text_encoder_2", Some("text_encoder")), ("x", None)]
    {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        write_tensors(
            &path.join("model.safetensors"),
            &["text_model.encoder.layers.0.self_attn.q_proj.weight"],
        );
        let base = Checkpoint::open(&path).unwrap();
        match (formats::place(&adapter, &base), other) {
            (Ok((placed, notes)), Some(other)) => {
                assert!(placed.layers.contains_key("text_model.encoder.layers.0.self_attn.q_proj"));
                assert_eq!(notes, [Note::OtherParts { part: other.into(), layers: 1 }]);
            }
            (error, None) => says(error, &["text_encoder and for text_encoder_2", "directory"]),
            (Err(error), _) => panic!("{error}"),
        }
    }
}

/// mlx-lm stacks the experts that the hub's files keep apart.
#[test]
fn stacked_experts_of_mlx_are_taken_apart() {
    use lora_peft::Tensor;
    let numbers = |shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        Tensor::new(shape, (0..count).map(|value| value as f32).collect()).unwrap()
    };
    let module = "model.layers.0.mlp.switch_mlp.up_proj";
    let tensors = [("lora_a", numbers(&[3, 2, 4])), ("lora_b", numbers(&[3, 5, 2]))];
    let tensors = tensors.map(|(end, tensor)| (format!("{module}.{end}"), tensor)).into();
    let config =
        br#"{"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 3.0, "dropout": 0.0}}"#;
    let contents = formats::Contents { tensors, ..Default::default() };
    let adapter = formats::from_mlx(config, contents).unwrap();
    assert_eq!(adapter.layers.len(), 3);
    assert_eq!((adapter.config.rank, adapter.config.alpha), (2, 6.0));
    let layer = &adapter.layers["model.layers.0.mlp.experts.1.up_proj"];
    assert_eq!((layer.a.shape(), layer.b.shape()), (&[2, 4][..], &[5, 2][..]));
    assert_eq!((layer.a.to_f32()[0], layer.b.to_f32()[0]), (8.0, 10.0));
}

fn write_tensors(path: &Path, names: &[&str]) {
    use safetensors::tensor::TensorView;
    let data = [0u8; 16];
    let view = || TensorView::new(safetensors::Dtype::F32, vec![2, 2], &data).unwrap();
    std::fs::write(path, safetensors::serialize(names.iter().map(|name| (*name, view())), None).unwrap())
        .unwrap();
}

#[track_caller]
fn says<T>(result: Result<T, Error>, words: &[&str]) {
    let error = result.err().expect("it is refused").to_string();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

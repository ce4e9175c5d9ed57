//! Adapters in other programs' formats and quantised bases, from the command line.

mod common;

use common::{golden, listing, lora, open, same_tensors};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn public(path: &str) -> PathBuf {
    golden("public").join(path)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_file_of_kohya_is_merged_and_named() {
    let (base, file) = (public("format-kohya/base"), public("format-kohya/adapter.safetensors"));
    let (directory, line) = (directory(), "merge --base {} --adapter {} --out {} --device cpu");
    let run = lora(line, &[&base, &file, &directory.path().join("out")]).succeeds();
    assert!(run.stderr.contains("text_encoder"), "{}", run.stderr);
    let run = lora("info {}", &[&file]).succeeds();
    assert!(run.stdout.contains("kohya LoRA (sd-scripts)"), "{}", run.stdout);
    let run = lora("info --json {} {}", &[&base, &file]).succeeds();
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&json[1]["format"], &json[1]["match"]["fits"]), (&Value::from("kohya"), &Value::from(true)));
}

/// The file that an adapter was read from is none that lies beside it.
#[test]
fn weights_with_another_name_are_the_adapters_own() {
    for case in ["format-diffusers", "format-mlx"] {
        let directory = directory();
        let (base, adapter) = (public(&format!("{case}/base")), public(&format!("{case}/adapter")));
        let inputs: [&Path; 3] = [&base, &adapter, &directory.path().join("out")];
        let run = lora("merge --base {} --adapter {} --out {} --device cpu", &inputs).succeeds();
        assert!(!run.stderr.contains("not merged"), "{}", run.stderr);
    }
}

#[test]
fn wrapped_names_of_peft_are_pefts() {
    let directory = directory();
    let (base, from) = (golden("bases/llama-f32"), golden("cases/llama-attention/adapter"));
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("adapter")).unwrap();
    std::fs::copy(from.join("adapter_config.json"), path("adapter/adapter_config.json")).unwrap();
    let bytes = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let wrapped = file.iter().map(|(name, view)| (format!("_orig_mod.{name}"), view));
    let wrapped = safetensors::serialize(wrapped, None).unwrap();
    std::fs::write(path("adapter/adapter_model.safetensors"), wrapped).unwrap();
    let line = "merge --base {} --adapter {} --out {} --device cpu";
    let run = lora(line, &[&base, &path("adapter"), &path("out")]).succeeds();
    assert!(run.stderr.contains("note: ") && run.stderr.contains("_orig_mod."), "{}", run.stderr);
    lora(line, &[&base, &from, &path("plain")]).succeeds();
    same_tensors(&path("out"), &path("plain"));
}

#[test]
fn what_a_file_is_is_said() {
    for (path, words) in [
        ("format-diffusers/adapter", "diffusers LoRA"),
        ("format-mlx/adapter", "mlx-lm adapter"),
        ("format-peft-pickled/adapter", "PEFT adapter with pickled weights"),
        ("format-peft-sharded/adapter", "PEFT adapter in shards"),
        ("quant-nf4/adapter", "LoRA adapter"),
        ("quant-nf4/base", "bitsandbytes NF4 (4 weights); merge with --dequantize bf16"),
        ("quant-fp8-block/base", "FP8 in blocks of 8 × 12"),
    ] {
        let run = lora("info {}", &[&public(path)]).succeeds();
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    let run = lora("info {} {}", &[&public("quant-gptq/base"), &public("quant-gptq/adapter")]).succeeds();
    assert!(run.stdout.contains("Fits") && run.stdout.contains("2 weights change"), "{}", run.stdout);
    let directory = directory();
    let file = directory.path().join("model.gguf");
    std::fs::write(&file, b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    let run = lora("info {}", &[&file]).succeeds();
    assert!(run.stdout.contains("model in GGUF (llama.cpp), version 3, 2 tensors"), "{}", run.stdout);
    let json: Value = serde_json::from_str(&lora("info --json {}", &[&file]).succeeds().stdout).unwrap();
    assert_eq!(json[0]["type"], "gguf");
}

#[test]
fn a_quantised_base_needs_the_flag() {
    let (base, adapter) = (public("quant-fp8-block/base"), public("quant-fp8-block/adapter"));
    let directory = directory();
    let out = directory.path().join("out");
    let line = "merge --base {} --adapter {} --out {} --device cpu";
    lora(line, &[&base, &adapter, &out]).fails(1, &["F8_E4M3", "--dequantize bf16"]);
    assert!(listing(directory.path()).is_empty());
    lora(&format!("{line} --dequantize bf16"), &[&base, &adapter, &out]).succeeds();
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((config.get("quantization_config"), &config["torch_dtype"]), (None, &Value::from("bfloat16")));
    let is_kept = |name: &str| name.ends_with("e_score_correction_bias");
    let is_right = |(name, dtype): (&String, String)| dtype == if is_kept(name) { "F32" } else { "BF16" };
    assert!(open(&out).tensors().iter().all(|(name, info)| is_right((name, info.dtype.to_string()))));
    let plain = golden("bases/llama-bf16");
    let adapter = golden("cases/llama-bf16/adapter");
    lora(&format!("{line} --dequantize bf16 --force"), &[&plain, &adapter, &out])
        .fails(1, &["nothing in it is quantised"]);
    lora(&format!("{line} --dequantize bf16 --exact"), &[&base, &adapter, &out]).code_is(2);
}

#[test]
fn fp8_stays_fp8_if_that_is_asked_for() {
    let directory = directory();
    let out = directory.path().join("out");
    let line = "merge --base {} --adapter {} --out {} --device cpu --requantize same";
    let [base, adapter] = ["base", "adapter"].map(|part| public("quant-fp8-block").join(part));
    let run = lora(line, &[&base, &adapter, &out]).succeeds();
    assert!(run.stdout.contains("Quantised 2 changed weights again: largest error"), "{}", run.stdout);
    assert_eq!(
        std::fs::read(out.join("config.json")).unwrap(),
        std::fs::read(base.join("config.json")).unwrap()
    );
    let gptq = ["base", "adapter"].map(|part| public("quant-gptq").join(part));
    lora(&format!("{line} --force"), &[&gptq[0], &gptq[1], &out]).fails(1, &["GPTQ", "--dequantize bf16"]);
}

/// Files beside a checkpoint that say that it is quantised do not go along.
#[test]
fn the_new_checkpoint_no_longer_says_that_it_is_quantised() {
    let directory = directory();
    let (base, out) = (directory.path().join("base"), directory.path().join("out"));
    copy(&public("quant-gptq/base"), &base);
    for name in ["quantize_config.json", "tokenizer.json"] {
        std::fs::write(base.join(name), "{}").unwrap();
    }
    let line = "merge --base {} --adapter {} --out {} --device cpu --dequantize bf16";
    lora(line, &[&base, &public("quant-gptq/adapter"), &out]).succeeds();
    assert_eq!(listing(&out), ["config.json", "model.safetensors", "tokenizer.json"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for name in listing(from) {
        std::fs::copy(from.join(&name), to.join(name)).unwrap();
    }
}

#[test]
fn adapters_are_converted() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    let merge = "merge --base {} --adapter {} --out {} --device cpu";
    let (base, adapter) = (golden("bases/llama-bf16"), golden("cases/llama-bf16/adapter"));
    lora(merge, &[&base, &adapter, &path("merged")]).succeeds();
    for (format, files) in [
        ("mlx", vec!["adapter_config.json", "adapters.safetensors"]),
        ("kohya", vec!["lora.safetensors"]),
        ("peft", vec!["adapter_config.json", "adapter_model.safetensors"]),
    ] {
        let run =
            lora(&format!("convert --adapter {{}} --to {format} --out {{}}"), &[&adapter, &path(format)]);
        assert!(run.succeeds().stdout.contains("Converted"));
        assert_eq!(listing(&path(format)), files);
        let out = path(&format!("merged-{format}"));
        lora(merge, &[&base, &path(format), &out]).succeeds();
        same_tensors(&path("merged"), &out);
    }
    let (base, file) = (public("format-kohya/base"), public("format-kohya/adapter.safetensors"));
    lora("convert --adapter {} --to diffusers --out {}", &[&file, &path("diffusers")]).fails(1, &["--base"]);
    lora("convert --adapter {} --base {} --to diffusers --out {}", &[&file, &base, &path("diffusers")])
        .succeeds();
    assert_eq!(listing(&path("diffusers")), ["pytorch_lora_weights.safetensors"]);
}

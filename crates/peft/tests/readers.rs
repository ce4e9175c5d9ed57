//! Arbitrary bytes must never make the readers panic or allocate without bound: the fuzz targets, on random input for a
//! bounded time, on their seeds and on what they have found.

mod common;
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use common::{case, cases, golden};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// The body of a fuzz target: whether it accepted the bytes.
type Body = fn(&[u8]) -> bool;

const TARGETS: [(&str, Body); 9] = [
    ("config", fuzz::config),
    ("adapter", fuzz::adapter),
    ("safetensors", fuzz::safetensors),
    ("index", fuzz::index),
    ("record", fuzz::record),
    ("views", fuzz::views),
    ("foreign", fuzz::foreign),
    ("torch_file", fuzz::torch_file),
    ("quantized", fuzz::quantized),
];

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A configuration and weights as the target `adapter` takes them.
fn adapter_input(directory: &Path) -> Vec<u8> {
    let mut input = read(&directory.join("adapter_config.json"));
    input.push(0);
    input.extend(read(&directory.join("adapter_model.safetensors")));
    input
}

fn read_everything(bytes: &[u8]) {
    for (_, target) in TARGETS {
        target(bytes);
    }
}

#[test]
fn golden_files() {
    for case in cases() {
        for directory in case.adapter_directories() {
            assert!(fuzz::config(&read(&directory.join("adapter_config.json"))), "{directory:?}");
            assert!(fuzz::adapter(&adapter_input(&directory)), "{directory:?}");
        }
        assert!(fuzz::safetensors(&read(&case.base.join("model.safetensors"))), "{:?}", case.base);
    }
    assert!(fuzz::adapter(&adapter_input(&golden().join("minilm"))));
    let mut adapters = 0;
    for case in std::fs::read_dir(golden().join("public")).unwrap() {
        let directory = case.unwrap().path().join("adapter");
        let has = |name: &str| directory.join(name).exists();
        if has("adapter_config.json") && has("adapter_model.safetensors") {
            // Some are of diffusers, which this reader refuses.
            adapters += usize::from(fuzz::adapter(&adapter_input(&directory)));
        }
    }
    assert!(adapters > 60, "{adapters}");
    let public = |path: &str| golden().join("public").join(path);
    for path in
        ["format-kohya/adapter.safetensors", "format-diffusers/adapter/pytorch_lora_weights.safetensors"]
    {
        assert!(fuzz::foreign(&read(&public(path))), "{path}");
    }
    assert!(fuzz::foreign(&mlx_input()));
    assert!(fuzz::torch_file(&read(&public("format-peft-pickled/adapter/adapter_model.bin"))));
    for case in
        ["fp8-block", "fp8-tensor", "int8-bitsandbytes", "nf4-double", "gptq-act-order", "awq", "mxfp4"]
    {
        assert!(fuzz::quantized(&quantized_input(case)), "{case}");
    }
}

fn mlx_input() -> Vec<u8> {
    let directory = golden().join("public/format-mlx/adapter");
    [&read(&directory.join("adapter_config.json"))[..], b"\0", &read(&directory.join("adapters.safetensors"))]
        .concat()
}

fn quantized_input(case: &str) -> Vec<u8> {
    let directory = golden().join(format!("public/quant-{case}/base"));
    [&read(&directory.join("config.json"))[..], b"\0", &read(&directory.join("model.safetensors"))].concat()
}

#[test]
fn seeds() {
    for (name, target) in TARGETS {
        for path in files(&format!("seeds/{name}")) {
            assert!(target(&read(&path)), "{path:?} is not accepted");
        }
    }
}

/// What a fuzz target once failed on or should not have accepted.
#[test]
fn regressions() {
    for (name, target) in TARGETS {
        for path in files(&format!("regressions/{name}")) {
            assert!(!target(&read(&path)), "{path:?} is accepted");
        }
    }
}

/// They are written anew with `LORA_PEFT_WRITE_SEEDS=1`.
#[test]
fn record_seeds_are_what_merges_write() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/record");
    let seeds = fuzz::record_seeds();
    assert!(seeds.len() >= 6);
    for (name, seed) in &seeds {
        let path = directory.join(name);
        if std::env::var_os("LORA_PEFT_WRITE_SEEDS").is_some() {
            std::fs::write(&path, seed).unwrap();
        }
        assert!(&read(&path) == seed, "{name} is another; is it to be written anew?");
    }
    assert_eq!(files("seeds/record").len(), seeds.len());
}

/// The fuzz targets' own changes give well-formed texts, and headers as long as they say.
#[test]
fn mutations_keep_texts_well_formed() {
    let input = adapter_input(&case("llama-attention").directory.join("adapter"));
    let mut changed = [0; 2];
    for seed in 0..200 {
        let mutant = fuzz::mutate_json(&input, seed).unwrap();
        let files = [&input, &mutant]
            .map(|bytes| bytes.split_at(bytes.iter().position(|&byte| byte == 0).unwrap() + 1));
        let texts = files.map(|(config, weights)| {
            let length = header_length(weights);
            assert_eq!(weights.len() - length, files[0].1.len() - header_length(files[0].1));
            [&config[..config.len() - 1], &weights[8..8 + length]]
                .map(|text| serde_json::from_slice::<serde_json::Value>(text).unwrap())
        });
        for (changed, (one, two)) in changed.iter_mut().zip(texts[0].iter().zip(&texts[1])) {
            *changed += usize::from(one != two);
        }
    }
    assert!(changed.iter().all(|&count| count > 50), "{changed:?}");
}

fn header_length(weights: &[u8]) -> usize {
    u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
    }

    #[test]
    fn any_json_text(config in "\\{(\"(r|peft_type|bias|rank_pattern|x)\":(1|\"LORA\"|\\[\\]|\\{\"q\":2\\}|null),?){0,5}\\}") {
        read_everything(config.as_bytes());
    }

    #[test]
    fn damaged_files(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let patterns = case("llama-patterns").directory.join("adapter");
        let attention = case("llama-attention").directory.join("adapter");
        let inputs = [
            read(&patterns.join("adapter_config.json")),
            adapter_input(&attention),
            read(&attention.join("adapter_model.safetensors")),
            read(&files("seeds/index")[0]),
            read(&files("seeds/record")[0]),
            read(&files("seeds/views")[0]),
            mlx_input(),
            read(&golden().join("public/format-peft-pickled/adapter/adapter_model.bin")),
            quantized_input(["gptq-act-order", "nf4-double", "fp8-block"][damage.len() % 3]),
        ];
        for ((_, target), mut input) in TARGETS.into_iter().zip(inputs) {
            for (index, byte) in &damage {
                // Half of the damage goes where the JSON texts are.
                let end = if byte % 2 == 0 { input.len() } else { input.len().min(400) };
                input[index.index(end)] = *byte;
            }
            if let Some(cut) = cut {
                input.truncate(cut.index(input.len()));
            }
            target(&input);
        }
    }
}

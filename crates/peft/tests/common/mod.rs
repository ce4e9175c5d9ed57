//! The golden cases, and an oracle in `f64` that shares no code with the library.

#![allow(dead_code, reason = "each test crate uses a part")]

use lora_peft::tensor::Tensor;
use lora_peft::{Adapter, Checkpoint};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One directory below `golden/cases`.
pub struct Case {
    pub name: String,
    pub directory: PathBuf,
    pub base: PathBuf,
    pub dtype: String,
}

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = std::fs::read_dir(golden().join("cases"))
        .unwrap()
        .map(|entry| {
            let directory = entry.unwrap().path();
            let text = std::fs::read(directory.join("case.json")).unwrap();
            let case: Value = serde_json::from_slice(&text).unwrap();
            Case {
                name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
                base: golden().join("bases").join(case["base"].as_str().unwrap()),
                dtype: case["dtype"].as_str().unwrap().to_owned(),
                directory,
            }
        })
        .collect();
    cases.sort_by(|one, two| one.name.cmp(&two.name));
    assert!(cases.len() >= 25);
    cases
}

pub fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

impl Case {
    pub fn adapter_directories(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        found.sort();
        found
    }

    pub fn adapters(&self) -> Vec<Adapter> {
        self.adapter_directories().iter().map(|path| Adapter::load(path).unwrap()).collect()
    }

    pub fn merged(&self) -> Checkpoint {
        Checkpoint::open(&self.directory.join("merged.safetensors")).unwrap()
    }
}

pub fn doubles(tensor: &Tensor) -> Vec<f64> {
    tensor.to_f32().into_iter().map(f64::from).collect()
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The distance from `value` to the next representable number of a type, halved: what one rounding may lose.
pub fn half_step(dtype: &str, value: f64) -> f64 {
    let (digits, smallest) = match dtype {
        "f16" => (11, -14),
        "bf16" => (8, -126),
        _ => (24, -126),
    };
    let exponent = if value == 0.0 { smallest } else { (value.abs().log2().floor() as i32).max(smallest) };
    2f64.powi(exponent - digits)
}

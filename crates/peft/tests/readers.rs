//! Arbitrary bytes must never make the readers panic or allocate without bound.

mod common;

use common::case;
use lora_peft::{Adapter, AdapterConfig, Checkpoint};
use proptest::prelude::*;

fn config_bytes() -> Vec<u8> {
    std::fs::read(case("llama-patterns").directory.join("adapter/adapter_config.json")).unwrap()
}

fn weight_bytes() -> Vec<u8> {
    std::fs::read(case("llama-attention").directory.join("adapter/adapter_model.safetensors")).unwrap()
}

fn read_everything(config: &[u8], weights: &[u8]) {
    if let Ok(config) = AdapterConfig::from_slice(config) {
        let text = config.to_json().to_string();
        assert_eq!(AdapterConfig::from_slice(text.as_bytes()).unwrap().to_json(), config.to_json());
    }
    if let Ok(config) = AdapterConfig::from_slice(config)
        && let Ok(adapter) = Adapter::from_parts(config, weights)
    {
        // What was accepted must survive being written and read.
        let again = Adapter::from_parts(adapter.config.clone(), &adapter.to_bytes().unwrap()).unwrap();
        assert_eq!(again.layers, adapter.layers);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, weights).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        for name in checkpoint.tensors().keys() {
            let _ = checkpoint.tensor(name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes(config in proptest::collection::vec(any::<u8>(), 0..200), weights in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&config, &weights);
    }

    #[test]
    fn any_json_text(config in "\\{(\"(r|peft_type|bias|rank_pattern|x)\":(1|\"LORA\"|\\[\\]|\\{\"q\":2\\}|null),?){0,5}\\}") {
        read_everything(config.as_bytes(), &weight_bytes());
    }

    #[test]
    fn damaged_files(
        config_damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        weight_damage in proptest::collection::vec((0usize..400, any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut config, mut weights) = (config_bytes(), weight_bytes());
        for (index, byte) in config_damage {
            let len = config.len();
            config[index.index(len)] = byte;
        }
        for (index, byte) in weight_damage {
            weights[index] = byte;
        }
        if let Some(cut) = cut {
            weights.truncate(cut.index(weights.len()));
        }
        read_everything(&config, &weights);
    }
}

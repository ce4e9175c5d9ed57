//! Any bytes as an adapter's weights and as a checkpoint.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lora_peft::{Adapter, AdapterConfig, Checkpoint};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(adapter) = Adapter::from_parts(AdapterConfig::default(), bytes) {
        let again = Adapter::from_parts(adapter.config.clone(), &adapter.to_bytes().unwrap()).unwrap();
        assert_eq!(again.layers, adapter.layers);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        for name in checkpoint.tensors().keys() {
            let _ = checkpoint.tensor(name);
        }
    }
});

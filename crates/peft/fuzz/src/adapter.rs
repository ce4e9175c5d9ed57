//! Adapters: configuration and weights.

use super::two_files;
use lora_peft::adapter::Matcher;
use lora_peft::tensor::Tensor;
use lora_peft::{Adapter, AdapterConfig};
use safetensors::SafeTensors;

/// An `adapter_config.json`.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(config) = AdapterConfig::from_slice(bytes) else { return false };
    let text = config.to_json().to_string();
    let again = AdapterConfig::from_slice(text.as_bytes()).expect("what was written is read");
    assert_eq!(again.to_json(), config.to_json());
    let Ok(matcher) = Matcher::new(&config) else { return true };
    for path in ["model.layers.0.self_attn.q_proj", "transformer.h.11.mlp.c_fc", "lm_head", ""] {
        let _ = matcher.matches(path);
        if let (Ok(rank), Ok(scale)) = (matcher.rank(path), matcher.scale(path)) {
            assert!(rank > 0 && scale.is_finite(), "rank {rank}, scale {scale}");
        }
    }
    true
}

/// An `adapter_config.json`, a zero byte, and an `adapter_model.safetensors`.
pub fn adapter(bytes: &[u8]) -> bool {
    let Some((config, weights)) = two_files(bytes) else { return false };
    let Ok(config) = AdapterConfig::from_slice(config) else { return false };
    let is_expanded = config.block_diagonal.is_some();
    let Ok(adapter) = Adapter::from_parts(config, weights) else { return false };
    let file = SafeTensors::deserialize(weights).expect("an adapter was read from it");
    let in_file: usize = file.iter().map(|(_, view)| view.shape().iter().product::<usize>()).sum();
    let held = elements(&adapter);
    // Saved modules may be there three times, of which one is kept, and what only training needs is left out.
    let left = [".modules_to_save.", ".original_module.", ".lora_velora_embed", ".lora_monteclora_sampler."];
    if is_expanded {
        // Blocks are written out with the zeros between them.
    } else if file.names().iter().any(|name| left.iter().any(|part| name.contains(part))) {
        assert!(held <= in_file, "no tensor is used twice");
    } else {
        assert_eq!(held, in_file, "every tensor is used");
    }

    let written = adapter.to_bytes().expect("what was read is written");
    let again = Adapter::from_parts(adapter.config.clone(), &written).expect("what was written is read");
    assert_eq!(again.layers, adapter.layers);
    assert_eq!(again.replaced, adapter.replaced);
    true
}

fn elements(adapter: &Adapter) -> usize {
    let layers = adapter.layers.values();
    let layers =
        layers.flat_map(|layer| [&layer.a, &layer.b].into_iter().chain(&layer.bias).chain(&layer.magnitude));
    layers.chain(adapter.replaced.values()).map(Tensor::len).sum()
}

//! Any bytes as an `adapter_config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lora_peft::AdapterConfig;
use lora_peft::matching::Matcher;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = AdapterConfig::from_slice(bytes) else { return };
    if let Ok(matcher) = Matcher::new(&config) {
        let _ = matcher.matches("model.layers.0.self_attn.q_proj");
        let _ = matcher.scale("model.layers.0.self_attn.q_proj");
    }
    let text = config.to_json().to_string();
    assert_eq!(AdapterConfig::from_slice(text.as_bytes()).unwrap().to_json(), config.to_json());
});

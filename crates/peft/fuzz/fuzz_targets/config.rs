//! Any bytes as an `adapter_config.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lora_peft_fuzz::config(bytes);
});

//! Any bytes as a checkpoint's file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lora_peft_fuzz::safetensors(bytes);
});

//! Any bytes as an adapter's configuration and weights.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lora_peft_fuzz::adapter(bytes);
});

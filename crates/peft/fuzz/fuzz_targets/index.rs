//! Any bytes as the index of a sharded checkpoint.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lora_peft_fuzz::index(bytes);
});

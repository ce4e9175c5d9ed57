//! Any bytes as the restore record of a merged checkpoint.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lora_peft_fuzz::record(bytes);
});

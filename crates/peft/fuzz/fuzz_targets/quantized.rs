//! Any bytes as a quantised checkpoint.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::quantized);

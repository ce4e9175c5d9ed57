//! Any bytes as an `adapter_config.json`.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::config);

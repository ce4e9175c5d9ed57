//! Any bytes as the index of a sharded checkpoint.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::index);

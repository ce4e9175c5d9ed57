//! Any bytes as an adapter's configuration and weights.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::adapter);

//! Any bytes as a checkpoint's file.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::safetensors);

//! Any bytes as the numbers of matrix views.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::views);

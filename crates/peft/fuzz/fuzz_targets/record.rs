//! Any bytes as the restore record of a merged checkpoint.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::record);

//! Any bytes as a pickled file of torch's.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::torch_file);

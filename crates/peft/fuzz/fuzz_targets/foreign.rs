//! Any bytes as a kohya, diffusers or mlx-lm adapter.
#![no_main]

lora_peft_fuzz::target!(lora_peft_fuzz::foreign);

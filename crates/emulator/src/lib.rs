//! Runs the CUDA kernels of lora-kernels on the CPU.

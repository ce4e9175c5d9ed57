// The kernels of a skinny product: one for each arithmetic and each number of ranks that a pass takes.
#pragma once
#include "skinny/product_constants.cuh"
#include "skinny/warp_product.cuh"

// shrink<F16, 16> becomes shrink_f16_rank16, and so on; src/cuda/kernel.rs names them.
#define LORA_PRODUCT_KERNELS(operation, Arguments)            \
    LORA_PRODUCT_KERNELS_OF(operation, Arguments, f16, F16)   \
    LORA_PRODUCT_KERNELS_OF(operation, Arguments, bf16, Bf16) \
    LORA_PRODUCT_KERNELS_OF(operation, Arguments, f32, F32)   \
    LORA_PRODUCT_KERNELS_OF(operation, Arguments, tf32, Tf32)
#define LORA_PRODUCT_KERNELS_OF(operation, Arguments, name, Mode) \
    LORA_PRODUCT_KERNEL(operation, Arguments, name, Mode, 16)     \
    LORA_PRODUCT_KERNEL(operation, Arguments, name, Mode, 32)     \
    LORA_PRODUCT_KERNEL(operation, Arguments, name, Mode, 64)
#define LORA_PRODUCT_KERNEL(operation, Arguments, name, Mode, rank) \
    LORA_KERNEL(operation##_##name##_rank##rank, Arguments, THREADS) { operation<Mode, rank>(arguments); }

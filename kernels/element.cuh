// Element types: conversions, and access to memory whose element type is known at run time only.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "arch/kernel.cuh"
#include "element_constants.cuh"

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// The nearest value of type T, ties to even.
template <class T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ __half from_float<__half>(float value) { return __float2half_rn(value); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

__device__ __forceinline__ float load_element(uint64_t address, int64_t index, uint32_t dtype) {
    if (dtype == DTYPE_F32) return reinterpret_cast<const float*>(address)[index];
    if (dtype == DTYPE_F16) return to_float(reinterpret_cast<const __half*>(address)[index]);
    return to_float(reinterpret_cast<const __nv_bfloat16*>(address)[index]);
}

// The bits of an element, without looking at them.
__device__ __forceinline__ uint32_t load_bits(uint64_t address, int64_t index, uint32_t dtype) {
    if (dtype == DTYPE_F32) return reinterpret_cast<const uint32_t*>(address)[index];
    return reinterpret_cast<const uint16_t*>(address)[index];
}

__device__ __forceinline__ void store_bits(uint64_t address, int64_t index, uint32_t dtype, uint32_t bits) {
    if (dtype == DTYPE_F32) {
        reinterpret_cast<uint32_t*>(address)[index] = bits;
    } else {
        reinterpret_cast<uint16_t*>(address)[index] = static_cast<uint16_t>(bits);
    }
}

__device__ __forceinline__ void store_element(uint64_t address, int64_t index, uint32_t dtype, float value) {
    if (dtype == DTYPE_F32) {
        reinterpret_cast<float*>(address)[index] = value;
    } else if (dtype == DTYPE_F16) {
        reinterpret_cast<__half*>(address)[index] = from_float<__half>(value);
    } else {
        reinterpret_cast<__nv_bfloat16*>(address)[index] = from_float<__nv_bfloat16>(value);
    }
}

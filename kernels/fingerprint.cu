// The sum that identifies a matrix: see src/fingerprint.rs.
#include "element.cuh"
#include "weight_arguments.cuh"

constexpr int FINGERPRINT_THREADS = 256;

// The finaliser of SplitMix64.
__device__ __forceinline__ uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

__device__ __forceinline__ uint32_t identifying_bits(const FingerprintArguments& arguments, int64_t position) {
    if (arguments.stored_bits) {
        if (arguments.dtype == DTYPE_F32) return reinterpret_cast<const uint32_t*>(arguments.matrix.address)[position];
        return reinterpret_cast<const uint16_t*>(arguments.matrix.address)[position];
    }
    const float value = load_element(arguments.matrix.address, position, arguments.dtype);
    return value != value ? 0x7FFFFFFFu : __float_as_uint(value);
}

LORA_KERNEL(fingerprint, FingerprintArguments, FINGERPRINT_THREADS) {
    __shared__ unsigned long long sums[FINGERPRINT_THREADS];
    const View& matrix = arguments.matrix;
    uint64_t sum = 0;
    for (uint64_t sample = uint64_t(blockIdx.x) * FINGERPRINT_THREADS + threadIdx.x; sample < arguments.samples;
         sample += uint64_t(gridDim.x) * FINGERPRINT_THREADS) {
        const uint64_t index = sample * arguments.step;
        const int64_t row = static_cast<int64_t>(index / matrix.columns), column = static_cast<int64_t>(index % matrix.columns);
        const uint32_t bits = identifying_bits(arguments, row * matrix.row_stride + column * matrix.column_stride);
        sum += mix(index * 0x9E3779B97F4A7C15ull ^ bits);
    }
    sums[threadIdx.x] = sum;
    for (int half = FINGERPRINT_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    // Integer sums wrap the same way in any order.
    if (threadIdx.x == 0) atomicAdd(reinterpret_cast<unsigned long long*>(arguments.sum), sums[0]);
}

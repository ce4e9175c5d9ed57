// Fingerprints of whole matrices, and of the codes of a restore record.
#include "weights/fingerprint.cuh"
#include "element.cuh"
#include "weights/weight_arguments.cuh"

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
    const int per_word = arguments.stored_bits && arguments.dtype != DTYPE_F32 ? 4 : 2;
    const int64_t words = (matrix.columns + per_word - 1) / per_word;
    // Neighbouring threads follow the contiguous direction.
    const bool down = matrix.column_stride != 1;
    const int64_t outer = down ? words : matrix.rows, inner = down ? matrix.rows : words;
    uint64_t sum = 0;
    for (int64_t m = blockIdx.x; m < outer; m += gridDim.x) {
        for (int64_t n = threadIdx.x; n < inner; n += FINGERPRINT_THREADS) {
            const int64_t row = down ? n : m, first = (down ? m : n) * per_word;
            uint64_t word = 0;
            for (int part = 0; part < per_word && first + part < matrix.columns; ++part) {
                const int64_t position = row * matrix.row_stride + (first + part) * matrix.column_stride;
                word |= uint64_t(identifying_bits(arguments, position)) << part * (64 / per_word);
            }
            sum += word_term(row * words + first / per_word, word);
        }
    }
    add_block_sum(sum, sums, arguments.sum);
}

// How many bytes of the word mark an escape.
__device__ __forceinline__ uint64_t escape_marks(uint64_t word) {
    constexpr uint64_t HIGH = 0x8080808080808080ull, LOW = ~HIGH;
    const uint64_t others = word ^ HIGH;
    // The high bit of each byte that is zero.
    const uint64_t zeros = ~(((others & LOW) + LOW) | others | LOW);
    return (zeros >> 7) * 0x0101010101010101ull >> 56;
}

LORA_KERNEL(fingerprint_codes, CodesArguments, FINGERPRINT_THREADS) {
    __shared__ unsigned long long sums[FINGERPRINT_THREADS];
    __shared__ unsigned long long marks[FINGERPRINT_THREADS];
    const uint8_t* codes = reinterpret_cast<const uint8_t*>(arguments.codes);
    const uint64_t words = (arguments.bytes + 7) / 8;
    uint64_t sum = 0, marked = 0;
    for (uint64_t n = uint64_t(blockIdx.x) * FINGERPRINT_THREADS + threadIdx.x; n < words;
         n += uint64_t(gridDim.x) * FINGERPRINT_THREADS) {
        uint64_t word = 0;
        if (arguments.codes % 8 == 0 && n * 8 + 8 <= arguments.bytes) {
            word = reinterpret_cast<const uint64_t*>(codes)[n];
        } else {
            for (int part = 0; part < 8 && n * 8 + part < arguments.bytes; ++part) {
                word |= uint64_t(codes[n * 8 + part]) << part * 8;
            }
        }
        sum += word_term(n, word);
        marked += escape_marks(word);
    }
    add_block_sum(sum, sums, arguments.sum);
    add_block_sum(marked, marks, arguments.escapes);
}

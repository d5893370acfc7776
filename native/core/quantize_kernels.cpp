// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here (gather_kernels.cpp says why).
//
// The formulas, and the order of their roundings, are those of FBGEMM's row-wise fused quantization (its
// QuantUtils), which PyTorch calls; written anew.

#include "core/quantize.h"
#include "core/rows.h"

#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// Values at a time: two registers of the widest level.
constexpr size_t block = 32;

// Values whose steps are made before they are put together: read at once, stores would still be on their way.
constexpr size_t chunk = 256;

// ---- float16 ----

/// Of finite float16, exact: a change of the exponent's bias is a multiplication.
SHARDWISE_INLINE float from_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
    const float value = from_bits(static_cast<uint32_t>(half & 0x7fffU) << 13) * 0x1p112F;
    return from_bits(to_bits(value) | sign);
}

SHARDWISE_INLINE bool is_finite_half(uint16_t half) {
    return (half & 0x7c00U) != 0x7c00U;
}

/// To the nearest, ties to even; what is too large becomes infinity.
SHARDWISE_INLINE uint16_t to_half(float value) {
    const uint32_t all = to_bits(value);
    const uint32_t sign = (all >> 16) & 0x8000U;
    const uint32_t rest = all & 0x7fffffffU;
    if (rest >= 0x47800000U)
        return static_cast<uint16_t>(sign | 0x7c00U);
    if (rest < 0x38800000U) // a multiple of 2^-24: the sum below has that as its last bit
        return static_cast<uint16_t>(sign | (to_bits(from_bits(rest) + 0.5F) - to_bits(0.5F)));
    const uint32_t rounded = rest + 0xfffU + ((rest >> 13) & 1U);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

// ---- rows of floats ----

struct Floats {
    const float *row;
    SHARDWISE_INLINE explicit Floats(const std::byte *from) : row(reinterpret_cast<const float *>(from)) {}
    SHARDWISE_INLINE const float *read(size_t at, size_t, float *) const { return row + at; }
};

struct Halves {
    const uint16_t *row;
    SHARDWISE_INLINE explicit Halves(const std::byte *from) : row(reinterpret_cast<const uint16_t *>(from)) {}
    /// What is not finite stays so.
    SHARDWISE_INLINE const float *read(size_t at, size_t count, float *to) const {
        size_t j = 0;
#if defined(__AVX512F__)
        for (; j + 16 <= count; j += 16) {
            const auto sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(row + at + j));
            _mm512_storeu_ps(to + j, _mm512_maskz_cvtph_ps(0xffff, sixteen));
        }
#endif
#if defined(__F16C__)
        for (; j + 8 <= count; j += 8) {
            const auto eight = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row + at + j));
            _mm256_storeu_ps(to + j, _mm256_cvtph_ps(eight));
        }
#endif
        for (; j < count; ++j) {
            const float value = from_half(row[at + j]);
            // Infinities and NaNs come as numbers that are none of float16's.
            to[j] = (to_bits(value) & 0x7fffffffU) >= to_bits(65536.0F) ? from_bits(0x7f800000U) : value;
        }
        return to;
    }
};

struct Range {
    float least, most;
    bool finite;
};

struct Lanes {
    float least[block], most[block];
    uint32_t odd[block]; // not 0 where a value was not finite: then x - x is a NaN

    SHARDWISE_INLINE Lanes() {
        for (size_t j = 0; j < block; ++j) {
            least[j] = __FLT_MAX__;
            most[j] = -__FLT_MAX__;
            odd[j] = 0;
        }
    }
    SHARDWISE_INLINE void add(const float *x, size_t count) {
        for (size_t j = 0; j < count; ++j) {
            least[j] = x[j] < least[j] ? x[j] : least[j];
            most[j] = x[j] > most[j] ? x[j] : most[j];
            odd[j] |= to_bits(x[j] - x[j]);
        }
    }
    SHARDWISE_INLINE Range sum() {
        for (size_t width = block / 2; width > 0; width /= 2) {
            for (size_t j = 0; j < width; ++j) {
                least[j] = least[j + width] < least[j] ? least[j + width] : least[j];
                most[j] = most[j + width] > most[j] ? most[j + width] : most[j];
                odd[j] |= odd[j + width];
            }
        }
        return {least[0], most[0], odd[0] == 0};
    }
};

/// The zero that FBGEMM's eight lanes take for the least value of a row without negative ones. Each lane
/// keeps its last zero, and the first lane that has one wins; then the values behind the last full eight.
template <class Row> __attribute__((noinline)) float least_zero(const Row &row, size_t dim) {
    float scratch[1];
    const size_t full = dim / 8 * 8;
    for (size_t lane = 0; lane < 8 && lane < full; ++lane) {
        for (size_t at = full + lane; at > lane; at -= 8) {
            const float x = *row.read(at - 8, 1, scratch);
            if (x == 0.0F)
                return x;
        }
    }
    for (size_t at = full; at < dim; ++at) {
        const float x = *row.read(at, 1, scratch);
        if (x == 0.0F)
            return x;
    }
    return 0.0F;
}

template <class Row> SHARDWISE_INLINE Range range_of(const Row &row, size_t dim) {
    float scratch[block];
    Lanes lanes;
    size_t at = 0;
    for (; at + block <= dim; at += block)
        lanes.add(row.read(at, block, scratch), block);
    if (at < dim)
        lanes.add(row.read(at, dim - at, scratch), dim - at);
    Range range = lanes.sum();
    if (range.least == 0.0F) {
        range.least = least_zero(row, dim);
        if (range.most == 0.0F) // it was chosen in the same way: the width is 0, never -0
            range.most = range.least;
    }
    return range;
}

// ---- to steps ----

/// To the nearest whole number, ties to even, of 0 to 255: its bits are the sum's last.
SHARDWISE_INLINE uint8_t nearest(float value) {
    return static_cast<uint8_t>(to_bits(value + 0x1.8p23F));
}

/// The nearest value of 0 to 15. By masks: compilers make branches of the conditions else.
SHARDWISE_INLINE float within_15(float value) {
    const uint32_t above = 0U - static_cast<uint32_t>(value > 0.0F);
    const uint32_t below = 0U - static_cast<uint32_t>(value < 15.0F);
    return from_bits((to_bits(value) & above & below) | (to_bits(15.0F) & ~below));
}

template <class Row> SHARDWISE_INLINE bool to_int8(const Row &row, size_t dim, uint8_t *out) {
    const Range range = range_of(row, dim);
    const float width = range.most - range.least;
    const float scale = width / 255.0F;
    if (!range.finite || !is_finite(scale) || !is_finite(fused(255.0F, scale, range.least)))
        return false;
    const float inverse = 255.0F / (width + 1e-8F);
    float scratch[block];
    const auto steps = [&](size_t at, size_t count) __attribute__((always_inline)) {
        const float *const x = row.read(at, count, scratch);
        for (size_t j = 0; j < count; ++j)
            out[at + j] = nearest((x[j] - range.least) * inverse);
    };
    size_t at = 0;
    for (; at + block <= dim; at += block)
        steps(at, block);
    if (at < dim)
        steps(at, dim - at);
    memcpy(out + dim, &scale, sizeof scale);
    memcpy(out + dim + sizeof scale, &range.least, sizeof range.least);
    return true;
}

template <class Row> SHARDWISE_INLINE bool to_int4(const Row &row, size_t dim, uint8_t *out) {
    const Range range = range_of(row, dim);
    const uint16_t bias = to_half(range.least);
    if (!range.finite || !is_finite_half(bias))
        return false;
    // The width is taken from the rounded bias: it is below 0 where a row of equal values was rounded up.
    const float least = from_half(bias);
    const float width = range.most - least;
    uint16_t scale = to_half(width == 0.0F ? 1.0F : width / 15.0F);
    if (!is_finite_half(scale))
        return false;
    if ((scale & 0x7fffU) == 0)
        scale = 0x3c00; // 1
    const float inverse = 1.0F / from_half(scale);
    float scratch[block];
    uint16_t pairs[chunk / 2]; // little-endian, as all that this library is built for
    uint8_t *const step = reinterpret_cast<uint8_t *>(pairs);
    const auto steps = [&](size_t at, size_t begin, size_t count) __attribute__((always_inline)) {
        const float *const x = row.read(at + begin, count, scratch);
        for (size_t j = 0; j < count; ++j)
            step[begin + j] = nearest(within_15((x[j] - least) * inverse));
    };
    for (size_t at = 0; at < dim; at += chunk) {
        const size_t count = dim - at < chunk ? dim - at : chunk;
        size_t done = 0;
        for (; done + block <= count; done += block)
            steps(at, done, block);
        if (done < count)
            steps(at, done, count - done);
        if (count % 2 != 0)
            step[count] = 0; // the half of a byte that no value is in
        for (size_t j = 0; j < (count + 1) / 2; ++j)
            out[at / 2 + j] = static_cast<uint8_t>(pairs[j] | (pairs[j] >> 4));
    }
    memcpy(out + dim / 2 + dim % 2, &scale, sizeof scale);
    memcpy(out + dim / 2 + dim % 2 + sizeof scale, &bias, sizeof bias);
    return true;
}

template <class Row> SHARDWISE_INLINE size_t quantize_all(const Quantize &task, size_t begin, size_t end) {
    const size_t bytes = row_bytes_of(task.format, task.dim);
    for (size_t i = begin; i < end; ++i) {
        const Row row(task.rows + static_cast<ptrdiff_t>(i) * task.stride);
        uint8_t *const out = task.out + i * bytes;
        if (!(task.format == RowFormat::int8 ? to_int8(row, task.dim, out) : to_int4(row, task.dim, out)))
            return i;
    }
    return end;
}

} // namespace

size_t quantize_rows(const Quantize &task, size_t begin, size_t end) {
    return task.half ? quantize_all<Halves>(task, begin, end) : quantize_all<Floats>(task, begin, end);
}

void dequantize_rows(const Dequantize &task, size_t begin, size_t end) {
    const Convert convert = choose_convert(task.format, RowFormat::float32);
    for (size_t i = begin; i < end; ++i)
        convert(reinterpret_cast<std::byte *>(task.out + i * task.dim),
                reinterpret_cast<const std::byte *>(task.rows + static_cast<ptrdiff_t>(i) * task.stride),
                task.dim);
}

} // namespace shardwise::SHARDWISE_LEVEL

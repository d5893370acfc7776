#pragma once
// Rows scaled down to a norm, for the kernels alone: this file is compiled once per instruction level, in
// their namespace.

#include "core/gather.h"

#include <math.h>
#include <string.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// --------------------------------------------------------------------------------------------------------

SHARDWISE_INLINE float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

SHARDWISE_INLINE uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/// To float32, where it is not exact with the last bit set: a rounding to fewer bits after that sees on which
/// side of a tie the number was, so that it is rounded once.
SHARDWISE_INLINE float to_odd(double value) {
    const float near = static_cast<float>(value);
    const double back = static_cast<double>(near);
    if (back == value || value != value)
        return near;
    const uint32_t towards_zero = to_bits(near) - (fabs(back) > fabs(value) ? 1U : 0U);
    return from_bits(towards_zero | 1U);
}

struct Float16 {
    uint16_t bits;
    /// Without branches, so that it is done on many at once. The exponent's bias is changed by a
    /// multiplication, which subnormal numbers come through, too.
    SHARDWISE_INLINE double load() const {
        const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffU) << 13;
        const uint32_t special = magnitude >= 0x0f800000U ? 0x7f800000U : 0U; // infinity or NaN
        const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
        return static_cast<double>(from_bits(to_bits(from_bits(magnitude) * 0x1p112F) | special | sign));
    }
    /// To the nearest, ties to even, as the processor's own instruction does.
    SHARDWISE_INLINE void store(double value) {
        const uint32_t all = to_bits(to_odd(value));
        const uint32_t sign = (all >> 16) & 0x8000U;
        const uint32_t rest = all & 0x7fffffffU;
        if (rest > 0x7f800000U) { // a NaN, which keeps what it says
            bits = static_cast<uint16_t>(sign | 0x7e00U | ((rest >> 13) & 0x1ffU));
        } else if (rest >= 0x477ff000U) { // nearer to infinity than to the largest number
            bits = static_cast<uint16_t>(sign | 0x7c00U);
        } else if (rest < 0x38800000U) { // below the least normal number: a multiple of 2^-24
            const float steps = from_bits(rest) * 0x1p24F;
            uint32_t whole = static_cast<uint32_t>(steps);
            const float left = steps - static_cast<float>(whole);
            if (left > 0.5F || (left == 0.5F && (whole & 1U) != 0))
                ++whole;
            bits = static_cast<uint16_t>(sign | whole);
        } else {
            const uint32_t rounded = rest + 0xfffU + ((rest >> 13) & 1U);
            bits = static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
        }
    }
};

struct Bfloat16 {
    uint16_t bits;
    SHARDWISE_INLINE double load() const {
        return static_cast<double>(from_bits(static_cast<uint32_t>(bits) << 16));
    }
    SHARDWISE_INLINE void store(double value) {
        const uint32_t all = to_bits(to_odd(value));
        if ((all & 0x7fffffffU) > 0x7f800000U) {
            bits = static_cast<uint16_t>((all >> 16) | 0x40U);
        } else {
            bits = static_cast<uint16_t>((all + 0x7fffU + ((all >> 16) & 1U)) >> 16);
        }
    }
};

template <class T> struct Plain {
    T value;
    SHARDWISE_INLINE double load() const { return static_cast<double>(value); }
    SHARDWISE_INLINE void store(double to) { value = static_cast<T>(to); }
};

/// Of a row times `factor`, in doubles in eight lanes, added in one fixed order: the same bits at every
/// instruction level.
template <class T>
SHARDWISE_INLINE double sum_of_squares(const std::byte *row, size_t elements, double factor) {
    double lanes[8] = {};
    size_t i = 0;
    T element;
    for (; i + 8 <= elements; i += 8) {
        for (size_t lane = 0; lane < 8; ++lane) {
            memcpy(&element, row + (i + lane) * sizeof(T), sizeof(T));
            const double x = element.load() * factor;
            lanes[lane] += x * x;
        }
    }
    for (; i < elements; ++i) {
        memcpy(&element, row + i * sizeof(T), sizeof(T));
        const double x = element.load() * factor;
        lanes[i % 8] += x * x;
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/// For doubles whose squares overflow or vanish: the same with the row scaled by a power of two, which is
/// exact.
[[maybe_unused]] __attribute__((noinline)) void clip_extreme(std::byte *row, size_t elements, double max_norm,
                                                             double factor) {
    const double norm = sqrt(sum_of_squares<Plain<double>>(row, elements, factor));
    if (!(norm > max_norm * factor))
        return;
    for (size_t i = 0; i < elements; ++i) {
        double x;
        memcpy(&x, row + i * sizeof x, sizeof x);
        x = x * factor / norm * max_norm;
        memcpy(row + i * sizeof x, &x, sizeof x);
    }
}

/// x * max_norm / norm for a row whose norm is larger (TensorFlow's clip_by_norm); other rows keep their
/// bits.
template <class T> void clip_row(std::byte *row, size_t elements, double max_norm) {
    const double squares = sum_of_squares<T>(row, elements, 1.0);
    if constexpr (sizeof(T) == sizeof(double)) {
        if (!(squares < 0x1p1000))
            return clip_extreme(row, elements, max_norm, 0x1p-600);
        if (squares < 0x1p-900)
            return clip_extreme(row, elements, max_norm, 0x1p600);
    }
    const double norm = sqrt(squares);
    if (!(norm > max_norm))
        return;
    const double scale = max_norm / norm;
    T element;
    for (size_t i = 0; i < elements; ++i) {
        memcpy(&element, row + i * sizeof(T), sizeof(T));
        element.store(element.load() * scale);
        memcpy(row + i * sizeof(T), &element, sizeof(T));
    }
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

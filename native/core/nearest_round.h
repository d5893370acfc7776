#pragma once
// Rows and queries rounded to bytes, and what is known of the error, for the kernels alone.

#include "core/nearest_tile.h"

#include <float.h>
#include <math.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

typedef int32_t Ints __attribute__((vector_size(width * sizeof(int32_t))));
typedef int8_t Bytes __attribute__((vector_size(width)));
typedef int32_t Fours __attribute__((vector_size(width)));

constexpr float half_ulp = 0x1p-24F;
constexpr float slack = 1 + 0x1p-20F; // more than a handful of roundings

// The scales for which nothing overflows, and what underflows is a small part of the bound: for the least row
// and query, 2^-100, a product's error of 2^-126 is 2^-26 of it.
constexpr float least_row = 0x1p-60F, most_row = 0x1p60F;
constexpr float least_product = 0x1p-50F, most_product = 0x1p50F; // of row and factor
constexpr float least_query = 0x1p-40F, most_query = 0x1p40F;

#if defined(__AVX512F__)
SHARDWISE_INLINE Ints rounded(const Floats &values) {
    return reinterpret_cast<Ints>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(values)));
}
#else
SHARDWISE_INLINE Ints rounded(const Floats &values) {
    return reinterpret_cast<Ints>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(values)));
}
#endif

/// Values [at, at + width) of a row, zeros from its end on.
SHARDWISE_INLINE Floats values_at(const float *from, size_t at, size_t dim) {
    if (at + width <= dim)
        return load(from + at);
#if defined(__AVX512F__)
    return reinterpret_cast<Floats>(
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << (dim - at)) - 1), from + at));
#else
    const Ints places{0, 1, 2, 3, 4, 5, 6, 7};
    const Ints inside = places < Ints{} + static_cast<int32_t>(dim - at);
    return reinterpret_cast<Floats>(_mm256_maskload_ps(from + at, reinterpret_cast<__m256i>(inside)));
#endif
}

/// Of all lanes, by halves.
template <class T, class V, class F> SHARDWISE_INLINE T fold(const V &values, F join) {
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Four parts[width / 4];
    memcpy(parts, &values, sizeof parts);
    for (size_t k = 1; k < width / 4; ++k)
        parts[0] = join(parts[0], parts[k]);
    parts[0] = join(parts[0], __builtin_shufflevector(parts[0], parts[0], 2, 3, 0, 1));
    parts[0] = join(parts[0], __builtin_shufflevector(parts[0], parts[0], 1, 0, 3, 2));
    return parts[0][0];
}
struct Sum {
    template <class V> SHARDWISE_INLINE V operator()(const V &a, const V &b) const { return a + b; }
};
struct Greatest {
    template <class V> SHARDWISE_INLINE V operator()(const V &a, const V &b) const { return a > b ? a : b; }
};

/// By more than a handful of roundings.
SHARDWISE_INLINE float lowered(float value) {
    return value > 0 ? value * (1 - 0x1p-20F) : value * slack;
}

/// A row as bytes, in units of the last of them.
struct Rounded {
    float most;    // of its values' sizes; NaN where one is
    float inverse; // what its values are multiplied by
    float error;   // the length of what was lost, or more
    float norm;    // the length, or more
    int32_t sum;   // of its bytes
};

/// `out` is a multiple of 4 bytes, at least `dim`. False where the sizes are not within [least, most]; a row
/// of zeros is.
SHARDWISE_INLINE bool round_row(const float *from, size_t dim, float least, float most, int8_t *out,
                                Rounded &row) {
    // Without the sign, floats are in the order of their bits, and NaN is above all.
    Ints peaks = {};
    for (size_t at = 0; at < dim; at += width) {
        const Ints bits = reinterpret_cast<Ints>(values_at(from, at, dim)) & 0x7fffffff;
        peaks = bits > peaks ? bits : peaks;
    }
    const int32_t peak = fold<int32_t>(peaks, Greatest{});
    memcpy(&row.most, &peak, sizeof peak);
    if (peak != 0 && !(row.most >= least && row.most <= most))
        return false;
    row.inverse = peak != 0 ? 126.99F / row.most : 0.0F; // no mode of rounding makes it 128
    const size_t size = (dim + 3) / 4 * 4;
    Floats lost = {}, squares = {};
    Ints sums = {};
    for (size_t at = 0; at < dim; at += width) {
        const Floats scaled = values_at(from, at, dim) * row.inverse;
        const Ints whole = rounded(scaled);
        const Floats error = scaled - __builtin_convertvector(whole, Floats);
        lost += error * error;
        squares += scaled * scaled;
        sums += whole;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        if (at + width <= size)
            memcpy(out + at, &bytes, width);
        else
            for (size_t k = 0; k < (size - at) / 4; ++k) {
                const int32_t four = reinterpret_cast<Fours>(bytes)[k];
                memcpy(out + at + 4 * k, &four, sizeof four);
            }
    }
    // `scaled` is off by a half ulp, of 127 at most; the sums of squares by one for each addition.
    const float sums_slack = slack + static_cast<float>(dim) * 2 * half_ulp;
    row.norm = sqrtf(fold<float>(squares, Sum{})) * sums_slack;
    row.error = sqrtf(fold<float>(lost, Sum{})) * sums_slack + row.norm * half_ulp * slack;
    row.sum = fold<int32_t>(sums, Sum{});
    return true;
}

/// False where the row is out of the bytes' reach.
inline bool row_to_bytes(const Nearest &task, const ByteRows &rows, size_t row, ByteRows::Bound &bound) {
    Rounded found;
    if (!round_row(row_at(task, row), task.dim, least_row, most_row, rows.bytes + row * rows.stride, found))
        return false;
    const float factor = task.factors[row], product = fabsf(found.most * factor);
    if (product != 0 && !(product >= least_product && product <= most_product))
        return false;
    const float scale = product != 0 ? factor / found.inverse : 0.0F; // else all scores are 0
    const float error = found.error * fabsf(scale) * slack, norm = found.norm * fabsf(scale) * slack;
    rows.scales[row] = scale;
    rows.starts[row] = -128 * found.sum;
    bound.error = error > bound.error ? error : bound.error;
    bound.norm = norm > bound.norm ? norm : bound.norm;
    return true;
}

/// Queries as the lanes of a tile, each four bytes, plus 128, so that they have no sign; what belongs to
/// their bounds is in units of their scales.
struct Tile {
    const uint8_t *packed;
    float inverse[nearest_queries];
    float of_error[nearest_queries];  // what of a row's error comes to the bound
    float of_norm[nearest_queries];   // and of its norm
    float roundings[nearest_queries]; // of a product as floats, for a row's norm of 1
    float reached[nearest_queries];   // what `keep` rows exceed for sure
    float floor[nearest_queries];     // what a product must exceed with its bound
    size_t lanes;

    void set_floor(const float *worst) {
        for (size_t q = 0; q < lanes; ++q) {
            // A worst score below zero stays there, however near.
            const float scaled = lowered(worst[q] * inverse[q]) - (worst[q] < 0 ? FLT_MIN : 0.0F);
            floor[q] = scaled > reached[q] ? scaled : reached[q];
        }
    }
};

/// False where a query is out of the bytes' reach.
inline bool pack_tile(const Nearest &task, size_t query, size_t count, uint8_t *room, Tile &tile) {
    const size_t size = (task.dim + 3) / 4 * 4;
    auto *bytes = reinterpret_cast<int8_t *>(room + size * tile.lanes);
    memset(room, 128, size * tile.lanes);
    // Roundings of the product as floats, a half ulp for each addition and multiplication, as much again for
    // what underflows, and those of the estimate.
    const float roundings = (2 * static_cast<float>(task.dim) + 64) * half_ulp;
    for (size_t q = 0; q < tile.lanes; ++q) {
        tile.inverse[q] = 1;
        tile.reached[q] = -HUGE_VALF;
        tile.of_error[q] = tile.of_norm[q] = tile.roundings[q] = 0;
        if (q >= count)
            continue;
        Rounded row;
        if (!round_row(task.queries + (query + q) * task.dim, task.dim, least_query, most_query, bytes, row))
            return false;
        for (size_t d = 0; d < size; d += 4) {
            uint32_t four;
            memcpy(&four, bytes + d, sizeof four);
            four ^= 0x80808080U;
            memcpy(room + (d / 4 * tile.lanes + q) * 4, &four, sizeof four);
        }
        if (row.most > 0) { // else all scores are 0, and nothing is lost
            tile.inverse[q] = row.inverse;
            tile.of_error[q] = (row.norm + row.error) * slack;
            tile.of_norm[q] = (row.error + row.norm * roundings) * slack;
            tile.roundings[q] = row.norm * roundings * slack / row.inverse;
        }
    }
    tile.packed = room;
    return true;
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

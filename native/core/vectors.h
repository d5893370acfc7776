#pragma once
// Rows of floats read and written in chunks of 64 bytes of numbers, for the kernels alone: this file is
// compiled once per instruction level, in their namespace. All levels compute on the same chunks, so they
// give the same bits.

#include "core/lanes.h"

#include <math.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

template <class T> using Chunk = Vec<T, lanes<T>>;
template <class T> struct MaskOf;
template <> struct MaskOf<float> {
    using type = Vec<int32_t, 16>;
};
template <> struct MaskOf<double> {
    using type = Vec<int64_t, 8>;
};
template <class T> using Mask = typename MaskOf<T>::type; // -1 or 0 for each number of a chunk
using Words = Vec<uint32_t, 16>;
using Halves = Vec<uint16_t, 16>;

/// A chunk, or its first `n` numbers and zeros.
template <class V, bool Full> SHARDWISE_INLINE V read(const void *from, size_t n) {
    V value = {};
    if constexpr (Full)
        memcpy(&value, from, sizeof value);
    else
        memcpy(&value, from, n * sizeof(value[0]));
    return value;
}

template <bool Full, class V> SHARDWISE_INLINE void write(void *to, size_t n, const V &value) {
    if constexpr (Full)
        memcpy(to, &value, sizeof value);
    else
        memcpy(to, &value, n * sizeof(value[0]));
}

template <bool Value> struct Truth {
    static constexpr bool value = Value;
};

/// body(full, column, n) for each chunk of a row of `dim` numbers; `full` is a Truth. Four in straight code:
/// updates of rows of 64 numbers took 0.94 to 1 of the time.
template <class T, class Body> SHARDWISE_INLINE void for_chunks(size_t dim, Body &&body) {
    constexpr size_t step = lanes<T>;
    size_t column = 0;
#pragma GCC unroll 4
    for (; column + step <= dim; column += step)
        body(Truth<true>{}, column, step);
    if (column < dim)
        body(Truth<false>{}, column, dim - column);
}

template <class To, class From> SHARDWISE_INLINE To same_bits(const From &from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

/// `a` where the mask is set, else `b`.
template <class T>
SHARDWISE_INLINE Chunk<T> choose(const Mask<T> &mask, const Chunk<T> &a, const Chunk<T> &b) {
#if defined(__AVX512F__)
    return mask ? a : b;
#else // of vectors wider than the level's own, GCC 12 computes a ?: number by number
    return same_bits<Chunk<T>>((mask & same_bits<Mask<T>>(a)) | (~mask & same_bits<Mask<T>>(b)));
#endif
}

/// Correctly rounded, and so the same everywhere.
SHARDWISE_INLINE Chunk<float> root(const Chunk<float> &x) {
    Chunk<float> y;
#if defined(__AVX512F__)
    const __m512 found = _mm512_maskz_sqrt_ps(static_cast<__mmask16>(0xffff), same_bits<__m512>(x));
    memcpy(&y, &found, sizeof y);
#elif defined(__AVX__)
    __m256 parts[2];
    memcpy(parts, &x, sizeof x);
    for (__m256 &part : parts)
        part = _mm256_sqrt_ps(part);
    memcpy(&y, parts, sizeof y);
#elif defined(__SSE2__)
    __m128 parts[4];
    memcpy(parts, &x, sizeof x);
    for (__m128 &part : parts)
        part = _mm_sqrt_ps(part);
    memcpy(&y, parts, sizeof y);
#else
    for (int i = 0; i < lanes<float>; ++i)
        y[i] = sqrtf(x[i]);
#endif
    return y;
}

SHARDWISE_INLINE Chunk<double> root(const Chunk<double> &x) {
    Chunk<double> y;
#if defined(__AVX512F__)
    const __m512d found = _mm512_maskz_sqrt_pd(static_cast<__mmask8>(0xff), same_bits<__m512d>(x));
    memcpy(&y, &found, sizeof y);
#elif defined(__AVX__)
    __m256d parts[2];
    memcpy(parts, &x, sizeof x);
    for (__m256d &part : parts)
        part = _mm256_sqrt_pd(part);
    memcpy(&y, parts, sizeof y);
#elif defined(__SSE2__)
    __m128d parts[4];
    memcpy(parts, &x, sizeof x);
    for (__m128d &part : parts)
        part = _mm_sqrt_pd(part);
    memcpy(&y, parts, sizeof y);
#else
    for (int i = 0; i < lanes<double>; ++i)
        y[i] = sqrt(x[i]);
#endif
    return y;
}

SHARDWISE_INLINE float root(float x) {
    return sqrtf(x);
}
SHARDWISE_INLINE double root(double x) {
    return sqrt(x);
}

/// All numbers of a chunk, added in one fixed order: one half to the other, until one number is left. In
/// registers: a loop over an array waits for its own stores.
template <class T> T sum_of(const Chunk<T> &x);

template <> SHARDWISE_INLINE float sum_of<float>(const Chunk<float> &x) {
    const auto eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto four =
        __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

template <> SHARDWISE_INLINE double sum_of<double>(const Chunk<double> &x) {
    const auto four = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/// Random bits for the columns of one row, a function of the key and the column alone: the finalizer of
/// MurmurHash3, twice.
struct Noise {
    bool on = false;
    uint32_t low = 0, high = 0;
    SHARDWISE_INLINE Words at(size_t column) const {
        Words x;
        for (int i = 0; i < 16; ++i)
            x[i] = static_cast<uint32_t>(column) + static_cast<uint32_t>(i);
        x = mix(x * 0x9e3779b9U + low);
        return mix(x ^ high);
    }
    static SHARDWISE_INLINE Words mix(Words x) {
        x ^= x >> 16;
        x *= 0x85ebca6bU;
        x ^= x >> 13;
        x *= 0xc2b2ae35U;
        x ^= x >> 16;
        return x;
    }
};

// ---- how the numbers of a row lie in memory ----

template <class T> struct PlainFormat {
    using Number = T;
    static constexpr size_t bytes = sizeof(T);
    template <bool Full> static SHARDWISE_INLINE Chunk<T> load(const std::byte *from, size_t n) {
        return read<Chunk<T>, Full>(from, n);
    }
    template <bool Full>
    static SHARDWISE_INLINE void store(std::byte *to, size_t n, const Chunk<T> &value, const Noise &,
                                       size_t) {
        write<Full>(to, n, value);
    }
};
using Float32 = PlainFormat<float>;
using Float64 = PlainFormat<double>;

struct BFloat16 {
    using Number = float;
    static constexpr size_t bytes = 2;
    template <bool Full> static SHARDWISE_INLINE Chunk<float> load(const std::byte *from, size_t n) {
        const Halves bits = read<Halves, Full>(from, n);
        return same_bits<Chunk<float>>(static_cast<Words>(__builtin_convertvector(bits, Words) << 16));
    }
    template <bool Full>
    static SHARDWISE_INLINE void store(std::byte *to, size_t n, const Chunk<float> &value, const Noise &noise,
                                       size_t column) {
        const Words bits = same_bits<Words>(value);
        Words added = 0x7fffU + ((bits >> 16) & 1U);
        if (noise.on)
            added = noise.at(column) & 0xffffU;
        const Words special = static_cast<Words>((bits & 0x7f800000U) == 0x7f800000U); // infinity or NaN
        const Words nan = static_cast<Words>((bits & 0x7fffffffU) > 0x7f800000U);
        const Words rounded = ((bits + (added & ~special)) >> 16) | (nan & 0x40U);
        write<Full>(to, n, __builtin_convertvector(rounded, Halves));
    }
};

struct Half {
    using Number = float;
    static constexpr size_t bytes = 2;
    /// Exact. The exponent's bias is changed by a multiplication, which subnormal numbers come through, too.
    template <bool Full> static SHARDWISE_INLINE Chunk<float> load(const std::byte *from, size_t n) {
        const Words bits = __builtin_convertvector((read<Halves, Full>(from, n)), Words);
        const Words magnitude = (bits & 0x7fffU) << 13;
        Words wide =
            same_bits<Words>(static_cast<Chunk<float>>(same_bits<Chunk<float>>(magnitude) * 0x1p112F));
        const Words special = static_cast<Words>(magnitude >= 0x0f800000U);
        wide |= (special & 0x7f800000U) | ((bits & 0x8000U) << 16);
        return same_bits<Chunk<float>>(wide);
    }
    template <bool Full>
    static SHARDWISE_INLINE void store(std::byte *to, size_t n, const Chunk<float> &value, const Noise &noise,
                                       size_t column) {
        const Words bits = same_bits<Words>(value);
        const Words rest = bits & 0x7fffffffU;
        const Chunk<float> size = same_bits<Chunk<float>>(rest);
        Words added = 0xfffU + ((rest >> 13) & 1U);
        // Below the least normal number the result counts steps of 2^-24: a number added to 0.5 is rounded
        // there.
        Words few = same_bits<Words>(static_cast<Chunk<float>>(size + 0.5F)) - 0x3f000000U;
        if (noise.on) {
            const Words random = noise.at(column);
            added = random & 0x1fffU;
            const auto part = __builtin_convertvector(random >> 8, Chunk<float>) * 0x1p-24F;
            few = __builtin_convertvector(static_cast<Chunk<float>>(size * 0x1p24F + part), Words);
        }
        Words most = (rest + added - 0x38000000U) >> 13;
        const Words beyond = static_cast<Words>(rest + added >= 0x47800000U);
        most = (beyond & 0x7c00U) | (~beyond & most);
        const Words small = static_cast<Words>(rest < 0x38800000U);
        const Words nan = static_cast<Words>(rest > 0x7f800000U);
        const Words special = static_cast<Words>(rest >= 0x7f800000U);
        Words found = (small & few) | (~small & most);
        found = (special & (0x7c00U | (nan & 0x200U))) | (~special & found);
        write<Full>(to, n, __builtin_convertvector(found | ((bits >> 16) & 0x8000U), Halves));
    }
};

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

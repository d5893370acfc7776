#pragma once
// Rows as numbers, read and written, for the kernels alone: this file is compiled once per instruction level,
// in their namespace.

#include "core/clip.h"
#include "core/fused.h"
#include "core/lanes.h"
#include "core/row_format.h"

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// ---- readers: `at<L>(column)` gives L elements, `one(column)` one, as numbers to add up; `columns_bytes`
// are those of as many columns, of even ones where two share a byte ----

template <class T> struct PlainRow {
    using Acc = T;
    static constexpr size_t columns_bytes(size_t columns) { return sizeof(T) * columns; }
    const std::byte *data;
    SHARDWISE_INLINE PlainRow(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<T, L> at(size_t column) const {
        return load<Vec<T, L>>(data + sizeof(T) * column);
    }
    SHARDWISE_INLINE T one(size_t column) const { return load<T>(data + sizeof(T) * column); }
};
using Float32Row = PlainRow<float>;
using Float64Row = PlainRow<double>;

struct Bfloat16Row {
    using Acc = float;
    static constexpr size_t columns_bytes(size_t columns) { return 2 * columns; }
    const std::byte *data;
    SHARDWISE_INLINE Bfloat16Row(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        const auto bits = load<Vec<uint16_t, L>>(data + 2 * column);
        return load<Vec<float, L>>(
            &static_cast<const Vec<uint32_t, L> &>(__builtin_convertvector(bits, Vec<uint32_t, L>) << 16));
    }
    SHARDWISE_INLINE float one(size_t column) const {
        return from_bits(static_cast<uint32_t>(load<uint16_t>(data + 2 * column)) << 16);
    }
};

template <int L> SHARDWISE_INLINE Vec<uint32_t, L> as_words(Vec<uint16_t, L> halves) {
#if defined(__SSE2__) && !defined(__AVX2__)
    if constexpr (L == 4) { // the general form is taken apart, as in as_floats
        const __m128i four = _mm_cvtsi64_si128(load<long long>(&halves));
        return reinterpret_cast<Vec<uint32_t, L>>(_mm_unpacklo_epi16(four, _mm_setzero_si128()));
    }
#endif
    return __builtin_convertvector(halves, Vec<uint32_t, L>);
}

/// Exact. The exponent's bias is changed by a multiplication, which subnormal numbers come through, too.
template <int L> SHARDWISE_INLINE Vec<float, L> widen(Vec<uint16_t, L> halves) {
    const Vec<uint32_t, L> bits = as_words<L>(halves);
    const Vec<uint32_t, L> magnitude = (bits & 0x7fffU) << 13;
    Vec<float, L> value;
    memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112F;
    Vec<uint32_t, L> wide;
    memcpy(&wide, &value, sizeof wide);
    const Vec<uint32_t, L> special = static_cast<Vec<uint32_t, L>>(magnitude >= 0x0f800000U);
    const Vec<uint32_t, L> nan = static_cast<Vec<uint32_t, L>>(magnitude > 0x0f800000U); // made quiet
    wide |= (special & 0x7f800000U) | (nan & 0x400000U) | ((bits & 0x8000U) << 16);
    memcpy(&value, &wide, sizeof value);
    return value;
}

struct Float16Row {
    using Acc = float;
    static constexpr size_t columns_bytes(size_t columns) { return 2 * columns; }
    const std::byte *data;
    SHARDWISE_INLINE Float16Row(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        const std::byte *const from = data + 2 * column;
#if defined(__AVX512F__)
        // Masked, for the plain form makes compilers warn of what it leaves undefined.
        if constexpr (L == 16)
            return reinterpret_cast<Vec<float, L>>(
                _mm512_maskz_cvtph_ps(static_cast<__mmask16>(0xffff), load<__m256i>(from)));
#elif defined(__F16C__)
        if constexpr (L == 16) {
            const __m256 halves[2] = {_mm256_cvtph_ps(load<__m128i>(from)),
                                      _mm256_cvtph_ps(load<__m128i>(from + 16))};
            return load<Vec<float, L>>(halves);
        }
        if constexpr (L == 8)
            return reinterpret_cast<Vec<float, L>>(_mm256_cvtph_ps(load<__m128i>(from)));
#endif
        return widen<L>(load<Vec<uint16_t, L>>(from));
    }
    SHARDWISE_INLINE float one(size_t column) const {
        Float16 half;
        memcpy(&half, data + 2 * column, sizeof half);
        return static_cast<float>(half.load());
    }
};

// ---- rows of steps ----

SHARDWISE_INLINE bool is_finite(float value) {
    return (to_bits(value) & 0x7f800000U) != 0x7f800000U;
}

/// A row whose elements are steps: `Steps` reads them. Where its scale or bias is no number, as bytes of any
/// origin may say, its NaNs are those that the instructions make; see `same_nan`.
template <class Steps> struct QuantizedRow {
    using Acc = float;
    static constexpr size_t columns_bytes(size_t columns) { return Steps::columns_bytes(columns); }
    const std::byte *data;
    float scale, bias;
    SHARDWISE_INLINE QuantizedRow(const std::byte *row, size_t dim) : data(row) {
        Steps::constants(row, dim, scale, bias);
    }
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        using V = Vec<float, L>;
        return fused<float, L>(Steps::template at<L>(data, column), all_of<V>(scale), all_of<V>(bias));
    }
    SHARDWISE_INLINE float one(size_t column) const { return fused(Steps::one(data, column), scale, bias); }
};

template <int L> SHARDWISE_INLINE Vec<float, L> as_floats(Vec<uint8_t, L> bytes) {
    // Compilers take the general form apart, element by element.
#if defined(__AVX512F__)
    if constexpr (L == 16) {
        const __m512i whole =
            _mm512_maskz_cvtepu8_epi32(static_cast<__mmask16>(0xffff), reinterpret_cast<__m128i>(bytes));
        return reinterpret_cast<Vec<float, L>>(
            _mm512_maskz_cvtepi32_ps(static_cast<__mmask16>(0xffff), whole));
    }
#elif defined(__AVX2__)
    if constexpr (L == 16) {
        const auto sixteen = reinterpret_cast<__m128i>(bytes);
        const __m256 halves[2] = {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(sixteen)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(sixteen, sixteen)))};
        return load<Vec<float, L>>(halves);
    }
    if constexpr (L == 8)
        return reinterpret_cast<Vec<float, L>>(
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load<long long>(&bytes)))));
#elif defined(__SSE2__)
    if constexpr (L == 4) {
        const __m128i zero = _mm_setzero_si128();
        const __m128i shorts = _mm_unpacklo_epi8(_mm_cvtsi32_si128(load<int>(&bytes)), zero);
        return reinterpret_cast<Vec<float, L>>(_mm_cvtepi32_ps(_mm_unpacklo_epi16(shorts, zero)));
    }
#endif
    return __builtin_convertvector(__builtin_convertvector(bytes, Vec<int32_t, L>), Vec<float, L>);
}

struct Bytes {
    static constexpr size_t columns_bytes(size_t columns) { return columns; }
    static SHARDWISE_INLINE void constants(const std::byte *row, size_t dim, float &scale, float &bias) {
        scale = load<float>(row + dim);
        bias = load<float>(row + dim + 4);
    }
    template <int L> static SHARDWISE_INLINE Vec<float, L> at(const std::byte *row, size_t column) {
        return as_floats<L>(load<Vec<uint8_t, L>>(row + column));
    }
    static SHARDWISE_INLINE float one(const std::byte *row, size_t column) {
        return static_cast<float>(static_cast<uint8_t>(row[column]));
    }
};

struct Nibbles {
    static constexpr size_t columns_bytes(size_t columns) { return columns / 2; }
    static SHARDWISE_INLINE void constants(const std::byte *row, size_t dim, float &scale, float &bias) {
        const std::byte *const from = row + dim / 2 + dim % 2;
#if defined(__F16C__)
        const __m128 pair = _mm_cvtph_ps(_mm_cvtsi32_si128(load<int>(from)));
        scale = pair[0];
        bias = pair[1];
#else
        const auto both = load<Vec<uint16_t, 2>>(from);
        const Vec<uint16_t, 4> four = {both[0], both[1], 0, 0};
        const Vec<float, 4> wide = widen<4>(four);
        scale = wide[0];
        bias = wide[1];
#endif
    }
    template <int L> static SHARDWISE_INLINE Vec<float, L> at(const std::byte *row, size_t column) {
#if defined(__SSE2__)
        if constexpr (L == 16) {
            const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(row + column / 2));
            const __m128i low = _mm_and_si128(pairs, _mm_set1_epi8(15));
            const __m128i high = _mm_and_si128(_mm_srli_epi16(pairs, 4), _mm_set1_epi8(15));
            return as_floats<L>(reinterpret_cast<Vec<uint8_t, L>>(_mm_unpacklo_epi8(low, high)));
        }
        if constexpr (L == 8) {
            const __m128i pairs = _mm_cvtsi32_si128(load<int>(row + column / 2));
            const __m128i low = _mm_and_si128(pairs, _mm_set1_epi8(15));
            const __m128i high = _mm_and_si128(_mm_srli_epi16(pairs, 4), _mm_set1_epi8(15));
            const long long steps = _mm_cvtsi128_si64(_mm_unpacklo_epi8(low, high));
            return as_floats<L>(load<Vec<uint8_t, L>>(&steps));
        }
#endif
        const auto pairs = load<Vec<uint8_t, L / 2>>(row + column / 2);
        // Each byte twice, side by side, then its lower half and its upper half.
        const Vec<uint16_t, L / 2> wide = __builtin_convertvector(pairs, Vec<uint16_t, L / 2>);
        const Vec<uint16_t, L / 2> spread = (wide & 15) | ((wide >> 4) << 8);
        Vec<uint8_t, L> steps;
        memcpy(&steps, &spread, sizeof steps);
        return as_floats<L>(steps);
    }
    static SHARDWISE_INLINE float one(const std::byte *row, size_t column) {
        const unsigned pair = static_cast<unsigned>(row[column / 2]);
        return static_cast<float>((pair >> (column % 2 * 4)) & 15U);
    }
};

using Int8Row = QuantizedRow<Bytes>;
using Int4Row = QuantizedRow<Nibbles>;

template <class Row> constexpr bool is_quantized = false;
template <class Steps> constexpr bool is_quantized<QuantizedRow<Steps>> = true;

/// Makes every NaN one and the same: which of several an instruction takes differs from one to the next.
template <class V> SHARDWISE_INLINE V same_nan(V values) {
    return values == values ? values : V{} + from_bits(0x7fc00000U);
}

template <class Row, class V> SHARDWISE_INLINE V own_nan(V values) {
    if constexpr (is_quantized<Row>)
        return same_nan(values);
    else
        return values;
}

#if defined(__SSE2__)
// ---- past the caches: to multiples of their size ----

SHARDWISE_INLINE void stream16(std::byte *to, const std::byte *from) {
    _mm_stream_si128(reinterpret_cast<__m128i *>(to),
                     _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}

/// As many bytes as a register has.
SHARDWISE_INLINE void stream_register(std::byte *to, const std::byte *from) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i *>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
#else
    stream16(to, from);
#endif
}

SHARDWISE_INLINE void stream64(std::byte *to, const std::byte *from) {
    for (size_t at = 0; at < 64; at += register_bytes)
        stream_register(to + at, from + at);
}
#endif

// ---- writers: `put` writes L numbers, or one, each rounded once ----

template <class Scalar> struct WriteOneByOne {
    static constexpr size_t bytes = sizeof(Scalar);
    template <class Acc> static SHARDWISE_INLINE void one(std::byte *to, Acc value) {
        Scalar scalar;
        scalar.store(static_cast<double>(value));
        memcpy(to, &scalar, sizeof scalar);
    }
    template <int L, class V> static SHARDWISE_INLINE void put(std::byte *to, V values) {
        for (int k = 0; k < L; ++k)
            one(to + static_cast<size_t>(k) * bytes, values[k]);
    }
};

template <class T> struct WritePlain {
    static constexpr size_t bytes = sizeof(T);
    template <class Acc> static SHARDWISE_INLINE void one(std::byte *to, Acc value) {
        const T narrow = static_cast<T>(value);
        memcpy(to, &narrow, sizeof narrow);
    }
    template <int L, class V> static SHARDWISE_INLINE void put(std::byte *to, V values) {
        const Vec<T, L> all = __builtin_convertvector(values, Vec<T, L>);
        memcpy(to, &all, sizeof all);
    }
};
using WriteFloat32 = WritePlain<float>;
using WriteFloat64 = WritePlain<double>;

struct WriteFloat16 : WriteOneByOne<Float16> {
    template <int L, class V> static SHARDWISE_INLINE void put(std::byte *to, V values) {
#if defined(__AVX512F__)
        if constexpr (L == 16 && sizeof(V) == 64) {
            const __m256i halves =
                _mm512_maskz_cvtps_ph(static_cast<__mmask16>(0xffff), reinterpret_cast<__m512>(values),
                                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            memcpy(to, &halves, sizeof halves);
            return;
        }
#elif defined(__F16C__)
        if constexpr (L % 8 == 0 && sizeof(V) == L * sizeof(float)) {
            const auto *const from = reinterpret_cast<const std::byte *>(&values);
            for (size_t k = 0; k < L; k += 8) {
                const __m128i halves =
                    _mm256_cvtps_ph(load<__m256>(from + k * sizeof(float)), _MM_FROUND_TO_NEAREST_INT);
                memcpy(to + 2 * k, &halves, sizeof halves);
            }
            return;
        }
#endif
        WriteOneByOne<Float16>::put<L>(to, values);
    }
};

struct WriteBfloat16 : WriteOneByOne<Bfloat16> {
    template <int L, class V> static SHARDWISE_INLINE void put(std::byte *to, V values) {
        if constexpr (sizeof(V) == L * sizeof(float)) {
            const auto bits = load<Vec<uint32_t, L>>(&values);
            const auto nan = static_cast<Vec<uint32_t, L>>((bits & 0x7fffffffU) > 0x7f800000U);
            const Vec<uint32_t, L> rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
            const auto narrow =
                __builtin_convertvector((nan & ((bits >> 16) | 0x40U)) | (~nan & rounded), Vec<uint16_t, L>);
            memcpy(to, &narrow, sizeof narrow);
        } else {
            WriteOneByOne<Bfloat16>::put<L>(to, values);
        }
    }
};

// ---- from one to the other ----

/// Writes a row of `dim` elements in another format.
using Convert = void (*)(std::byte *to, const std::byte *row, size_t dim);

template <class Row, class Write> void convert(std::byte *to, const std::byte *row, size_t dim) {
    constexpr int L = own_lanes<typename Row::Acc>;
    const Row from(row, dim);
    size_t column = 0;
    for (; column + L <= dim; column += L)
        Write::template put<L>(to + column * Write::bytes, own_nan<Row>(from.template at<L>(column)));
    for (; column < dim; ++column)
        Write::one(to + column * Write::bytes, own_nan<Row>(from.one(column)));
}

template <class Row> Convert choose_convert_to(RowFormat to) {
    switch (to) {
    case RowFormat::float16:
        return convert<Row, WriteFloat16>;
    case RowFormat::bfloat16:
        return convert<Row, WriteBfloat16>;
    case RowFormat::float64:
        return convert<Row, WriteFloat64>;
    default:
        return convert<Row, WriteFloat32>;
    }
}

/// `to` is one of floats.
inline Convert choose_convert(RowFormat from, RowFormat to) {
    switch (from) {
    case RowFormat::float16:
        return choose_convert_to<Float16Row>(to);
    case RowFormat::bfloat16:
        return choose_convert_to<Bfloat16Row>(to);
    case RowFormat::float64:
        return choose_convert_to<Float64Row>(to);
    case RowFormat::int8:
        return choose_convert_to<Int8Row>(to);
    case RowFormat::int4:
        return choose_convert_to<Int4Row>(to);
    case RowFormat::float32:
    case RowFormat::opaque:
        break;
    }
    return choose_convert_to<Float32Row>(to);
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

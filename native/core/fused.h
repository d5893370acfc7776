#pragma once
// a * b + c, rounded once, for the kernels alone: this file is compiled once per instruction level, in their
// namespace. All levels give the same bits.

#include "core/lanes.h"

namespace shardwise::SHARDWISE_LEVEL {
namespace {

#if defined(__SSE2__) && !defined(__FMA__)
/// In double numbers the product of floats is exact. The sum is rounded to odd, so that the second rounding,
/// to float, sees whether there was a rest (Boldo and Melquiond, "When double rounding is odd", 2005).
SHARDWISE_INLINE __m128d fused_to_odd(__m128d a, __m128d b, __m128d c) {
    using Pair = Vec<double, 2>;
    using Bits = Vec<int64_t, 2>;
    const Pair product = reinterpret_cast<Pair>(a) * reinterpret_cast<Pair>(b);
    const Pair addend = reinterpret_cast<Pair>(c);
    const Pair sum = product + addend, part = sum - product;
    const Pair rest = (product - (sum - part)) + (addend - part);
    const Bits is_inexact = (rest < 0.0) | (rest > 0.0); // not of infinity and NaN
    const Bits is_less = (rest > 0.0) ^ (sum > 0.0);     // the exact sum, in size
    const Bits bits = reinterpret_cast<Bits>(sum);
    return reinterpret_cast<__m128d>(bits + ((is_less | 1) & is_inexact & ((bits & 1) - 1)));
}

SHARDWISE_INLINE __m128 fused_by_doubles(__m128 a, __m128 b, __m128 c) {
    const auto low = [](__m128 x) { return _mm_cvtps_pd(x); };
    const auto high = [](__m128 x) { return _mm_cvtps_pd(_mm_movehl_ps(x, x)); };
    const auto narrow = [](__m128d x, __m128d y) { return _mm_movelh_ps(_mm_cvtpd_ps(x), _mm_cvtpd_ps(y)); };
    // A rest matters to the second rounding only where the sum seems to lie midway between two floats: the 29
    // bits that a float has not are 1 and zeros. Subnormal floats have fewer bits, so they are all taken for
    // such.
    const __m128d first = _mm_add_pd(_mm_mul_pd(low(a), low(b)), low(c));
    const __m128d second = _mm_add_pd(_mm_mul_pd(high(a), high(b)), high(c));
    const __m128 sums = narrow(first, second);
    const __m128i ends = _mm_castps_si128(
        _mm_shuffle_ps(_mm_castpd_ps(first), _mm_castpd_ps(second), _MM_SHUFFLE(2, 0, 2, 0)));
    const __m128i is_midway =
        _mm_cmpeq_epi32(_mm_and_si128(ends, _mm_set1_epi32(0x1fffffff)), _mm_set1_epi32(0x10000000));
    const __m128 is_small = _mm_cmple_ps(_mm_andnot_ps(_mm_set1_ps(-0.0F), sums), _mm_set1_ps(0x1p-126F));
    if (__builtin_expect(_mm_movemask_ps(_mm_or_ps(_mm_castsi128_ps(is_midway), is_small)) != 0, 0))
        return narrow(fused_to_odd(low(a), low(b), low(c)), fused_to_odd(high(a), high(b), high(c)));
    return sums;
}
#endif

SHARDWISE_INLINE float fused(float a, float b, float c) {
#if defined(__SSE2__) && !defined(__FMA__)
    return _mm_cvtss_f32(_mm_cvtpd_ps(fused_to_odd(_mm_set_sd(a), _mm_set_sd(b), _mm_set_sd(c))));
#else
    return __builtin_fmaf(a, b, c);
#endif
}

/// Where there is no instruction for it, the C library computes it.
SHARDWISE_INLINE double fused(double a, double b, double c) {
    return __builtin_fma(a, b, c);
}

/// Of numbers side by side.
template <class T, int L>
SHARDWISE_INLINE Vec<T, L> fused(const Vec<T, L> &a, const Vec<T, L> &b, const Vec<T, L> &c) {
    using V = Vec<T, L>;
    if constexpr (sizeof(V) > register_bytes) {
        using Half = Vec<T, L / 2>;
        const auto half = [](const V &whole, int k) {
            return load<Half>(reinterpret_cast<const std::byte *>(&whole) + k * sizeof(Half));
        };
        const Half halves[2] = {fused<T, L / 2>(half(a, 0), half(b, 0), half(c, 0)),
                                fused<T, L / 2>(half(a, 1), half(b, 1), half(c, 1))};
        return load<V>(halves);
    }
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64 && sizeof(T) == 4)
        return reinterpret_cast<V>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                                   reinterpret_cast<__m512>(c)));
    if constexpr (sizeof(V) == 64 && sizeof(T) == 8)
        return reinterpret_cast<V>(_mm512_fmadd_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b),
                                                   reinterpret_cast<__m512d>(c)));
#endif
#if defined(__FMA__)
    if constexpr (sizeof(V) == 32 && sizeof(T) == 4)
        return reinterpret_cast<V>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                                   reinterpret_cast<__m256>(c)));
    if constexpr (sizeof(V) == 32 && sizeof(T) == 8)
        return reinterpret_cast<V>(_mm256_fmadd_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b),
                                                   reinterpret_cast<__m256d>(c)));
    if constexpr (sizeof(V) == 16 && sizeof(T) == 4)
        return reinterpret_cast<V>(_mm_fmadd_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b),
                                                reinterpret_cast<__m128>(c)));
    if constexpr (sizeof(V) == 16 && sizeof(T) == 8)
        return reinterpret_cast<V>(_mm_fmadd_pd(reinterpret_cast<__m128d>(a), reinterpret_cast<__m128d>(b),
                                                reinterpret_cast<__m128d>(c)));
#elif defined(__SSE2__)
    if constexpr (sizeof(V) == 16 && sizeof(T) == 4)
        return reinterpret_cast<V>(fused_by_doubles(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b),
                                                    reinterpret_cast<__m128>(c)));
#endif
    V values = c;
    for (int k = 0; k < L; ++k)
        values[k] = fused(a[k], b[k], c[k]);
    return values;
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

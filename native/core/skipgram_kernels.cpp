// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/skipgram.h"

#include <math.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// ---- vectors as wide as the level's registers; what is added across lanes has 16 of them everywhere ----

#if defined(__AVX512F__)
constexpr size_t width = 16;
#elif defined(__AVX2__)
constexpr size_t width = 8;
#else
constexpr size_t width = 4;
#endif
typedef float Vec __attribute__((vector_size(width * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(width * sizeof(int32_t))));

template <size_t Value> struct Number {
    static constexpr size_t value = Value;
};

SHARDWISE_INLINE Vec load(const float *from) {
    Vec value;
    memcpy(&value, from, sizeof value);
    return value;
}
SHARDWISE_INLINE void store(float *to, const Vec &value) {
    memcpy(to, &value, sizeof value);
}
SHARDWISE_INLINE Vec all(float value) {
    return value - Vec{};
}

/// a * b + c, rounded once where the level can.
SHARDWISE_INLINE Vec fused(const Vec &a, const Vec &b, const Vec &c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/// sums[i] = the 16 numbers of row `i`, added in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. For 16 rows.
SHARDWISE_INLINE void add_across(const float *rows, float *sums) {
#if defined(__AVX512F__)
    Vec quarters[4];
    for (size_t q = 0; q < 4; ++q) {
        const float *const from = rows + 64 * q;
        const Vec a = load(from), b = load(from + 16), c = load(from + 32), d = load(from + 48);
        const auto halves = [](const Vec &x, const Vec &y) {
            return __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30,
                                           31);
        };
        const Vec x = halves(a, b), y = halves(c, d);
        quarters[q] =
            __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
            __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
    const auto pairs = [](const Vec &x, const Vec &y) {
        return __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    };
    const Vec x = pairs(quarters[0], quarters[1]), y = pairs(quarters[2], quarters[3]);
    const Vec found =
        __builtin_shufflevector(x, y, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
        __builtin_shufflevector(x, y, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
    // Number 4 * r + q is that of row 4 * q + r.
    store(sums, __builtin_shufflevector(found, found, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
#elif defined(__SSE2__)
    for (size_t q = 0; q < 4; ++q) {
        __m128 quarter[4];
        for (size_t r = 0; r < 4; ++r) {
            const float *const from = rows + 64 * q + 16 * r;
            const __m128 low = _mm_add_ps(_mm_loadu_ps(from), _mm_loadu_ps(from + 8));
            const __m128 high = _mm_add_ps(_mm_loadu_ps(from + 4), _mm_loadu_ps(from + 12));
            quarter[r] = _mm_add_ps(low, high);
        }
        const auto pairs = [](const __m128 &x, const __m128 &y) {
            return _mm_add_ps(_mm_movelh_ps(x, y), _mm_movehl_ps(y, x));
        };
        const __m128 x = pairs(quarter[0], quarter[1]), y = pairs(quarter[2], quarter[3]);
        _mm_storeu_ps(sums + 4 * q, _mm_add_ps(_mm_shuffle_ps(x, y, 0x88), _mm_shuffle_ps(x, y, 0xdd)));
    }
#else
    for (size_t i = 0; i < 16; ++i) {
        float part[16];
        memcpy(part, rows + 16 * i, sizeof part);
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t k = 0; k < half; ++k)
                part[k] += part[k + half];
        sums[i] = part[0];
    }
#endif
}

/// 1 / (1 + exp(-x)), to 2 units in the last place.
SHARDWISE_INLINE Vec sigmoid(const Vec &x) {
    const Vec most = all(87.0F);
    Vec y = -x;
    y = y > most ? most : y;
    y = y < -most ? -most : y;
    // exp(y) = 2^n * exp(r), |r| <= log(2) / 2; the sum's last bits are n.
    const Vec magic = all(0x1.8p23F);
    const Vec shifted = fused(y, all(0x1.715476p0F), magic);
    const Vec n = shifted - magic;
    Vec r = fused(n, all(-0x1.62e400p-1F), y);
    r = fused(n, all(-0x1.7f7d1cp-20F), r);
    Vec p = all(0x1.6c16c2p-10F); // the series up to r^6: its rest is below 2e-8 of it
    p = fused(p, r, all(0x1.111112p-7F));
    p = fused(p, r, all(0x1.555556p-5F));
    p = fused(p, r, all(0x1.555556p-3F));
    p = fused(p, r, all(0.5F));
    p = fused(p, r, all(1.0F));
    p = fused(p, r, all(1.0F));
    Ints bits;
    memcpy(&bits, &shifted, sizeof bits);
    Ints of_p;
    memcpy(&of_p, &p, sizeof of_p);
    of_p += bits << 23;
    memcpy(&p, &of_p, sizeof p);
    return all(1.0F) / (all(1.0F) + p);
}

// ---- the step ----

/// products[o * num_inputs + c] in 16 lanes, for `Count` outputs.
template <size_t Count>
SHARDWISE_INLINE void multiply(const SkipGramStep &step, float *const *outputs, float *products) {
    const size_t columns = step.columns, num_inputs = step.num_inputs;
    constexpr size_t together = Count > 4 ? 2 : Count > 2 ? 3 : 4; // inputs, as many as registers hold
    const auto some = [&](size_t c, auto chosen) {
        constexpr size_t Inputs = decltype(chosen)::value;
        for (size_t part = 0; part < row_step; part += width) {
            Vec sums[Inputs][Count] = {};
            for (size_t column = part; column < columns; column += row_step) {
                Vec in[Inputs];
                for (size_t i = 0; i < Inputs; ++i)
                    in[i] = load(step.inputs[c + i] + column);
                for (size_t o = 0; o < Count; ++o) {
                    const Vec out = load(outputs[o] + column);
                    for (size_t i = 0; i < Inputs; ++i)
                        sums[i][o] = fused(in[i], out, sums[i][o]);
                }
            }
            for (size_t i = 0; i < Inputs; ++i)
                for (size_t o = 0; o < Count; ++o)
                    store(products + (o * num_inputs + c + i) * row_step + part, sums[i][o]);
        }
    };
    size_t c = 0;
    for (; c + together <= num_inputs; c += together)
        some(c, Number<together>{});
    for (; c < num_inputs; ++c)
        some(c, Number<1>{});
}

/// Changes the rows of `Count` outputs, and what they have a part in of the inputs' rows, whose old values
/// are in `old`.
template <size_t Count>
SHARDWISE_INLINE void change(const SkipGramStep &step, float *const *outputs, const float *factors,
                             const float *const *old) {
    const size_t columns = step.columns, num_inputs = step.num_inputs;
    const auto some = [&](size_t column, auto chosen) {
        constexpr size_t Vecs = decltype(chosen)::value;
        Vec out[Count][Vecs], added[Count][Vecs] = {};
        for (size_t o = 0; o < Count; ++o)
            for (size_t v = 0; v < Vecs; ++v)
                out[o][v] = load(outputs[o] + column + v * width);
        for (size_t c = 0; c < num_inputs; ++c) {
            Vec in[Vecs], sum[Vecs];
            for (size_t v = 0; v < Vecs; ++v) {
                in[v] = load(old[c] + column + v * width);
                sum[v] = load(step.inputs[c] + column + v * width);
            }
            for (size_t o = 0; o < Count; ++o) {
                const Vec factor = all(factors[o * num_inputs + c]);
                for (size_t v = 0; v < Vecs; ++v) {
                    added[o][v] = fused(factor, in[v], added[o][v]);
                    sum[v] = fused(factor, out[o][v], sum[v]);
                }
            }
            for (size_t v = 0; v < Vecs; ++v)
                store(step.inputs[c] + column + v * width, sum[v]);
        }
        for (size_t o = 0; o < Count; ++o)
            for (size_t v = 0; v < Vecs; ++v)
                store(outputs[o] + column + v * width, out[o][v] + added[o][v]);
    };
    constexpr size_t together = width == 16 && Count <= 6 ? 2 : 1; // as many as registers hold
    size_t column = 0;
    for (; column + together * width <= columns; column += together * width)
        some(column, Number<together>{});
    for (; column < columns; column += width)
        some(column, Number<1>{});
}

template <class Body> SHARDWISE_INLINE void with_count(size_t count, Body &&body) {
    switch (count) {
    case 1:
        return body(Number<1>{});
    case 2:
        return body(Number<2>{});
    case 3:
        return body(Number<3>{});
    case 4:
        return body(Number<4>{});
    case 5:
        return body(Number<5>{});
    default:
        return body(Number<6>{});
    }
}
constexpr size_t tile = 6; // outputs whose rows and changes stay in registers

/// Becomes rate * (label - sigmoid(x)) * counts; adds to the loss.
void make_factors(const SkipGramStep &step, float *x) {
    const size_t num_inputs = step.num_inputs, count = num_inputs * step.num_outputs;
    if (step.loss != nullptr) {
        double loss = 0;
        for (size_t i = 0; i < count; ++i) {
            const double y = static_cast<double>(i < num_inputs ? -x[i] : x[i]); // log(1 + exp(y))
            loss += y > 0 ? y + log1p(exp(-y)) : log1p(exp(y));
        }
        *step.loss += loss;
    }
    const Vec rate = all(step.rate);
    for (size_t i = 0; i < count; i += width) // there is room for what follows
        store(x + i, -rate * sigmoid(load(x + i)));
    for (size_t i = 0; i < num_inputs; ++i)
        x[i] += step.rate;
    if (step.input_counts != nullptr)
        for (size_t i = 0; i < count; ++i)
            x[i] *= step.input_counts[i % num_inputs] * step.output_counts[i / num_inputs];
}

void do_step(const SkipGramStep &step) {
    const size_t num_inputs = step.num_inputs, num_outputs = step.num_outputs;
    float *const products = step.scratch;
    float *const factors = products + most_inputs * most_outputs * row_step;
    float *const copy = factors + most_inputs * most_outputs;
    for (size_t o = 0; o < num_outputs; o += tile)
        with_count(num_outputs - o, [&](auto count) {
            multiply<decltype(count)::value>(step, step.outputs + o, products + o * num_inputs * row_step);
        });
    const size_t count = num_inputs * num_outputs;
    for (size_t i = 0; i < count; i += 16)
        add_across(products + i * row_step, factors + i);
    make_factors(step, factors);
    const float *old[most_inputs];
    for (size_t c = 0; c < num_inputs; ++c) {
        old[c] = step.inputs[c];
        if (num_outputs > tile) {
            memcpy(copy + c * step.columns, old[c], step.columns * sizeof(float));
            old[c] = copy + c * step.columns;
        }
    }
    for (size_t o = 0; o < num_outputs; o += tile)
        with_count(num_outputs - o, [&](auto some) {
            change<decltype(some)::value>(step, step.outputs + o, factors + o * num_inputs, old);
        });
}

// ---- words of several rows ----

void mean(const float *rows, const int64_t *ids, size_t count, size_t columns, float *out) {
    const Vec scale = all(1.0F / static_cast<float>(count));
    for (size_t column = 0; column < columns; column += width) {
        Vec sum = {};
        for (size_t i = 0; i < count; ++i)
            sum += load(rows + static_cast<size_t>(ids[i]) * columns + column);
        store(out + column, count == 1 ? sum : sum * scale);
    }
}

void add_difference(float *rows, const int64_t *ids, size_t count, size_t columns, const float *before,
                    const float *after) {
    for (size_t i = 0; i < count; ++i) {
        float *const row = rows + static_cast<size_t>(ids[i]) * columns;
        for (size_t column = 0; column < columns; column += width)
            store(row + column, load(row + column) + (load(after + column) - load(before + column)));
    }
}

} // namespace

extern const SkipGramKernels skipgram_kernels;
const SkipGramKernels skipgram_kernels = {do_step, mean, add_difference};

} // namespace shardwise::SHARDWISE_LEVEL

// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace, and with multiplications and
// additions fused where the level can: no result depends on the last bit of a product (see _search.py). No
// standard C++ headers with code in them here: an inline function emitted with wide instructions could be the
// one that the linker keeps for everyone.

#include "core/nearest.h"
#include "core/partition.h"

#include <math.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// A tile: the queries' numbers are the lanes, packed column after column; a row's are read where they lie,
// each for all lanes. So many registers of queries by so many rows: 24 sums of 32 registers of 64 bytes, or
// 12 of 16 smaller ones.
#if defined(__AVX512F__)
constexpr size_t width = 16, most_vectors = 4, most_sums = 24;
#elif defined(__AVX__)
constexpr size_t width = 8, most_vectors = 2, most_sums = 12;
#else
constexpr size_t width = 4, most_vectors = 2, most_sums = 12;
#endif
static_assert(width * most_vectors <= nearest_queries);
typedef float Floats __attribute__((vector_size(width * sizeof(float))));

SHARDWISE_INLINE Floats load(const float *from) {
    Floats value;
    memcpy(&value, from, sizeof value);
    return value;
}

/// Which lanes of one are above the other's, none where one is NaN; and the same as bits.
#if defined(__AVX512F__)
typedef __mmask16 Lanes;
SHARDWISE_INLINE Lanes above(const Floats &a, const Floats &b) {
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ);
}
SHARDWISE_INLINE unsigned bits_of(Lanes lanes) {
    return lanes;
}
#else
typedef int32_t Lanes __attribute__((vector_size(width * sizeof(float))));
SHARDWISE_INLINE Lanes above(const Floats &a, const Floats &b) {
    return a > b;
}
SHARDWISE_INLINE unsigned bits_of(const Lanes &lanes) {
#if defined(__AVX__)
    return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(lanes)));
#elif defined(__SSE2__)
    return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(lanes)));
#else
    unsigned bits = 0;
    for (size_t i = 0; i < width; ++i)
        bits |= lanes[i] != 0 ? 1U << i : 0U;
    return bits;
#endif
}
#endif

/// A query's heap: the worst in front, and each no worse than the one above it.
struct Heap {
    int64_t *ids;
    float *scores;
    size_t size;

    bool worse(size_t a, size_t b) const {
        return scores[a] < scores[b] || (scores[a] == scores[b] && ids[a] > ids[b]);
    }

    void replace_worst(int64_t id, float score) const {
        size_t at = 0;
        for (size_t child; (child = 2 * at + 1) < size; at = child) {
            if (child + 1 < size && worse(child + 1, child))
                ++child;
            if (score < scores[child] || (score == scores[child] && id > ids[child]))
                break;
            ids[at] = ids[child];
            scores[at] = scores[child];
        }
        ids[at] = id;
        scores[at] = score;
    }
};

SHARDWISE_INLINE const float *row_at(const Nearest &task, size_t row) {
    return reinterpret_cast<const float *>(task.rows + static_cast<ptrdiff_t>(row) * task.stride);
}

/// The rare case, away from the registers of the products: some of the rows are among a query's best.
template <size_t Vectors>
__attribute__((noinline)) void keep_best(const Nearest &task, size_t query, size_t row, size_t rows,
                                         const float *scores, float *worst) {
    for (size_t r = 0; r < rows; ++r)
        for (size_t first = 0; first < Vectors * width; first += width, scores += width)
            for (unsigned left = bits_of(above(load(scores), load(worst + first))); left != 0;
                 left &= left - 1) {
                const auto lane = static_cast<size_t>(__builtin_ctz(left));
                const size_t at = (query + first + lane) * task.keep;
                const Heap heap{task.ids + at, task.scores + at, task.keep};
                heap.replace_worst(task.first_id + static_cast<int64_t>(row + r), scores[lane]);
                worst[first + lane] = heap.scores[0];
            }
}

/// The queries from `query` on, whose worst scores so far are `worst`, by `Rows` rows from `row` on.
template <size_t Vectors, size_t Rows>
SHARDWISE_INLINE void score_tile(const Nearest &task, const float *packed, float *worst, size_t query,
                                 size_t row) {
    const float *numbers[Rows];
    for (size_t r = 0; r < Rows; ++r)
        numbers[r] = row_at(task, row + r);
    Floats sums[Rows][Vectors] = {};
    for (size_t d = 0; d < task.dim; ++d) {
        Floats lanes[Vectors];
        for (size_t v = 0; v < Vectors; ++v)
            lanes[v] = load(packed + (d * Vectors + v) * width);
        for (size_t r = 0; r < Rows; ++r)
            for (size_t v = 0; v < Vectors; ++v)
                sums[r][v] += lanes[v] * numbers[r][d];
    }
    Lanes better = {};
    for (size_t r = 0; r < Rows; ++r)
        for (size_t v = 0; v < Vectors; ++v) {
            sums[r][v] *= task.factors[row + r];
            better |= above(sums[r][v], load(worst + v * width));
        }
    if (__builtin_expect(bits_of(better) != 0, 0)) {
        float scores[Rows * Vectors * width];
        memcpy(scores, sums, sizeof scores);
        keep_best<Vectors>(task, query, row, Rows, scores, worst);
    }
}

/// All rows by `count` queries, at most Vectors * width.
template <size_t Vectors> void score_queries(const Nearest &task, size_t query, size_t count, float *packed) {
    constexpr size_t lanes = Vectors * width;
    constexpr size_t rows = Vectors == 1 ? 12 : most_sums / Vectors; // of more the places spill
    for (size_t d = 0; d < task.dim; ++d)
        for (size_t q = 0; q < lanes; ++q)
            packed[d * lanes + q] = q < count ? task.queries[(query + q) * task.dim + d] : 0.0F;
    float worst[lanes];
    for (size_t q = 0; q < lanes; ++q)
        worst[q] = q < count ? task.scores[(query + q) * task.keep] : HUGE_VALF;
    size_t row = 0;
    for (; row + rows <= task.num_rows; row += rows)
        score_tile<Vectors, rows>(task, packed, worst, query, row);
    for (; row < task.num_rows; ++row)
        score_tile<Vectors, 1>(task, packed, worst, query, row);
}

} // namespace

void find_nearest(const Nearest &task, size_t begin, size_t end, float *room) {
    while (begin < end) {
        const size_t left = end - begin;
        const size_t count = left < most_vectors * width ? left : most_vectors * width;
        if (count <= width)
            score_queries<1>(task, begin, count, room);
        else if (count <= 2 * width)
            score_queries<2>(task, begin, count, room);
        else
            score_queries<most_vectors>(task, begin, count, room);
        begin += count;
    }
}

} // namespace shardwise::SHARDWISE_LEVEL

#pragma once
// What the two kernels of nearest rows share; compiled once per instruction level, in their namespace.

#include "core/nearest.h"
#include "core/partition.h"

#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {

/// The floats of queries from `query` on, `count` of them, column after column as the lanes of a tile.
void pack_queries(const Nearest &task, size_t query, size_t count, float *packed);
/// Rows [row, end) by those queries, whose worst scores so far are `worst`, +inf for lanes without a query.
void score_rows(const Nearest &task, size_t query, size_t count, const float *packed, float *worst,
                size_t row, size_t end);

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

/// Rows of a tile that has so many registers of queries: of more than 12 the places spill.
template <size_t Vectors> inline constexpr size_t tile_rows = Vectors == 1 ? 12 : most_sums / Vectors;

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

/// Puts a row in the place of a query's worst; returns what is the worst now.
SHARDWISE_INLINE float replace_worst(const Nearest &task, size_t query, size_t row, float score) {
    const size_t at = query * task.keep;
    const Heap heap{task.ids + at, task.scores + at, task.keep};
    heap.replace_worst(task.first_id + static_cast<int64_t>(row), score);
    return heap.scores[0];
}

SHARDWISE_INLINE const float *row_at(const Nearest &task, size_t row) {
    return reinterpret_cast<const float *>(task.rows + static_cast<ptrdiff_t>(row) * task.stride);
}

/// How many queries from `begin` on are a tile.
SHARDWISE_INLINE size_t tile_queries(size_t begin, size_t end) {
    return end - begin < most_vectors * width ? end - begin : most_vectors * width;
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

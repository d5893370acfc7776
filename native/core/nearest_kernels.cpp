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

// Products of 6 queries and of as many rows as the registers hold: 24 of 32 registers of 64 bytes, or 12 of
// 16 smaller ones.
#if defined(__AVX512F__)
constexpr size_t width = 16, vectors = 4;
#elif defined(__AVX__)
constexpr size_t width = 8, vectors = 2;
#else
constexpr size_t width = 4, vectors = 2;
#endif
constexpr size_t queries = nearest_queries, rows = width * vectors;
static_assert(rows <= nearest_rows);
typedef float Floats __attribute__((vector_size(width * sizeof(float))));

SHARDWISE_INLINE Floats load(const float *from) {
    Floats value;
    memcpy(&value, from, sizeof value);
    return value;
}

SHARDWISE_INLINE bool any_above(const Floats &values, float least) {
#if defined(__AVX512F__)
    __m512 wide;
    memcpy(&wide, &values, sizeof wide);
    return _mm512_cmp_ps_mask(wide, _mm512_set1_ps(least), _CMP_GT_OQ) != 0;
#elif defined(__AVX__)
    __m256 wide;
    memcpy(&wide, &values, sizeof wide);
    return _mm256_movemask_ps(_mm256_cmp_ps(wide, _mm256_set1_ps(least), _CMP_GT_OQ)) != 0;
#elif defined(__SSE2__)
    __m128 wide;
    memcpy(&wide, &values, sizeof wide);
    return _mm_movemask_ps(_mm_cmpgt_ps(wide, _mm_set1_ps(least))) != 0;
#else
    bool any = false;
    for (size_t i = 0; i < width; ++i)
        any |= values[i] > least;
    return any;
#endif
}

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

/// The rare case, away from the registers of the products: some of a query's scores are among its best.
__attribute__((noinline)) void keep_best(const Nearest &task, size_t query, const float *scores,
                                         int64_t first) {
    const Heap heap{task.ids + query * task.keep, task.scores + query * task.keep, task.keep};
    for (size_t i = 0; i < rows; ++i)
        if (scores[i] > heap.scores[0])
            heap.replace_worst(first + static_cast<int64_t>(i), scores[i]);
}

/// One tile: `packed_queries` column after column 6 of them, `packed_rows` likewise.
void score_tile(const Nearest &task, const float *packed_queries, const float *packed_rows,
                const float *factors, size_t query, size_t count, int64_t first) {
    Floats sums[queries][vectors] = {};
    for (size_t d = 0; d < task.dim; ++d) {
        Floats row[vectors];
        for (size_t v = 0; v < vectors; ++v)
            row[v] = load(packed_rows + d * rows + v * width);
        for (size_t q = 0; q < queries; ++q)
            for (size_t v = 0; v < vectors; ++v)
                sums[q][v] += row[v] * packed_queries[d * queries + q];
    }
    for (size_t q = 0; q < queries; ++q) {
        Floats best = Floats{} - HUGE_VALF; // a NaN is passed over
        for (size_t v = 0; v < vectors; ++v) {
            sums[q][v] *= load(factors + v * width);
            best = sums[q][v] > best ? sums[q][v] : best;
        }
        if (q < count && __builtin_expect(any_above(best, task.scores[(query + q) * task.keep]), 0)) {
            float scores[rows];
            memcpy(scores, sums[q], sizeof scores);
            keep_best(task, query + q, scores, first);
        }
    }
}

SHARDWISE_INLINE const float *row_at(const Nearest &task, size_t row) {
    return reinterpret_cast<const float *>(task.rows + static_cast<ptrdiff_t>(row) * task.stride);
}

} // namespace

void find_nearest(const Nearest &task, size_t begin, size_t end, float *room) {
    const size_t dim = task.dim;
    float *const packed_rows = room;
    float *const packed_queries = room + dim * rows;
    for (size_t query = begin; query < end; query += queries) {
        float *const tile = packed_queries + (query - begin) * dim;
        for (size_t q = 0; q < queries; ++q)
            for (size_t d = 0; d < dim; ++d)
                tile[d * queries + q] = query + q < end ? task.queries[(query + q) * dim + d] : 0.0F;
    }
    for (size_t row = 0; row < task.num_rows; row += rows) {
        const size_t found = task.num_rows - row < rows ? task.num_rows - row : rows;
        float factors[rows];
        for (size_t i = 0; i < rows; ++i) // NaN is no one's best
            factors[i] = i < found ? task.factors[row + i] : static_cast<float>(NAN);
        // Sixteen columns at a time: a line of each row, and stores that follow each other.
        constexpr size_t some = 16;
        for (size_t from = 0; from < dim; from += some) {
            const size_t to = from + some < dim ? from + some : dim;
            for (size_t i = 0; i < rows; ++i) {
                const float *const numbers = row_at(task, row + (i < found ? i : 0));
                for (size_t d = from; d < to; ++d)
                    packed_rows[d * rows + i] = numbers[d];
            }
        }
        for (size_t query = begin; query < end; query += queries)
            score_tile(task, packed_queries + (query - begin) * dim, packed_rows, factors, query,
                       end - query < queries ? end - query : queries,
                       task.first_id + static_cast<int64_t>(row));
    }
}

} // namespace shardwise::SHARDWISE_LEVEL

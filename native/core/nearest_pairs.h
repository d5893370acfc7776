#pragma once
// Products as floats of single pairs of a row and a query, for the kernels alone.

#include "core/nearest_round.h"

namespace shardwise::SHARDWISE_LEVEL {
namespace {

/// Pairs of rows and lanes: row * nearest_queries + lane, in the order of the rows.
struct Pairs {
    size_t count = 0;
    uint64_t at[256 + byte_group * nearest_queries];
};
constexpr size_t enough_pairs = 48; // to look at them together

#if defined(__AVX512F__)
SHARDWISE_INLINE Floats pick(const Floats &a, const Ints &places, const Floats &b) {
    return reinterpret_cast<Floats>(_mm512_permutex2var_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512i>(places), reinterpret_cast<__m512>(b)));
}
#endif

/// Rows of `width` values become columns: blocks of 1, 2, 4, ... are swapped across the diagonal.
SHARDWISE_INLINE void transpose(Floats (&rows)[width]) {
#if defined(__AVX512F__)
    static constexpr int32_t places[4][2][16] = {
        {{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
         {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31}},
        {{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
         {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31}},
        {{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
         {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31}},
        {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
         {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}}};
#pragma GCC unroll 4
    for (size_t step = 0; step < 4; ++step) {
        Ints low, high;
        memcpy(&low, places[step][0], sizeof low);
        memcpy(&high, places[step][1], sizeof high);
#pragma GCC unroll 16
        for (size_t k = 0; k < 16; ++k)
            if ((k >> step & 1) == 0) {
                const Floats a = rows[k], b = rows[k + (size_t{1} << step)];
                rows[k] = pick(a, low, b);
                rows[k + (size_t{1} << step)] = pick(a, high, b);
            }
    }
#else
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; k += 2) {
        const Floats a = rows[k], b = rows[k + 1];
        rows[k] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
        rows[k + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; k += k % 2 == 0 ? 1 : 3) {
        const Floats a = rows[k], b = rows[k + 2];
        rows[k] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        rows[k + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 8
    for (size_t k = 0; k < 4; ++k) {
        const Floats a = rows[k], b = rows[k + 4];
        rows[k] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
        rows[k + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
#endif
}

typedef const float *Places[width];

/// Values [at, at + width) of so many rows, one of each as the lanes.
SHARDWISE_INLINE void load_columns(const Places &rows, size_t at, size_t dim, Floats (&columns)[width]) {
    for (size_t k = 0; k < width; ++k)
        columns[k] = values_at(rows[k], at, dim);
    transpose(columns);
}

/// Leaves out the pairs that a product as floats, its additions in any order, shows to be no better than the
/// worst: most of those that the bytes could not tell. `roundings` as in Tile.
__attribute__((noinline)) void look_closer(const Nearest &task, const ByteRows &rows, const float *roundings,
                                           size_t query, const float *worst, Pairs &pairs) {
    size_t left = 0;
    for (size_t k = 0; k < pairs.count; ++k) {
        const uint64_t pair = pairs.at[k];
        const size_t lane = pair % nearest_queries, row = pair / nearest_queries;
        const float *a = task.queries + (query + lane) * task.dim, *b = row_at(task, row);
        Floats sums[2] = {};
        size_t at = 0;
        for (; at + 2 * width <= task.dim; at += 2 * width) {
            sums[0] += load(a + at) * load(b + at);
            sums[1] += load(a + at + width) * load(b + at + width);
        }
        for (; at < task.dim; at += width)
            sums[0] += values_at(a, at, task.dim) * values_at(b, at, task.dim);
        const float score = fold<float>(sums[0] + sums[1], Sum{}) * task.factors[row];
        pairs.at[left] = pair;
        // Once for this product, and once for that in the kernel's order.
        left += score > worst[lane] - 2 * roundings[lane] * rows.bounds[row / byte_group].norm ? 1 : 0;
    }
    pairs.count = left;
}

/// The products as floats, the additions in the kernel's order, of `width` pairs side by side.
__attribute__((noinline)) void score_pairs(const Nearest &task, size_t query, Pairs &pairs, float *worst) {
    for (size_t first = 0; first < pairs.count; first += width) {
        const size_t count = pairs.count - first < width ? pairs.count - first : width;
        Places queries, rows;
        for (size_t k = 0; k < width; ++k) {
            const uint64_t pair = pairs.at[first + (k < count ? k : 0)];
            queries[k] = task.queries + (query + pair % nearest_queries) * task.dim;
            rows[k] = row_at(task, pair / nearest_queries);
        }
        Floats sums = {};
        for (size_t at = 0; at < task.dim; at += width) {
            Floats of_queries[width], of_rows[width];
            load_columns(queries, at, task.dim, of_queries);
            load_columns(rows, at, task.dim, of_rows);
            const size_t left = task.dim - at;
            if (left >= width)
                for (size_t d = 0; d < width; ++d)
                    sums += of_queries[d] * of_rows[d];
            else
                for (size_t d = 0; d < left; ++d)
                    sums += of_queries[d] * of_rows[d];
        }
        for (size_t k = 0; k < count; ++k) {
            const uint64_t pair = pairs.at[first + k];
            const size_t lane = pair % nearest_queries, row = pair / nearest_queries;
            const float score = sums[k] * task.factors[row];
            if (score > worst[lane])
                worst[lane] = replace_worst(task, query + lane, row, score);
        }
    }
    pairs.count = 0;
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

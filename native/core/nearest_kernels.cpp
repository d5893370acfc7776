// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace, and with multiplications and
// additions fused where the level can: no result depends on the last bit of a product (see _search.py). No
// standard C++ headers with code in them here: an inline function emitted with wide instructions could be the
// one that the linker keeps for everyone.

#include "core/nearest_tile.h"

#include <math.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

/// The rare case, away from the registers of the products: some of the rows are among a query's best.
template <size_t Vectors>
__attribute__((noinline)) void keep_best(const Nearest &task, size_t query, size_t row, size_t rows,
                                         const float *scores, float *worst) {
    for (size_t r = 0; r < rows; ++r)
        for (size_t first = 0; first < Vectors * width; first += width, scores += width)
            for (unsigned left = bits_of(above(load(scores), load(worst + first))); left != 0;
                 left &= left - 1) {
                const auto lane = static_cast<size_t>(__builtin_ctz(left));
                worst[first + lane] = replace_worst(task, query + first + lane, row + r, scores[lane]);
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

template <size_t Vectors>
void score_with(const Nearest &task, const float *packed, float *worst, size_t query, size_t row,
                size_t end) {
    constexpr size_t rows = tile_rows<Vectors>;
    for (; row + rows <= end; row += rows)
        score_tile<Vectors, rows>(task, packed, worst, query, row);
    for (; row < end; ++row)
        score_tile<Vectors, 1>(task, packed, worst, query, row);
}

SHARDWISE_INLINE size_t vectors_of(size_t count) {
    return count <= width ? 1 : count <= 2 * width ? 2 : most_vectors;
}

} // namespace

void pack_queries(const Nearest &task, size_t query, size_t count, float *packed) {
    const size_t lanes = vectors_of(count) * width;
    for (size_t d = 0; d < task.dim; ++d)
        for (size_t q = 0; q < lanes; ++q)
            packed[d * lanes + q] = q < count ? task.queries[(query + q) * task.dim + d] : 0.0F;
}

void score_rows(const Nearest &task, size_t query, size_t count, const float *packed, float *worst,
                size_t row, size_t end) {
    const size_t vectors = vectors_of(count);
    if (vectors == 1)
        score_with<1>(task, packed, worst, query, row, end);
    else if (vectors == 2)
        score_with<2>(task, packed, worst, query, row, end);
    else
        score_with<most_vectors>(task, packed, worst, query, row, end);
}

void find_nearest(const Nearest &task, size_t begin, size_t end, float *room) {
    for (size_t count; begin < end; begin += count) {
        count = tile_queries(begin, end);
        float worst[nearest_queries];
        for (size_t q = 0; q < nearest_queries; ++q)
            worst[q] = q < count ? task.scores[(begin + q) * task.keep] : HUGE_VALF;
        pack_queries(task, begin, count, room);
        score_rows(task, begin, count, room, worst, 0, task.num_rows);
    }
}

} // namespace shardwise::SHARDWISE_LEVEL

// The nearest rows by products of bytes first (see nearest.h), for the levels that may have an instruction
// for four of them at once. Compiled as nearest_kernels.cpp is, and its products of floats have the same
// bits.
//
// A row is y = x + e times a scale: x whole numbers, e what the rounding to them lost, and so is a query.
// Then
//
//     |y.z - x.w| = |x.f + e.z| <= |x| |f| + |e| |z|    for the rows y = x + e and z = w + f
//
// by Cauchy and Schwarz. To that come the roundings of all that is computed here, and those of the product as
// floats, each of which is a share of |y| |z|.

#if defined(__AVX2__)
#include "core/nearest_pairs.h"

#if defined(__AVX512F__)
#define SHARDWISE_BYTES __attribute__((target("avx512vnni")))
#else
#define SHARDWISE_BYTES __attribute__((target("avxvnni")))
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

#if defined(__AVX512F__)
SHARDWISE_BYTES SHARDWISE_INLINE Ints add_products(const Ints &sums, const Ints &queries, const Ints &row) {
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(queries), reinterpret_cast<__m512i>(row)));
}
#else
SHARDWISE_BYTES SHARDWISE_INLINE Ints add_products(const Ints &sums, const Ints &queries, const Ints &row) {
    return reinterpret_cast<Ints>(_mm256_dpbusd_avx_epi32(
        reinterpret_cast<__m256i>(sums), reinterpret_cast<__m256i>(queries), reinterpret_cast<__m256i>(row)));
}
#endif

/// The first where one is NaN.
SHARDWISE_INLINE Floats greater(const Floats &a, const Floats &b) {
    return b > a ? b : a;
}
SHARDWISE_INLINE Floats lesser(const Floats &a, const Floats &b) {
    return b > a ? a : b;
}
constexpr size_t most_ahead = 64;  // of the best that are looked for ahead
constexpr size_t groups_ahead = 8; // for each of them

/// Stops where there are more than `most`.
template <size_t Vectors>
__attribute__((noinline)) void keep_pairs(size_t row, size_t rows, const float *products, const float *floors,
                                          size_t most, Pairs &pairs) {
    for (size_t r = 0; r < rows && pairs.count <= most; ++r)
        for (size_t first = 0; first < Vectors * width; first += width, products += width)
            for (unsigned left = bits_of(above(load(products), load(floors + first))); left != 0;
                 left &= left - 1) {
                const auto lane = first + static_cast<size_t>(__builtin_ctz(left));
                pairs.at[pairs.count++] = (row + r) * nearest_queries + lane;
            }
}

/// The products of the bytes, times the rows' scales.
template <size_t Vectors>
SHARDWISE_BYTES SHARDWISE_INLINE void multiply(const ByteRows &rows, const Tile &tile, size_t row,
                                               Floats (&products)[tile_rows<Vectors>][Vectors]) {
    constexpr size_t num = tile_rows<Vectors>;
    const int8_t *bytes = rows.bytes + row * rows.stride;
    Ints sums[num][Vectors];
    for (size_t r = 0; r < num; ++r)
        for (size_t v = 0; v < Vectors; ++v)
            sums[r][v] = Ints{} + rows.starts[row + r];
    for (size_t d = 0; d < rows.stride; d += 4) {
        Ints lanes[Vectors];
        for (size_t v = 0; v < Vectors; ++v)
            memcpy(&lanes[v], tile.packed + (d * Vectors + 4 * v) * width, sizeof lanes[v]);
        for (size_t r = 0; r < num; ++r) {
            int32_t four;
            memcpy(&four, bytes + r * rows.stride + d, sizeof four);
            const Ints row_bytes = Ints{} + four;
            for (size_t v = 0; v < Vectors; ++v)
                sums[r][v] = add_products(sums[r][v], lanes[v], row_bytes);
        }
    }
    for (size_t r = 0; r < num; ++r)
        for (size_t v = 0; v < Vectors; ++v)
            products[r][v] = __builtin_convertvector(sums[r][v], Floats) * rows.scales[row + r];
}

template <size_t Vectors>
SHARDWISE_BYTES SHARDWISE_INLINE void filter_tile(const ByteRows &rows, const Tile &tile, const float *floors,
                                                  size_t row, size_t most, Pairs &pairs) {
    constexpr size_t num = tile_rows<Vectors>;
    Floats products[num][Vectors];
    multiply<Vectors>(rows, tile, row, products);
    Lanes better = {};
    for (size_t r = 0; r < num; ++r)
        for (size_t v = 0; v < Vectors; ++v)
            better |= above(products[r][v], load(floors + v * width));
    if (__builtin_expect(bits_of(better) != 0, 0)) {
        float stored[num * Vectors * width];
        memcpy(stored, products, sizeof stored);
        keep_pairs<Vectors>(row, num, stored, floors, most, pairs);
    }
}

/// Adds to `pairs` those of groups [group, end) that may be among the best, until they are enough; returns
/// the group that is next. `dense` where that one is for products of floats.
template <size_t Vectors>
SHARDWISE_BYTES size_t filter(const ByteRows &rows, const Tile &tile, size_t group, size_t end, Pairs &pairs,
                              bool &dense) {
    constexpr size_t lanes = Vectors * width, num = tile_rows<Vectors>;
    dense = false;
    for (; group < end && pairs.count < enough_pairs; ++group) {
        const ByteRows::Bound &bound = rows.bounds[group];
        const size_t before = pairs.count;
        dense = bound.error < 0;
        if (dense)
            break;
        float floors[lanes];
        for (size_t q = 0; q < lanes; ++q)
            floors[q] = tile.floor[q] - tile.of_error[q] * bound.error - tile.of_norm[q] * bound.norm;
        // One pair in 12 takes about as long as the whole group by floats.
        const size_t most = before + byte_group * lanes / 12;
        for (size_t r = 0; r < byte_group && pairs.count <= most; r += num)
            filter_tile<Vectors>(rows, tile, floors, group * byte_group + r, most, pairs);
        if (pairs.count > most) {
            pairs.count = before;
            dense = true;
            break;
        }
    }
    return group;
}

/// What `keep` rows of the first groups exceed for sure, before one of them is looked at in full: the best of
/// each group, less its bound, and of those the `keep` best.
template <size_t Vectors>
SHARDWISE_BYTES void look_ahead(const ByteRows &rows, Tile &tile, size_t keep, size_t groups) {
    constexpr size_t lanes = Vectors * width, num = tile_rows<Vectors>;
    Floats best[most_ahead][Vectors]; // in their order, the lowest last
    for (size_t k = 0; k < keep; ++k)
        for (size_t v = 0; v < Vectors; ++v)
            best[k][v] = Floats{} - HUGE_VALF;
    for (size_t group = 0; group < groups; ++group) {
        const ByteRows::Bound &bound = rows.bounds[group];
        if (bound.error < 0)
            continue;
        Floats own[Vectors];
        for (size_t r = 0; r < byte_group; r += num) {
            Floats products[num][Vectors];
            multiply<Vectors>(rows, tile, group * byte_group + r, products);
            for (size_t v = 0; v < Vectors; ++v) {
                own[v] = r == 0 ? products[0][v] : greater(own[v], products[0][v]);
                for (size_t k = 1; k < num; ++k)
                    own[v] = greater(own[v], products[k][v]);
            }
        }
        Lanes better = {};
        for (size_t v = 0; v < Vectors; ++v) {
            own[v] -=
                load(tile.of_error + v * width) * bound.error + load(tile.of_norm + v * width) * bound.norm;
            better |= above(own[v], best[keep - 1][v]);
        }
        if (bits_of(better) == 0)
            continue;
        for (size_t k = 0; k < keep; ++k)
            for (size_t v = 0; v < Vectors; ++v) {
                const Floats known = best[k][v];
                best[k][v] = greater(known, own[v]);
                own[v] = lesser(known, own[v]);
            }
    }
    float lowest[lanes];
    memcpy(lowest, best[keep - 1], sizeof lowest);
    for (size_t q = 0; q < lanes; ++q)
        tile.reached[q] = lowered(lowest[q]) - 0x1p-100F;
}

SHARDWISE_INLINE void look_ahead(const ByteRows &rows, Tile &tile, size_t keep, size_t groups) {
    if (tile.lanes == width)
        look_ahead<1>(rows, tile, keep, groups);
    else if (tile.lanes == 2 * width)
        look_ahead<2>(rows, tile, keep, groups);
    else
        look_ahead<most_vectors>(rows, tile, keep, groups);
}

SHARDWISE_INLINE size_t filter_some(const ByteRows &rows, const Tile &tile, size_t group, size_t end,
                                    Pairs &pairs, bool &dense) {
    if (tile.lanes == width)
        return filter<1>(rows, tile, group, end, pairs, dense);
    if (tile.lanes == 2 * width)
        return filter<2>(rows, tile, group, end, pairs, dense);
    return filter<most_vectors>(rows, tile, group, end, pairs, dense);
}

/// A tile of queries by all rows; returns how many groups were multiplied as floats.
size_t find_tile(const Nearest &task, const ByteRows &rows, size_t query, size_t count, float *room,
                 uint8_t *packed) {
    float worst[nearest_queries];
    bool empty = false;
    for (size_t q = 0; q < nearest_queries; ++q) {
        worst[q] = q < count ? task.scores[(query + q) * task.keep] : HUGE_VALF;
        empty = empty || worst[q] == -HUGE_VALF;
    }
    Tile tile;
    tile.lanes = count <= width ? width : count <= 2 * width ? 2 * width : most_vectors * width;
    if (!pack_tile(task, query, count, packed, tile)) {
        pack_queries(task, query, count, room);
        score_rows(task, query, count, room, worst, 0, task.num_rows);
        return rows.num_groups;
    }
    const size_t most = groups_ahead * task.keep, ahead = rows.num_groups < most ? rows.num_groups : most;
    if (empty && task.keep <= most_ahead && ahead >= 2 * task.keep)
        look_ahead(rows, tile, task.keep, ahead);
    // Where most pairs are among the best, products of floats take the next groups, twice as many each time.
    Pairs pairs;
    bool dense = false, have_floats = false;
    size_t next = 1, sparse = 0, by_floats = 0;
    for (size_t group = 0; group < rows.num_groups;) {
        tile.set_floor(worst);
        const size_t from = group;
        group = filter_some(rows, tile, group, rows.num_groups, pairs, dense);
        look_closer(task, rows, tile.roundings, query, worst, pairs);
        score_pairs(task, query, pairs, worst);
        sparse += group - from;
        if (!dense)
            continue;
        if (!have_floats)
            pack_queries(task, query, count, room);
        have_floats = true;
        next = sparse < 16 ? next : 1;
        sparse = 0;
        const size_t row = group * byte_group;
        group = group + next < rows.num_groups ? group + next : rows.num_groups;
        by_floats += group - row / byte_group;
        const size_t end = group * byte_group < task.num_rows ? group * byte_group : task.num_rows;
        score_rows(task, query, count, room, worst, row, end);
        next = next < 64 ? 2 * next : next;
    }
    return by_floats;
}

} // namespace

void to_bytes(const Nearest &task, const ByteRows &rows, size_t begin, size_t end) {
    for (size_t group = begin; group < end; ++group) {
        ByteRows::Bound bound{0, 0};
        for (size_t row = group * byte_group; row < (group + 1) * byte_group; ++row) {
            if (row >= task.num_rows) { // a NaN exceeds nothing
                memset(rows.bytes + row * rows.stride, 0, rows.stride);
                rows.starts[row] = 0;
                rows.scales[row] = NAN;
            } else if (!row_to_bytes(task, rows, row, bound)) {
                bound.error = -1;
                break;
            }
        }
        rows.bounds[group] = bound;
    }
}

size_t find_by_bytes(const Nearest &task, const ByteRows &rows, size_t begin, size_t end, float *room,
                     uint8_t *packed) {
    size_t by_floats = 0;
    for (size_t count; begin < end; begin += count) {
        count = tile_queries(begin, end);
        by_floats += count * find_tile(task, rows, begin, count, room, packed);
    }
    return by_floats;
}

} // namespace shardwise::SHARDWISE_LEVEL
#endif

#pragma once
// A group of rows combined a tile of columns after the other, for the kernels alone: this file is compiled
// once per instruction level, in their namespace.

#include "core/fused.h"
#include "core/pool_window.h"
#include "core/rows.h"

#include <math.h>
#include <string.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// A group of ids holds whole bags or parts of them; its rows are combined a tile of columns after the other:
// the sums of a tile stay in registers while the rows of a bag go by.
constexpr size_t group_ids = Window::group_ids;
constexpr size_t group_parts = 64;
static_assert(group_ids + group_parts == pool_group_rows);
constexpr int widest = 8; // registers of sums, of twice as many or more

template <int N> struct Constant {
    static constexpr int value = N;
};

// ---- what is done with an element ----

struct Add {
    static constexpr bool weighted = false;
    /// -0.0, to which any x can be added and gives x, the other zero too. (0 + -0.0 would be 0.)
    template <class V> static SHARDWISE_INLINE V nothing() { return -V{}; }
    template <class T, int L> static SHARDWISE_INLINE Vec<T, L> apply(Vec<T, L> sum, Vec<T, L> x, Vec<T, L>) {
        return sum + x;
    }
};

struct AddWeighted {
    static constexpr bool weighted = true;
    template <class V> static SHARDWISE_INLINE V nothing() { return Add::nothing<V>(); }
    template <class T, int L>
    static SHARDWISE_INLINE Vec<T, L> apply(Vec<T, L> sum, Vec<T, L> x, Vec<T, L> weight) {
        return fused<T, L>(x, weight, sum);
    }
};

/// NaN stays.
struct Max {
    static constexpr bool weighted = false;
    template <class V> static SHARDWISE_INLINE V nothing() { return V{} - HUGE_VALF; }
    template <class T, int L>
    static SHARDWISE_INLINE Vec<T, L> apply(Vec<T, L> most, Vec<T, L> x, Vec<T, L>) {
        return (x > most) | (x != x) ? x : most;
    }
};

struct MaxWeighted {
    static constexpr bool weighted = true;
    template <class V> static SHARDWISE_INLINE V nothing() { return Max::nothing<V>(); }
    template <class T, int L>
    static SHARDWISE_INLINE Vec<T, L> apply(Vec<T, L> most, Vec<T, L> x, Vec<T, L> weight) {
        const Vec<T, L> product = x * weight;
        return (product > most) | (product != product) ? product : most;
    }
};

SHARDWISE_INLINE float root(float x) {
    return sqrtf(x);
}
SHARDWISE_INLINE double root(double x) {
    return sqrt(x);
}

// ---- a group of rows ----

/// The rows of one bag in a group: those from where the part before it ends.
template <class Acc> struct Part {
    size_t end;
    bool opens;   // its bag begins with it; else the sums so far are in `acc`
    bool closes;  // its bag ends with it
    bool weighed; // the divisor is that of the bag's weights, which are added up with its rows
    bool is_zero;
    Acc divisor;
    std::byte *out; // the bag's row
};

template <class Acc> struct Group {
    const std::byte *const *rows;
    const Acc *weights;
    Part<Acc> *parts;
    size_t num_parts;
    /// Where it is not null: the bounds of `num_parts` whole bags, for which there are no `parts`.
    const int64_t *bounds;
    std::byte *out; // of the first of them
    ptrdiff_t out_stride;
    Combiner combiner;
    const std::byte *const *soon; // rows to ask for meanwhile, at most as many as there are ids
    size_t later;
    Ahead ahead; // what of each
    RowFormat out_format;
    bool stream; // past the caches
    Acc total;   // of the bag that is not closed yet, before the group and after it
    Acc next_total;
    Acc *acc;
};

template <int L, class V>
SHARDWISE_INLINE void put(std::byte *to, size_t column, V values, RowFormat format) {
    switch (format) {
    case RowFormat::float16:
        return WriteFloat16::put<L>(to + column * WriteFloat16::bytes, values);
    case RowFormat::bfloat16:
        return WriteBfloat16::put<L>(to + column * WriteBfloat16::bytes, values);
    case RowFormat::float64:
        return WriteFloat64::put<L>(to + column * WriteFloat64::bytes, values);
    default:
        return WriteFloat32::put<L>(to + column * WriteFloat32::bytes, values);
    }
}

#define SHARDWISE_INLINED __attribute__((always_inline))

/// The columns from `column` on. The same columns of as many rows are asked for meanwhile: what a row takes
/// is known here, and straight code, without a loop over its lines, keeps more rows on their way.
template <class Row, class Op, int L, int Chunks>
SHARDWISE_INLINE void tile(Group<typename Row::Acc> &group, size_t dim, size_t column) {
    using Acc = typename Row::Acc;
    using V = Vec<Acc, L>;
    constexpr size_t bytes = Row::columns_bytes(static_cast<size_t>(L) * Chunks);
    const size_t place = Row::columns_bytes(column);
    const bool asks = place % 64 == 0 && place < group.ahead.bytes;
    const size_t later = asks ? group.later : 0;
    const size_t last = column == 0 && group.ahead.last ? group.ahead.bytes - 1 : 0;
    const std::byte *const *const rows = group.rows;
    const std::byte *const *const soon = group.soon;
    const Acc *const weights = group.weights;
    // Not read again after each write, which could be to them for all that the compiler knows.
    const bool is_mean = group.combiner == Combiner::mean, is_sqrtn = group.combiner == Combiner::sqrtn;
    const bool stream = group.stream;
    const RowFormat format = group.out_format;
    // Inlined early: else GCC takes it for a function without effect, and leaves its calls out.
    const auto ask = [&](size_t i) SHARDWISE_INLINED {
        prefetch_lines<3, bytes>(soon[i] + place);
        if (last != 0)
            prefetch_byte<3>(soon[i] + last);
    };
    size_t i = 0;
    V total = all_of<V>(group.total); // the same in all lanes: as fast as in one
    V sums[Chunks];
    const auto begin = [&]() SHARDWISE_INLINED {
        each<Chunks>([&](int k) SHARDWISE_INLINED { sums[k] = Op::template nothing<V>(); });
    };
    const auto add = [&]() SHARDWISE_INLINED {
        V weight{};
        if constexpr (Op::weighted)
            weight = all_of<V>(weights[i]);
        Row row(rows[i], dim);
        if constexpr (L == 1) {
            sums[0] = Op::template apply<Acc, L>(sums[0], V{row.one(column)}, weight);
        } else {
            row.data += place;
            keep_apart(row.data); // from here all have constant distances
            each<Chunks>([&](int k) SHARDWISE_INLINED {
                sums[k] = Op::template apply<Acc, L>(sums[k], row.template at<L>(static_cast<size_t>(k) * L),
                                                     weight);
            });
        }
        if constexpr (Op::weighted)
            total += weight;
    };
    const auto add_until = [&](size_t end) SHARDWISE_INLINED {
        const size_t both = end < later ? end : later;
        for (; i < both; ++i) {
            ask(i);
            add();
        }
        for (; i < end; ++i)
            add();
    };
    const auto write = [&](std::byte *out, Acc divisor, bool is_zero) SHARDWISE_INLINED {
        if (divisor != 1)
            each<Chunks>([&](int k) SHARDWISE_INLINED { sums[k] /= divisor; });
        each<Chunks>([&](int k) SHARDWISE_INLINED {
            const V done = is_zero ? V{} : same_nan(sums[k]);
            const size_t first = column + static_cast<size_t>(k) * L;
#if defined(__SSE2__)
            if constexpr (sizeof(V) == register_bytes)
                if (stream)
                    return stream_register(out + first * sizeof(Acc),
                                           reinterpret_cast<const std::byte *>(&done));
#endif
            put<L>(out, first, done, format);
        });
    };
    // Of the squares of weights from `from` on, in place of the weights: their own loop, for a test in that
    // of the rows took 3 % of its time.
    const auto add_squares = [&](Acc so_far, size_t from) SHARDWISE_INLINED {
        if (Op::weighted && is_sqrtn) {
            for (; from < i; ++from)
                so_far += weights[from] * weights[from];
            total = all_of<V>(so_far);
        }
    };
    const auto divisor_of = [&](size_t members) SHARDWISE_INLINED {
        const Acc sum = Op::weighted ? total[0] : static_cast<Acc>(members);
        return is_mean ? sum : is_sqrtn ? root(sum) : 1;
    };
    if (group.bounds != nullptr) {
        const int64_t *bound = group.bounds;
        const int64_t first = *bound;
        std::byte *out = group.out;
        const auto bags = [&](auto asks_for_all) SHARDWISE_INLINED {
            for (const int64_t *const last_bound = bound + group.num_parts; bound != last_bound;
                 out += group.out_stride) {
                const auto end = static_cast<size_t>(*++bound - first);
                const size_t members = end - i;
                begin();
                total = V{};
                for (; i < end; ++i) {
                    if (asks_for_all.value != 0)
                        ask(i);
                    add();
                }
                add_squares(0, end - members);
                const Acc divisor = divisor_of(members);
                write(out, divisor, members == 0 || divisor == 0); // TensorFlow's div_no_nan
            }
        };
        if (asks)
            bags(Constant<1>{});
        else
            bags(Constant<0>{});
        return;
    }
    for (Part<Acc> *part = group.parts; part != group.parts + group.num_parts; ++part) {
        Acc *const so_far = group.acc + column;
        if (part->opens) {
            begin();
            total = V{};
        } else {
            each<Chunks>([&](int k) SHARDWISE_INLINED { sums[k] = load<V>(so_far + k * L); });
        }
        const Acc before = total[0];
        const size_t from = i;
        add_until(part->end);
        add_squares(before, from);
        if (!part->closes) {
            each<Chunks>([&](int k) SHARDWISE_INLINED { memcpy(so_far + k * L, &sums[k], sizeof(V)); });
            continue;
        }
        Acc divisor = part->divisor;
        bool is_zero = part->is_zero;
        if (Op::weighted && part->weighed) {
            divisor = divisor_of(0);
            is_zero = divisor == 0;
        }
        write(part->out, divisor, is_zero);
    }
    for (; i < later; ++i) // there are fewer rows than ids
        ask(i);
    if (Op::weighted) // kept for the bag's other columns and rows
        group.next_total = total[0];
}

/// Combines columns [first, last) of the group's rows.
template <class Row, class Op>
void combine(Group<typename Row::Acc> &group, size_t dim, size_t first, size_t last) {
    constexpr int L = own_lanes<typename Row::Acc>;
    size_t column = first;
    const auto next = [&](auto lanes, auto chunks) {
        constexpr int Lanes = decltype(lanes)::value, Chunks = decltype(chunks)::value;
        tile<Row, Op, Lanes, Chunks>(group, dim, column);
        column += Lanes * Chunks;
    };
    while (column + widest * L <= last)
        next(Constant<L>{}, Constant<widest>{});
    if (column + 4 * L <= last)
        next(Constant<L>{}, Constant<4>{});
    if (column + 2 * L <= last)
        next(Constant<L>{}, Constant<2>{});
    if (column + L <= last)
        next(Constant<L>{}, Constant<1>{});
    while (column + 4 <= last)
        next(Constant<4>{}, Constant<1>{});
    while (column < last)
        next(Constant<1>{}, Constant<1>{});
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

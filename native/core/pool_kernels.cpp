// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/clip.h"
#include "core/pool.h"
#include "core/resolve.h"
#include "core/rows.h"

#include <math.h>
#include <string.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// Ids are taken some at a time, in groups that hold whole bags or parts of them; a group's rows are combined
// a tile of columns after the other: the sums of a tile stay in registers while the rows of a bag go by.
// With 128 ids, of which 256 are resolved together, sums of rows in the caches took 0.85 of the time of 64
// and 128.
constexpr size_t group_ids = 128;
constexpr size_t group_parts = 64;
static_assert(group_ids + group_parts == pool_group_rows);
// Rows that are asked for ahead, into the first cache: of 4,000,000 rows of 128 bytes it took 0.9 of the time
// of the second, and 0.7 of that of 32 rows. But they must fit it beside what is summed: 24 rows of 512 bytes
// took 0.84 of the time of 64.
constexpr size_t most_ahead = 64;
constexpr size_t ahead_bytes = 12 << 10;
constexpr size_t batch = 256; // ids that are resolved together
constexpr int widest = 8;     // registers of sums, of twice as many or more

template <int N> struct Constant {
    static constexpr int value = N;
};

// ---- what is done with an element ----

struct Add {
    static constexpr bool weighted = false;
    /// -0.0, to which any x can be added and gives x, the other zero too. (0 + -0.0 would be 0.)
    template <class V> static SHARDWISE_INLINE V nothing() { return -V{}; }
    template <class V, class W> static SHARDWISE_INLINE V apply(V sum, V x, W) { return sum + x; }
};

struct AddWeighted {
    static constexpr bool weighted = true;
    template <class V> static SHARDWISE_INLINE V nothing() { return Add::nothing<V>(); }
    template <class V, class W> static SHARDWISE_INLINE V apply(V sum, V x, W weight) {
        return sum + x * weight;
    }
};

/// NaN stays.
struct Max {
    static constexpr bool weighted = false;
    template <class V> static SHARDWISE_INLINE V nothing() { return V{} - HUGE_VALF; }
    template <class V, class W> static SHARDWISE_INLINE V apply(V most, V x, W) {
        return (x > most) | (x != x) ? x : most;
    }
};

struct MaxWeighted {
    static constexpr bool weighted = true;
    template <class V> static SHARDWISE_INLINE V nothing() { return Max::nothing<V>(); }
    template <class V, class W> static SHARDWISE_INLINE V apply(V most, V x, W weight) {
        const V product = x * weight;
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
    /// Where it is not 0: `num_parts` whole bags of as many ids each, for which there are no `parts`.
    size_t even;
    Acc divisor;    // theirs
    std::byte *out; // of the first of them
    ptrdiff_t out_stride;
    const std::byte *const *soon; // rows to ask for meanwhile, at most as many as there are ids
    size_t later;
    Ahead ahead; // what of each
    RowFormat out_format;
    bool stream;  // past the caches
    bool squares; // of the weights are added up, and the divisor is the root of the sum
    Acc total;    // of the bag that is not closed yet, before the group and after it
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
    const bool squares = group.squares, stream = group.stream;
    const RowFormat format = group.out_format;
    // Inlined early: else GCC takes it for a function without effect, and leaves its calls out.
    const auto ask = [&](size_t i) SHARDWISE_INLINED {
        prefetch_lines<3, bytes>(soon[i] + place);
        if (last != 0)
            prefetch_byte<3>(soon[i] + last);
    };
    size_t i = 0;
    Acc total = group.total;
    V sums[Chunks];
    const auto begin = [&]() SHARDWISE_INLINED {
        each<Chunks>([&](int k) SHARDWISE_INLINED { sums[k] = Op::template nothing<V>(); });
    };
    const auto add = [&]() SHARDWISE_INLINED {
        const Acc weight = Op::weighted ? weights[i] : 0;
        Row row(rows[i], dim);
        if constexpr (L == 1) {
            sums[0] = Op::apply(sums[0], V{row.one(column)}, weight);
        } else {
            row.data += place;
            keep_apart(row.data); // from here all have constant distances
            each<Chunks>([&](int k) SHARDWISE_INLINED {
                sums[k] = Op::apply(sums[k], row.template at<L>(static_cast<size_t>(k) * L), weight);
            });
        }
        if constexpr (Op::weighted)
            total += weight * (squares ? weight : 1);
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
    if constexpr (!Op::weighted) {
        if (group.even != 0) {
            const size_t even = group.even;
            const Acc divisor = group.divisor;
            const ptrdiff_t stride = group.out_stride;
            std::byte *out = group.out;
            const auto bags = [&](auto asks_for_all) SHARDWISE_INLINED {
                for (size_t left = group.num_parts; left > 0; --left, out += stride) {
                    begin();
                    for (const size_t end = i + even; i < end; ++i) {
                        if (asks_for_all.value != 0)
                            ask(i);
                        add();
                    }
                    write(out, divisor, false);
                }
            };
            if (asks)
                bags(Constant<1>{});
            else
                bags(Constant<0>{});
            return;
        }
    }
    for (Part<Acc> *part = group.parts; part != group.parts + group.num_parts; ++part) {
        Acc *const so_far = group.acc + column;
        if (part->opens) {
            begin();
            total = 0;
        } else {
            each<Chunks>([&](int k) SHARDWISE_INLINED { sums[k] = load<V>(so_far + k * L); });
        }
        add_until(part->end);
        if (!part->closes) {
            each<Chunks>([&](int k) SHARDWISE_INLINED { memcpy(so_far + k * L, &sums[k], sizeof(V)); });
            continue;
        }
        Acc divisor = part->divisor;
        bool is_zero = part->is_zero;
        if (Op::weighted && part->weighed) {
            divisor = squares ? root(total) : total;
            is_zero = divisor == 0; // TensorFlow's div_no_nan
        }
        write(part->out, divisor, is_zero);
    }
    for (; i < later; ++i) // there are fewer rows than ids
        ask(i);
    if (Op::weighted) // kept for the bag's other columns and rows
        group.next_total = total;
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

// ---- bags ----

/// Which ids are no part of their bag.
struct Skip {
    static constexpr bool never = false;
    const Pool &task;
    size_t begin;
    SHARDWISE_INLINE bool operator()(size_t i, uint64_t id) const {
        if (task.has_padding && id == static_cast<uint64_t>(task.padding))
            return true;
        if (task.skip_negative && static_cast<int64_t>(id) < 0 && task.rows.id_type != IdType::u64)
            return true;
        if (!task.skip_weightless || task.weights == nullptr)
            return false;
        if (task.rows.format == RowFormat::float64)
            return !(static_cast<const double *>(task.weights)[begin + i] > 0);
        return !(static_cast<const float *>(task.weights)[begin + i] > 0);
    }
};

/// Bytes [begin, end) of an array that is read in its order: the processor's own prefetcher loses sight of it
/// between rows at random. For ids and weights it took 0.9 of the time.
SHARDWISE_INLINE void ask_for(const void *array, size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += 64)
        prefetch_byte<3>(static_cast<const std::byte *>(array) + at);
}

/// Where the rows of ids lie, found some way ahead of their use.
class Window {
public:
    Window(const Pool &task, const Ahead &ahead, size_t begin, size_t end)
        : task_(task), ahead_(ahead.bytes <= 256 ? most_ahead : ahead_bytes / ahead.bytes), origin_(begin),
          known_(begin), stop_(end), skips_(task.has_padding || task.skip_negative || task.skip_weightless),
          find_some_(choose_resolve<Skip>(task.rows)), find_all_(choose_resolve<NoSkip>(task.rows)) {}

    /// Resolves at least the ids before `next` and those that are asked for then; ids before `at` are done
    /// with. False if one before `next` is refused: it is known() then.
    SHARDWISE_INLINE bool advance(size_t at, size_t next) {
        const size_t wanted = next + ahead_ < stop_ ? next + ahead_ : stop_;
        if (known_ < wanted)
            resolve(at, wanted + batch < stop_ ? wanted + batch : stop_);
        return known_ >= next;
    }

    size_t known() const { return known_; }
    bool skips() const { return skips_; }
    const std::byte *const *from(size_t id) const { return rows_ + (id - origin_); }
    /// How many rows behind the one that is read another is asked for.
    size_t ahead() const { return ahead_; }
    /// How many of ids [at, next) are such that the one so far behind is known.
    size_t later(size_t at, size_t next) const {
        const size_t end = known_ < at + ahead_ ? at : known_ - ahead_;
        return (end < next ? end : next) - at;
    }

private:
    static constexpr size_t size = 1024;
    static_assert(size >= group_ids + most_ahead + batch);

    __attribute__((noinline)) void resolve(size_t at, size_t to) {
        if (to - origin_ > size) {
            memmove(rows_, rows_ + (at - origin_), (known_ - at) * sizeof rows_[0]);
            origin_ = at;
        }
        const std::byte **const place = rows_ + (known_ - origin_);
        const size_t count = to - known_;
        const size_t found = skips_ ? find_some_(task_.rows, known_, count, place, Skip{task_, known_})
                                    : find_all_(task_.rows, known_, count, place, NoSkip{});
        known_ += found;
        if (found < count)
            stop_ = known_;
        const size_t next = known_ + batch < stop_ ? known_ + batch : stop_;
        const size_t id_size = size_of(task_.rows.id_type);
        ask_for(task_.rows.ids, known_ * id_size, next * id_size);
        if (task_.weights != nullptr) {
            const size_t weight_size = task_.rows.format == RowFormat::float64 ? 8 : 4;
            ask_for(task_.weights, known_ * weight_size, next * weight_size);
        }
    }

    const Pool &task_;
    size_t ahead_;
    size_t origin_, known_, stop_;
    bool skips_;
    Resolve<Skip> find_some_;
    Resolve<NoSkip> find_all_;
    const std::byte *rows_[size];
};

/// Rows scaled down to the norm, in `scratch`: in their own format, of quantized ones as float32.
template <class Row>
void clip_rows(const Pool &task, const std::byte **rows, size_t count, std::byte *scratch) {
    const size_t dim = task.rows.dim;
    const size_t bytes = is_quantized<Row> ? dim * sizeof(float) : task.rows.row_bytes;
    for (size_t i = 0; i < count; ++i, scratch += bytes) {
        if constexpr (is_quantized<Row>)
            convert<Row, WriteFloat32>(scratch, rows[i], dim);
        else
            memcpy(scratch, rows[i], bytes);
        switch (task.rows.format) {
        case RowFormat::float16:
            clip_row<Float16>(scratch, dim, task.rows.max_norm);
            break;
        case RowFormat::bfloat16:
            clip_row<Bfloat16>(scratch, dim, task.rows.max_norm);
            break;
        case RowFormat::float64:
            clip_row<Plain<double>>(scratch, dim, task.rows.max_norm);
            break;
        default:
            clip_row<Plain<float>>(scratch, dim, task.rows.max_norm);
            break;
        }
        rows[i] = scratch;
    }
}

template <class Row, class Op>
void combine_clipped(const Pool &task, Group<typename Row::Acc> &group, size_t count, size_t first,
                     size_t last, std::byte *scratch) {
    if (!task.rows.clips())
        return combine<Row, Op>(group, task.rows.dim, first, last);
    const std::byte *clipped[group_ids + group_parts];
    memcpy(clipped, group.rows, count * sizeof clipped[0]);
    clip_rows<Row>(task, clipped, count, scratch);
    group.rows = clipped;
    if constexpr (is_quantized<Row>)
        combine<Float32Row, Op>(group, task.rows.dim, first, last);
    else
        combine<Row, Op>(group, task.rows.dim, first, last);
}

/// How many bags from `bag` on, of which the first begins with id `at`, have as many ids as this one and make
/// up a group; 0 where they are few. Bags of one id took 37 ns each by the common way, and take 23.
size_t even_bags(const Pool &task, size_t bag, size_t end, size_t at) {
    constexpr size_t least = 4; // for fewer it does not pay
    const int64_t *const offsets = task.offsets + bag;
    const auto length = static_cast<size_t>(offsets[1] - offsets[0]);
    if (static_cast<size_t>(offsets[0]) != at || length == 0 || length > group_ids / least)
        return 0;
    const size_t most = end - bag < group_ids / length ? end - bag : group_ids / length;
    size_t bags = 1;
    while (bags < most && static_cast<size_t>(offsets[bags + 1] - offsets[bags]) == length)
        ++bags;
    return bags < least ? 0 : bags;
}

template <class Row, class Op>
size_t run(const Pool &task, size_t begin, size_t end, size_t first, size_t last, bool stream,
           std::byte *scratch) {
    using Acc = typename Row::Acc;
    const Acc *const weights = static_cast<const Acc *>(task.weights);
    std::byte *const clipped = scratch + ((task.rows.dim * sizeof(Acc) + 63) & ~size_t{63});
    const bool is_mean = task.combiner == Combiner::mean, is_sqrtn = task.combiner == Combiner::sqrtn;
    const std::byte *default_row = nullptr;
    if (task.has_default) {
        Gather one = task.rows;
        one.ids = &task.default_row;
        one.id_type = IdType::u64;
        choose_resolve<NoSkip>(one)(one, 0, 1, &default_row, NoSkip{});
    }
    const Ahead ahead = ahead_of(task.rows);
    Window window(task, ahead, static_cast<size_t>(task.offsets[begin]),
                  static_cast<size_t>(task.offsets[end]));
    const bool selects = window.skips() || task.has_default; // rows are others than those of the ids
    const std::byte *selected[group_ids + group_parts];
    Acc selected_weights[group_ids + group_parts];
    Part<Acc> parts[group_parts];
    Group<Acc> group{};
    group.parts = parts;
    group.ahead = ahead;
    group.squares = is_sqrtn;
    group.out_stride = task.out_stride;
    group.out_format = task.out_format;
    group.stream = stream;
    group.acc = reinterpret_cast<Acc *>(scratch);
    size_t at = static_cast<size_t>(task.offsets[begin]);
    window.advance(at, at);
    for (size_t i = at; i < window.known() && i < at + window.ahead(); ++i)
        prefetch<3>(*window.from(i), group.ahead);
    size_t members = 0; // of the bag that is not closed yet
    for (size_t bag = begin; bag < end;) {
        const size_t start = at;
        size_t count = 0; // rows of the group
        if constexpr (!Op::weighted) {
            const size_t bags = selects || task.rows.clips() ? 0 : even_bags(task, bag, end, at);
            group.even = 0;
            if (bags > 0) {
                count = static_cast<size_t>(task.offsets[bag + bags]) - start;
                if (!window.advance(start, start + count))
                    return window.known(); // the id that was refused
                group.later = window.later(start, start + count);
                group.even = group.later == count ? count / bags : 0; // the last ids go by the common way
            }
            if (group.even == 0) {
                count = 0;
            } else {
                group.num_parts = bags;
                group.divisor = is_mean    ? static_cast<Acc>(group.even)
                                : is_sqrtn ? root(static_cast<Acc>(group.even))
                                           : 1;
                group.out = task.out + static_cast<ptrdiff_t>(bag) * task.out_stride;
                group.rows = window.from(start);
                group.soon = window.from(start + window.ahead());
                combine<Row, Op>(group, task.rows.dim, first, last);
                bag += bags;
                at += count;
                continue;
            }
        }
        for (group.num_parts = 0; bag < end && group.num_parts < group_parts && at < start + group_ids;) {
            const size_t bag_begin = static_cast<size_t>(task.offsets[bag]);
            const size_t bag_end = static_cast<size_t>(task.offsets[bag + 1]);
            if (bag_end > start + group_ids && at != start)
                break; // the next group has all of it, or more
            const size_t next = bag_end < start + group_ids ? bag_end : start + group_ids;
            if (!window.advance(start, next))
                return window.known(); // the id that was refused
            Part<Acc> &part = parts[group.num_parts++];
            part.opens = at == bag_begin;
            part.closes = next == bag_end;
            if (part.opens)
                members = 0;
            const size_t before = count;
            if (selects) {
                for (; at < next; ++at) {
                    const std::byte *const row = *window.from(at);
                    if (row == nullptr)
                        continue;
                    selected[count] = row;
                    selected_weights[count++] = weights == nullptr ? 1 : weights[at];
                }
            } else {
                count += next - at;
            }
            members += count - before;
            at = next;
            part.divisor = 1;
            part.is_zero = false;
            part.weighed = false;
            if (part.closes) {
                part.out = task.out + static_cast<ptrdiff_t>(bag++) * task.out_stride;
                if (members == 0) {
                    part.is_zero = default_row == nullptr;
                    if (!part.is_zero) {
                        selected[count] = default_row;
                        selected_weights[count++] = 1;
                    }
                } else if (is_mean || is_sqrtn) {
                    part.weighed = weights != nullptr;
                    part.divisor = is_mean ? static_cast<Acc>(members) : root(static_cast<Acc>(members));
                }
            }
            part.end = count;
        }
        group.rows = selects ? selected : window.from(start);
        group.weights = selects ? selected_weights : weights + start;
        group.soon = window.from(start + window.ahead());
        group.later = window.later(start, at);
        combine_clipped<Row, Op>(task, group, count, first, last, clipped);
        group.total = group.next_total;
    }
#if defined(__SSE2__)
    if (stream)
        _mm_sfence();
#endif
    return all_in_range;
}

template <class Row>
size_t run_row(const Pool &task, size_t begin, size_t end, size_t first, size_t last, bool stream,
               std::byte *scratch) {
    const bool weighted = task.weights != nullptr;
    if (task.combiner == Combiner::max)
        return weighted ? run<Row, MaxWeighted>(task, begin, end, first, last, stream, scratch)
                        : run<Row, Max>(task, begin, end, first, last, stream, scratch);
    return weighted ? run<Row, AddWeighted>(task, begin, end, first, last, stream, scratch)
                    : run<Row, Add>(task, begin, end, first, last, stream, scratch);
}

} // namespace

size_t pool(const Pool &task, size_t begin, size_t end, size_t first, size_t last, bool stream,
            std::byte *scratch) {
    switch (task.rows.format) {
    case RowFormat::float16:
        return run_row<Float16Row>(task, begin, end, first, last, stream, scratch);
    case RowFormat::bfloat16:
        return run_row<Bfloat16Row>(task, begin, end, first, last, stream, scratch);
    case RowFormat::float64:
        return run_row<Float64Row>(task, begin, end, first, last, stream, scratch);
    case RowFormat::int8:
        return run_row<Int8Row>(task, begin, end, first, last, stream, scratch);
    case RowFormat::int4:
        return run_row<Int4Row>(task, begin, end, first, last, stream, scratch);
    case RowFormat::float32:
    case RowFormat::opaque:
        break;
    }
    return run_row<Float32Row>(task, begin, end, first, last, stream, scratch);
}

} // namespace shardwise::SHARDWISE_LEVEL

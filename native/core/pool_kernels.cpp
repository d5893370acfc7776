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

// Rows of a bag are combined a segment at a time, a tile of columns after the other: the tile's sums stay in
// registers while the segment's rows go by.
constexpr size_t segment = 64;
constexpr size_t distance = 64; // rows that are asked for ahead; see gather_kernels.cpp
constexpr size_t ring_size = 256;
static_assert(ring_size >= distance + 2 * segment);
constexpr size_t prefetch_bytes = 1024;

template <int N> struct Constant {
    static constexpr int value = N;
};

// ---- what is done with an element ----

struct Add {
    static constexpr bool weighted = false;
    template <class V, class W> static SHARDWISE_INLINE V apply(V sum, V x, W) { return sum + x; }
};

struct AddWeighted {
    static constexpr bool weighted = true;
    template <class V, class W> static SHARDWISE_INLINE V apply(V sum, V x, W weight) {
        return sum + x * weight;
    }
};

/// NaN stays.
struct Max {
    static constexpr bool weighted = false;
    template <class V, class W> static SHARDWISE_INLINE V apply(V most, V x, W) {
        return (x > most) | (x != x) ? x : most;
    }
};

struct MaxWeighted {
    static constexpr bool weighted = true;
    template <class V, class W> static SHARDWISE_INLINE V apply(V most, V x, W weight) {
        const V product = x * weight;
        return (product > most) | (product != product) ? product : most;
    }
};

template <class Op> constexpr bool is_sum = false;
template <> constexpr bool is_sum<Add> = true;
template <> constexpr bool is_sum<AddWeighted> = true;

SHARDWISE_INLINE float root(float x) {
    return sqrtf(x);
}
SHARDWISE_INLINE double root(double x) {
    return sqrt(x);
}

// ---- a segment of rows ----

template <class Acc> struct Segment {
    const std::byte *rows[segment];
    Acc weights[segment];
    const std::byte *soon[segment]; // rows to ask for meanwhile
    size_t count, later;
};

template <class Row, class Op, int L, int Chunks, bool Ask>
SHARDWISE_INLINE void tile(const Segment<typename Row::Acc> &rows, size_t dim, size_t ahead,
                           typename Row::Acc *acc, size_t column) {
    Vec<typename Row::Acc, L> sums[Chunks];
    for (int k = 0; k < Chunks; ++k)
        sums[k] = load<Vec<typename Row::Acc, L>>(acc + column + static_cast<size_t>(k) * L);
    for (size_t i = 0; i < rows.count; ++i) {
        if (Ask && i < rows.later)
            prefetch<2>(rows.soon[i], ahead);
        const Row row(rows.rows[i], dim);
        for (int k = 0; k < Chunks; ++k)
            sums[k] = Op::apply(sums[k], row.template at<L>(column + static_cast<size_t>(k) * L),
                                Op::weighted ? rows.weights[i] : 0);
    }
    memcpy(acc + column, sums, sizeof sums);
}

/// Combines columns [first, last) of the segment's rows into `acc`.
template <class Row, class Op>
void combine(const Segment<typename Row::Acc> &rows, size_t dim, size_t ahead, typename Row::Acc *acc,
             size_t first, size_t last) {
    constexpr int L = lanes_of<typename Row::Acc>;
    size_t column = first;
    bool ask = true;
    const auto next = [&](auto chunks) {
        constexpr int Chunks = decltype(chunks)::value;
        if (ask)
            tile<Row, Op, L, Chunks, true>(rows, dim, ahead, acc, column);
        else
            tile<Row, Op, L, Chunks, false>(rows, dim, ahead, acc, column);
        ask = false;
        column += Chunks * L;
    };
    while (column + 4 * L <= last)
        next(Constant<4>{});
    if (column + 2 * L <= last)
        next(Constant<2>{});
    if (column + L <= last)
        next(Constant<1>{});
    for (; column + 4 <= last; column += 4) {
        tile<Row, Op, 4, 1, false>(rows, dim, ahead, acc, column);
    }
    for (size_t i = 0; i < rows.count; ++i) {
        if (ask && i < rows.later)
            prefetch<2>(rows.soon[i], ahead);
        const Row row(rows.rows[i], dim);
        for (size_t at = column; at < last; ++at)
            acc[at] = Op::apply(acc[at], row.one(at), Op::weighted ? rows.weights[i] : 0);
    }
}

// ---- bags ----

/// Which ids are no part of their bag.
struct Skip {
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

/// Resolves ids some way ahead of their use.
class Ring {
public:
    Ring(const Pool &task, size_t begin, size_t end)
        : task_(task), known_(begin), stop_(end),
          skips_(task.has_padding || task.skip_negative || task.skip_weightless),
          find_some_(choose_resolve<Skip>(task.rows)), find_all_(choose_resolve<NoSkip>(task.rows)) {}

    /// Resolves the ids before `to`, or before the first that is refused.
    void resolve_to(size_t to) {
        if (to > stop_)
            to = stop_;
        while (known_ < to) {
            const size_t room = ring_size - known_ % ring_size;
            const size_t wanted = to - known_ < room ? to - known_ : room;
            const std::byte **const at = rows_ + known_ % ring_size;
            const size_t found = skips_ ? find_some_(task_.rows, known_, wanted, at, Skip{task_, known_})
                                        : find_all_(task_.rows, known_, wanted, at, NoSkip{});
            known_ += found;
            if (found < wanted)
                to = stop_ = known_;
        }
    }

    size_t known() const { return known_; }
    const std::byte *operator[](size_t i) const { return rows_[i % ring_size]; }

private:
    const Pool &task_;
    size_t known_, stop_;
    bool skips_;
    Resolve<Skip> find_some_;
    Resolve<NoSkip> find_all_;
    const std::byte *rows_[ring_size];
};

/// Rows scaled down to the norm, in `scratch`: in their own format, of quantized ones as float32.
template <class Row>
void clip_segment(const Pool &task, Segment<typename Row::Acc> &rows, std::byte *scratch) {
    const size_t dim = task.rows.dim;
    const size_t bytes = is_quantized<Row> ? dim * sizeof(float) : task.rows.row_bytes;
    for (size_t i = 0; i < rows.count; ++i, scratch += bytes) {
        if constexpr (is_quantized<Row>)
            convert<Row, WriteFloat32>(scratch, rows.rows[i], dim);
        else
            memcpy(scratch, rows.rows[i], bytes);
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
        rows.rows[i] = scratch;
    }
}

template <class Write, class Acc>
void write_as(std::byte *to, const Acc *from, size_t first, size_t last, Acc divisor) {
    constexpr int L = lanes_of<Acc>;
    size_t at = first;
    for (; at + L <= last; at += L)
        Write::template put<L>(to + at * Write::bytes, load<Vec<Acc, L>>(from + at) / divisor);
    for (; at < last; ++at)
        Write::one(to + at * Write::bytes, from[at] / divisor);
}

template <class Acc>
void write_row(const Pool &task, size_t bag, const Acc *acc, size_t first, size_t last, Acc divisor) {
    std::byte *const to = task.out + static_cast<ptrdiff_t>(bag) * task.out_stride;
    switch (task.out_format) {
    case RowFormat::float16:
        return write_as<WriteFloat16>(to, acc, first, last, divisor);
    case RowFormat::bfloat16:
        return write_as<WriteBfloat16>(to, acc, first, last, divisor);
    case RowFormat::float64:
        return write_as<WriteFloat64>(to, acc, first, last, divisor);
    default:
        return write_as<WriteFloat32>(to, acc, first, last, divisor);
    }
}

template <class Row, class Op>
void combine_clipped(const Pool &task, Segment<typename Row::Acc> &rows, size_t ahead, typename Row::Acc *acc,
                     size_t first, size_t last, std::byte *scratch) {
    if (!task.rows.clips())
        return combine<Row, Op>(rows, task.rows.dim, ahead, acc, first, last);
    for (size_t i = 0; i < rows.later; ++i)
        prefetch<2>(rows.soon[i], ahead);
    rows.later = 0;
    clip_segment<Row>(task, rows, scratch);
    if constexpr (is_quantized<Row>)
        combine<Float32Row, Op>(rows, task.rows.dim, ahead, acc, first, last);
    else
        combine<Row, Op>(rows, task.rows.dim, ahead, acc, first, last);
}

template <class Row, class Op>
size_t run(const Pool &task, size_t begin, size_t end, size_t first, size_t last, std::byte *scratch) {
    using Acc = typename Row::Acc;
    constexpr bool is_max = !is_sum<Op>;
    const Acc *const weights = static_cast<const Acc *>(task.weights);
    Acc *const acc = reinterpret_cast<Acc *>(scratch);
    std::byte *const clipped = scratch + ((task.rows.dim * sizeof(Acc) + 63) & ~size_t{63});
    const size_t ahead = task.rows.row_bytes < prefetch_bytes ? task.rows.row_bytes : prefetch_bytes;
    // -0.0 is the number to which any x can be added and gives x, the other zero among them.
    const Acc nothing = is_max ? -static_cast<Acc>(HUGE_VAL) : static_cast<Acc>(-0.0);
    const size_t stop = static_cast<size_t>(task.offsets[end]);
    size_t at = static_cast<size_t>(task.offsets[begin]);
    Ring ring(task, at, stop);
    ring.resolve_to(at + distance);
    for (size_t i = at; i < ring.known(); ++i)
        prefetch<2>(ring[i], ahead);
    Segment<Acc> rows;
    for (size_t bag = begin; bag < end; ++bag) {
        const size_t bag_end = static_cast<size_t>(task.offsets[bag + 1]);
        for (size_t column = first; column < last; ++column)
            acc[column] = nothing;
        size_t members = 0;
        Acc total = 0, squares = 0;
        while (at < bag_end) {
            const size_t next = at + segment < bag_end ? at + segment : bag_end;
            const size_t wanted = next + distance < stop ? next + distance : stop;
            ring.resolve_to(wanted);
            if (ring.known() < next)
                return ring.known(); // the id that was refused
            rows.count = rows.later = 0;
            for (; at < next; ++at) {
                if (at + distance < ring.known())
                    rows.soon[rows.later++] = ring[at + distance];
                const std::byte *const row = ring[at];
                if (row == nullptr)
                    continue;
                if (weights != nullptr) {
                    rows.weights[rows.count] = weights[at];
                    total += weights[at];
                    squares += weights[at] * weights[at];
                }
                rows.rows[rows.count++] = row;
            }
            members += rows.count;
            combine_clipped<Row, Op>(task, rows, ahead, acc, first, last, clipped);
            for (size_t i = rows.count; i < rows.later; ++i) // of members that were left out
                prefetch<2>(rows.soon[i], ahead);
        }
        if (members == 0) {
            for (size_t column = first; column < last; ++column)
                acc[column] = task.has_default ? static_cast<Acc>(-0.0) : 0;
            if (task.has_default) {
                Gather one = task.rows;
                one.ids = &task.default_row;
                one.id_type = IdType::u64;
                choose_resolve<NoSkip>(one)(one, 0, 1, rows.rows, NoSkip{});
                rows.count = 1;
                rows.later = 0;
                combine_clipped<Row, Add>(task, rows, ahead, acc, first, last, clipped);
            }
            write_row<Acc>(task, bag, acc, first, last, 1);
            continue;
        }
        Acc divisor = 1;
        if (task.combiner == Combiner::mean)
            divisor = weights == nullptr ? static_cast<Acc>(members) : total;
        else if (task.combiner == Combiner::sqrtn)
            divisor = root(weights == nullptr ? static_cast<Acc>(members) : squares);
        if (divisor == 0) { // TensorFlow's div_no_nan
            for (size_t column = first; column < last; ++column)
                acc[column] = 0;
            divisor = 1;
        }
        write_row<Acc>(task, bag, acc, first, last, divisor);
    }
    return all_in_range;
}

template <class Row>
size_t run_row(const Pool &task, size_t begin, size_t end, size_t first, size_t last, std::byte *scratch) {
    const bool weighted = task.weights != nullptr;
    if (task.combiner == Combiner::max)
        return weighted ? run<Row, MaxWeighted>(task, begin, end, first, last, scratch)
                        : run<Row, Max>(task, begin, end, first, last, scratch);
    return weighted ? run<Row, AddWeighted>(task, begin, end, first, last, scratch)
                    : run<Row, Add>(task, begin, end, first, last, scratch);
}

} // namespace

size_t pool(const Pool &task, size_t begin, size_t end, size_t first, size_t last, std::byte *scratch) {
    switch (task.rows.format) {
    case RowFormat::float16:
        return run_row<Float16Row>(task, begin, end, first, last, scratch);
    case RowFormat::bfloat16:
        return run_row<Bfloat16Row>(task, begin, end, first, last, scratch);
    case RowFormat::float64:
        return run_row<Float64Row>(task, begin, end, first, last, scratch);
    case RowFormat::int8:
        return run_row<Int8Row>(task, begin, end, first, last, scratch);
    case RowFormat::int4:
        return run_row<Int4Row>(task, begin, end, first, last, scratch);
    case RowFormat::float32:
    case RowFormat::opaque:
        break;
    }
    return run_row<Float32Row>(task, begin, end, first, last, scratch);
}

} // namespace shardwise::SHARDWISE_LEVEL

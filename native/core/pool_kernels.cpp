// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/clip.h"
#include "core/pool.h"
#include "core/resolve.h"

#include <math.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// Rows of a bag are combined a segment at a time, a tile of columns after the other: the tile's sums stay in
// registers while the segment's rows go by.
constexpr size_t segment = 64;
constexpr size_t distance = 64; // rows that are asked for ahead; see gather_kernels.cpp
constexpr size_t ring_size = 256;
static_assert(ring_size >= distance + 2 * segment);
constexpr size_t prefetch_bytes = 1024;

template <class T, int L> struct VecOf {
    typedef T type __attribute__((vector_size(L * sizeof(T))));
};
template <class T, int L> using Vec = typename VecOf<T, L>::type;

template <int N> struct Constant {
    static constexpr int value = N;
};

template <class V> SHARDWISE_INLINE V load(const void *from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

// ---- rows: `load<L>(column)` gives L elements as numbers to add up ----

struct Float32Row {
    using Acc = float;
    const std::byte *data;
    SHARDWISE_INLINE Float32Row(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        return load<Vec<float, L>>(data + 4 * column);
    }
    SHARDWISE_INLINE float one(size_t column) const { return load<float>(data + 4 * column); }
};

struct Float64Row {
    using Acc = double;
    const std::byte *data;
    SHARDWISE_INLINE Float64Row(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<double, L> at(size_t column) const {
        return load<Vec<double, L>>(data + 8 * column);
    }
    SHARDWISE_INLINE double one(size_t column) const { return load<double>(data + 8 * column); }
};

struct Bfloat16Row {
    using Acc = float;
    const std::byte *data;
    SHARDWISE_INLINE Bfloat16Row(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        const auto bits = load<Vec<uint16_t, L>>(data + 2 * column);
        return load<Vec<float, L>>(
            &static_cast<const Vec<uint32_t, L> &>(__builtin_convertvector(bits, Vec<uint32_t, L>) << 16));
    }
    SHARDWISE_INLINE float one(size_t column) const {
        return from_bits(static_cast<uint32_t>(load<uint16_t>(data + 2 * column)) << 16);
    }
};

/// Exact. The exponent's bias is changed by a multiplication, which subnormal numbers come through, too.
template <int L> SHARDWISE_INLINE Vec<float, L> widen(Vec<uint16_t, L> halves) {
    const Vec<uint32_t, L> bits = __builtin_convertvector(halves, Vec<uint32_t, L>);
    const Vec<uint32_t, L> magnitude = (bits & 0x7fffU) << 13;
    Vec<float, L> value;
    memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112F;
    Vec<uint32_t, L> wide;
    memcpy(&wide, &value, sizeof wide);
    const Vec<uint32_t, L> special = static_cast<Vec<uint32_t, L>>(magnitude >= 0x0f800000U);
    wide |= (special & 0x7f800000U) | ((bits & 0x8000U) << 16);
    memcpy(&value, &wide, sizeof value);
    return value;
}

struct Float16Row {
    using Acc = float;
    const std::byte *data;
    SHARDWISE_INLINE Float16Row(const std::byte *row, size_t) : data(row) {}
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        const std::byte *const from = data + 2 * column;
#if defined(__AVX512F__)
        // Masked, for the plain form makes compilers warn of what it leaves undefined.
        if constexpr (L == 16)
            return reinterpret_cast<Vec<float, L>>(
                _mm512_maskz_cvtph_ps(static_cast<__mmask16>(0xffff), load<__m256i>(from)));
#elif defined(__F16C__)
        if constexpr (L == 16) {
            const __m256 halves[2] = {_mm256_cvtph_ps(load<__m128i>(from)),
                                      _mm256_cvtph_ps(load<__m128i>(from + 16))};
            return load<Vec<float, L>>(halves);
        }
#endif
        return widen<L>(load<Vec<uint16_t, L>>(from));
    }
    SHARDWISE_INLINE float one(size_t column) const {
        Float16 half;
        memcpy(&half, data + 2 * column, sizeof half);
        return static_cast<float>(half.load());
    }
};

struct Int8Row {
    using Acc = float;
    const std::byte *data;
    float scale, bias;
    SHARDWISE_INLINE Int8Row(const std::byte *row, size_t dim)
        : data(row), scale(load<float>(row + dim)), bias(load<float>(row + dim + 4)) {}
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        const auto steps = load<Vec<uint8_t, L>>(data + column);
        return __builtin_convertvector(__builtin_convertvector(steps, Vec<int32_t, L>), Vec<float, L>) *
                   scale +
               bias;
    }
    SHARDWISE_INLINE float one(size_t column) const {
        return static_cast<float>(static_cast<uint8_t>(data[column])) * scale + bias;
    }
};

struct Int4Row {
    using Acc = float;
    const std::byte *data;
    float scale, bias;
    SHARDWISE_INLINE Int4Row(const std::byte *row, size_t dim) : data(row) {
        const auto both = load<Vec<uint16_t, 2>>(row + (dim + 1) / 2);
        const Vec<uint16_t, 4> four = {both[0], both[1], 0, 0};
        const Vec<float, 4> wide = widen<4>(four);
        scale = wide[0];
        bias = wide[1];
    }
    template <int L> SHARDWISE_INLINE Vec<float, L> at(size_t column) const {
        const auto pairs = load<Vec<uint8_t, L / 2>>(data + column / 2);
        // Each byte twice, side by side, then its lower half and its upper half.
        const Vec<uint16_t, L / 2> wide = __builtin_convertvector(pairs, Vec<uint16_t, L / 2>);
        const Vec<uint16_t, L / 2> spread = (wide & 15) | ((wide >> 4) << 8);
        Vec<uint8_t, L> steps;
        memcpy(&steps, &spread, sizeof steps);
        return __builtin_convertvector(__builtin_convertvector(steps, Vec<int32_t, L>), Vec<float, L>) *
                   scale +
               bias;
    }
    SHARDWISE_INLINE float one(size_t column) const {
        const unsigned pair = static_cast<unsigned>(data[column / 2]);
        return static_cast<float>((pair >> (column % 2 * 4)) & 15U) * scale + bias;
    }
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
    constexpr int L = 64 / sizeof(typename Row::Acc);
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
        if (task.format == RowFormat::float64)
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
    constexpr bool quantized = sizeof(Row) > sizeof(void *);
    const size_t bytes = quantized ? task.dim * 4 : task.rows.row_bytes;
    for (size_t i = 0; i < rows.count; ++i, scratch += bytes) {
        if constexpr (quantized) {
            const Row row(rows.rows[i], task.dim);
            for (size_t at = 0; at < task.dim; ++at) {
                const float value = row.one(at);
                memcpy(scratch + at * 4, &value, sizeof value);
            }
        } else {
            memcpy(scratch, rows.rows[i], bytes);
        }
        switch (task.format) {
        case RowFormat::float16:
            clip_row<Float16>(scratch, task.dim, task.rows.max_norm);
            break;
        case RowFormat::bfloat16:
            clip_row<Bfloat16>(scratch, task.dim, task.rows.max_norm);
            break;
        case RowFormat::float64:
            clip_row<Plain<double>>(scratch, task.dim, task.rows.max_norm);
            break;
        case RowFormat::float32:
        case RowFormat::int8:
        case RowFormat::int4:
            clip_row<Plain<float>>(scratch, task.dim, task.rows.max_norm);
            break;
        }
        rows.rows[i] = scratch;
    }
}

template <class Out, class Acc>
void write_as(std::byte *to, const Acc *from, size_t first, size_t last, Acc divisor) {
    for (size_t at = first; at < last; ++at) {
        Out value;
        value.store(static_cast<double>(from[at] / divisor));
        memcpy(to + at * sizeof value, &value, sizeof value);
    }
}

template <class Acc>
void write_row(const Pool &task, size_t bag, const Acc *acc, size_t first, size_t last, Acc divisor) {
    std::byte *const to = task.out + static_cast<ptrdiff_t>(bag) * task.out_stride;
    switch (task.out_format) {
    case RowFormat::float16:
        return write_as<Float16>(to, acc, first, last, divisor);
    case RowFormat::bfloat16:
        return write_as<Bfloat16>(to, acc, first, last, divisor);
    case RowFormat::float64:
        return write_as<Plain<double>>(to, acc, first, last, divisor);
    default:
        return write_as<Plain<float>>(to, acc, first, last, divisor);
    }
}

template <class Row, class Op>
void combine_clipped(const Pool &task, Segment<typename Row::Acc> &rows, size_t ahead, typename Row::Acc *acc,
                     size_t first, size_t last, std::byte *scratch) {
    if (task.rows.element == Element::opaque)
        return combine<Row, Op>(rows, task.dim, ahead, acc, first, last);
    for (size_t i = 0; i < rows.later; ++i)
        prefetch<2>(rows.soon[i], ahead);
    rows.later = 0;
    clip_segment<Row>(task, rows, scratch);
    if constexpr (sizeof(Row) > sizeof(void *))
        combine<Float32Row, Op>(rows, task.dim, ahead, acc, first, last);
    else
        combine<Row, Op>(rows, task.dim, ahead, acc, first, last);
}

template <class Row, class Op>
size_t run(const Pool &task, size_t begin, size_t end, size_t first, size_t last, std::byte *scratch) {
    using Acc = typename Row::Acc;
    constexpr bool is_max = !is_sum<Op>;
    const Acc *const weights = static_cast<const Acc *>(task.weights);
    Acc *const acc = reinterpret_cast<Acc *>(scratch);
    std::byte *const clipped = scratch + ((task.dim * sizeof(Acc) + 63) & ~size_t{63});
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
    switch (task.format) {
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
        break;
    }
    return run_row<Float32Row>(task, begin, end, first, last, scratch);
}

} // namespace shardwise::SHARDWISE_LEVEL

// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/resolve.h"
#include "core/update.h"
#include "core/update_rules.h"
#include "core/vectors.h"

namespace shardwise::SHARDWISE_LEVEL {
namespace {

constexpr size_t rows_ahead = 24; // rows and states that are asked for before they are changed
constexpr size_t gradients_ahead = 8;

SHARDWISE_INLINE void ask(const std::byte *at, size_t bytes) {
    prefetch<3>(at, ahead_of(bytes, reinterpret_cast<uintptr_t>(at)));
}

SHARDWISE_INLINE Place place_of(const PartitionView &partition, uint64_t id) {
    switch (partition.strategy) {
    case Strategy::mod:
        return locate<Strategy::mod>(partition, id);
    case Strategy::div:
        return locate<Strategy::div>(partition, id);
    case Strategy::ranges:
        return locate<Strategy::ranges>(partition, id);
    case Strategy::whole:
        break;
    }
    return locate<Strategy::whole>(partition, id);
}

SHARDWISE_INLINE std::byte *row_at(const Shard *shards, const Place &place) {
    const Shard &shard = shards[place.shard];
    return const_cast<std::byte *>(shard.data) + static_cast<ptrdiff_t>(place.row) * shard.stride;
}

// ---- the sum of a row's gradients ----

template <class T> struct Source {
    const T *gradients;
    size_t dim;
    const int64_t *bags;
    const T *weights;
    const uint32_t *winners;
    const int64_t *offsets;

    SHARDWISE_INLINE size_t number_of(uint64_t payload) const {
        return bags == nullptr ? payload : static_cast<size_t>(bags[payload]);
    }
    SHARDWISE_INLINE const T *row(uint64_t payload) const { return gradients + number_of(payload) * dim; }

    /// What an entry adds to the columns of a chunk.
    template <bool Max, bool Full>
    SHARDWISE_INLINE Chunk<T> part(uint64_t payload, size_t column, size_t n) const {
        const size_t number = number_of(payload);
        Chunk<T> value = read<Chunk<T>, Full>(gradients + number * dim + column, n);
        if constexpr (Max) {
            const auto mine = static_cast<uint32_t>(payload - static_cast<uint64_t>(offsets[number]));
            const uint32_t *const winner = winners + number * dim + column;
            for (size_t i = 0; i < n; ++i)
                value[static_cast<int>(i)] = winner[i] == mine ? value[static_cast<int>(i)] : 0;
        }
        return weights == nullptr ? value : value * weights[payload];
    }
};

template <class Entry> SHARDWISE_INLINE uint64_t row_of(Entry entry, unsigned bits) {
    return static_cast<uint64_t>(entry >> bits);
}

template <class Entry> SHARDWISE_INLINE uint64_t payload_of(Entry entry, unsigned bits) {
    return static_cast<uint64_t>(entry & ((static_cast<Entry>(1) << bits) - 1));
}

/// Sums the entries [begin, end), which are followed by others up to `last`: `Count` chunks from a column on,
/// kept in registers while the gradients go by.
template <class T, class Entry, bool Max, bool Full, int Count>
SHARDWISE_INLINE void add_tile(const Source<T> &source, const Entry *entries, size_t begin, size_t end,
                               size_t last, unsigned bits, size_t column, size_t n, T *sum) {
    constexpr size_t step = lanes<T>;
    Chunk<T> totals[Count];
    const auto first = payload_of(entries[begin], bits);
    for (size_t k = 0; k < Count; ++k)
        totals[k] = source.template part<Max, Full>(first, column + k * step, n);
    for (size_t i = begin + 1; i < end; ++i) {
        if (column == 0 && i + gradients_ahead < last)
            ask(reinterpret_cast<const std::byte *>(
                    source.row(payload_of(entries[i + gradients_ahead], bits))),
                source.dim * sizeof(T));
        const auto payload = payload_of(entries[i], bits);
        for (size_t k = 0; k < Count; ++k)
            totals[k] += source.template part<Max, Full>(payload, column + k * step, n);
    }
    for (size_t k = 0; k < Count; ++k)
        write<Full>(sum + column + k * step, n, totals[k]);
}

/// Sums the entries [begin, end) into `sum`, in their order.
template <class T, class Entry, bool Max>
void add_up(const Source<T> &source, const Entry *entries, size_t begin, size_t end, size_t last,
            unsigned bits, T *sum) {
    constexpr size_t step = lanes<T>;
    const size_t dim = source.dim;
    size_t column = 0;
    for (; column + 4 * step <= dim; column += 4 * step)
        add_tile<T, Entry, Max, true, 4>(source, entries, begin, end, last, bits, column, step, sum);
    for (; column + step <= dim; column += step)
        add_tile<T, Entry, Max, true, 1>(source, entries, begin, end, last, bits, column, step, sum);
    if (column < dim)
        add_tile<T, Entry, Max, false, 1>(source, entries, begin, end, last, bits, column, dim - column, sum);
}

/// Scales a row's gradient down to the norm.
template <class T> void clip(const T *gradient, T *out, size_t dim, double norm) {
    Chunk<double> squares = {};
    double largest = 0;
    for (size_t i = 0; i < dim; ++i) {
        const double size = fabs(static_cast<double>(gradient[i]));
        largest = size > largest ? size : largest;
    }
    // Scaled, so that the squares neither overflow nor vanish.
    const double scale = largest > 0x1p500 ? 0x1p-600 : largest < 0x1p-400 ? 0x1p600 : 1;
    for (size_t i = 0; i < dim; ++i) {
        const double x = static_cast<double>(gradient[i]) * scale;
        squares[static_cast<int>(i % 8)] += x * x;
    }
    const double found = sqrt(sum_of<double>(squares)) / scale;
    const double factor = found > norm ? norm / found : 1;
    for (size_t i = 0; i < dim; ++i)
        out[i] = static_cast<T>(static_cast<double>(gradient[i]) * factor);
}

SHARDWISE_INLINE uint64_t mix(uint64_t x) { // the finalizer of SplitMix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

/// A row that is to be changed, found ahead of its turn.
struct Coming {
    uint64_t id;
    size_t begin, end;
    std::byte *row;
    std::byte *state[most_states];
};

template <class Format, class Entry, bool Max>
void apply(const SortedUpdate &work, size_t begin, size_t end, std::byte *scratch) {
    using T = typename Format::Number;
    const Update &task = *work.task;
    const auto *const entries = static_cast<const Entry *>(work.entries);
    const unsigned bits = work.payload_bits;
    const Source<T> source{reinterpret_cast<const T *>(work.gradients), task.rows.dim, work.bags,
                           static_cast<const T *>(work.weights),        work.winners,  task.offsets};
    const Constants<T> constants(task.rule, task.rows.dim);
    const Apply<T> rule = choose_rule<Format>(task.rule.kind);
    const uint64_t noise_key =
        mix(mix(task.seed) + 0x9e3779b97f4a7c15U * static_cast<uint64_t>(task.rule.step));
    const bool clips = task.rule.clip_norm < HUGE_VAL;
    const bool single = !Max && work.weights == nullptr; // one gradient is its own sum
    T *const sum = reinterpret_cast<T *>(scratch);

    constexpr size_t ring = 32;
    Coming coming[ring];
    size_t found = 0, at = begin;
    const auto find = [&]() __attribute__((always_inline)) {
        Coming &next = coming[found++ % ring];
        next.id = row_of(entries[at], bits);
        next.begin = at;
        while (++at < end && row_of(entries[at], bits) == next.id) {
        }
        next.end = at;
        const Place place = place_of(task.rows.partition, next.id);
        next.row = row_at(task.rows.shards, place);
        ask(next.row, task.rows.row_bytes);
        for (size_t k = 0; k < most_states; ++k) {
            next.state[k] = nullptr;
            if (task.state[k].shards != nullptr) {
                next.state[k] = row_at(task.state[k].shards, place);
                ask(next.state[k], task.state[k].row_bytes);
            }
        }
    };
    while (at < end && found < rows_ahead)
        find();
    for (size_t done = 0; done < found; ++done) {
        if (at < end)
            find();
        const Coming &now = coming[done % ring];
        if (now.begin + gradients_ahead < end)
            ask(reinterpret_cast<const std::byte *>(
                    source.row(payload_of(entries[now.begin + gradients_ahead], bits))),
                task.rows.dim * sizeof(T));
        Visit<T> visit;
        visit.row = now.row;
        for (size_t k = 0; k < most_states; ++k)
            visit.state[k] = now.state[k];
        visit.gradient = sum;
        if (single && now.end == now.begin + 1)
            visit.gradient = source.row(payload_of(entries[now.begin], bits));
        else
            add_up<T, Entry, Max>(source, entries, now.begin, now.end, end, bits, sum);
        if (clips) {
            clip(visit.gradient, sum, task.rows.dim, task.rule.clip_norm);
            visit.gradient = sum;
        }
        if (task.stochastic) {
            const uint64_t key = mix(noise_key ^ now.id);
            visit.noise = {true, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
        }
        rule(constants, visit);
    }
}

template <class Format>
void apply_format(const SortedUpdate &work, size_t begin, size_t end, std::byte *scratch) {
    __extension__ using Wide = unsigned __int128;
    const bool max = work.winners != nullptr;
    if (work.wide)
        return max ? apply<Format, Wide, true>(work, begin, end, scratch)
                   : apply<Format, Wide, false>(work, begin, end, scratch);
    return max ? apply<Format, uint64_t, true>(work, begin, end, scratch)
               : apply<Format, uint64_t, false>(work, begin, end, scratch);
}

void apply_all(const SortedUpdate &work, size_t begin, size_t end, std::byte *scratch) {
    switch (work.task->rows.format) {
    case RowFormat::float16:
        return apply_format<Half>(work, begin, end, scratch);
    case RowFormat::bfloat16:
        return apply_format<BFloat16>(work, begin, end, scratch);
    case RowFormat::float64:
        return apply_format<Float64>(work, begin, end, scratch);
    default:
        return apply_format<Float32>(work, begin, end, scratch);
    }
}

// ---- gradients, before they are sorted ----

template <class T> size_t find_nonfinite_of(const T *numbers, size_t begin, size_t end) {
    constexpr size_t step = 8 * lanes<T>;
    size_t i = begin;
    for (; i + step <= end; i += step) {
        Chunk<T> wrong = {};
        for (size_t k = 0; k < 8; ++k) {
            const auto x = read<Chunk<T>, true>(numbers + i + k * lanes<T>, 0);
            wrong += x * 0; // 0, and of an infinity or a NaN, NaN
        }
        const T total = sum_of<T>(wrong);
        if (total != total)
            break;
    }
    for (; i < end; ++i)
        if (!(fabs(static_cast<double>(numbers[i])) < HUGE_VAL))
            return i;
    return all_in_range;
}

size_t find_nonfinite(const Update &task, size_t begin, size_t end) {
    if (task.rows.format == RowFormat::float64)
        return find_nonfinite_of(reinterpret_cast<const double *>(task.gradients), begin, end);
    return find_nonfinite_of(reinterpret_cast<const float *>(task.gradients), begin, end);
}

template <class T>
void divide_of(const Update &task, const double *divisors, std::byte *out, size_t begin, size_t end) {
    for (size_t bag = begin; bag < end; ++bag) {
        const T *const from = reinterpret_cast<const T *>(task.gradients) + bag * task.rows.dim;
        T *const to = reinterpret_cast<T *>(out) + bag * task.rows.dim;
        const T divisor = static_cast<T>(divisors[bag]);
        for_chunks<T>(task.rows.dim, [&](auto full, size_t column, size_t n) {
            constexpr bool Full = decltype(full)::value;
            const Chunk<T> value = read<Chunk<T>, Full>(from + column, n);
            write<Full>(to + column, n, divisor == 0 ? Chunk<T>{} : value / divisor);
        });
    }
}

void divide(const Update &task, const double *divisors, std::byte *out, size_t begin, size_t end) {
    if (task.rows.format == RowFormat::float64)
        divide_of<double>(task, divisors, out, begin, end);
    else
        divide_of<float>(task, divisors, out, begin, end);
}

template <class Format>
void find_winners_of(const Update &task, const uint64_t *members, uint32_t *winners, size_t begin,
                     size_t end) {
    using T = typename Format::Number;
    const auto *const weights = static_cast<const T *>(task.weights);
    for (size_t bag = begin; bag < end; ++bag) {
        const auto first = static_cast<size_t>(task.offsets[bag]);
        const auto last = static_cast<size_t>(task.offsets[bag + 1]);
        for_chunks<T>(task.rows.dim, [&](auto full, size_t column, size_t n) {
            constexpr bool Full = decltype(full)::value;
            Chunk<T> most = Chunk<T>{} - static_cast<T>(HUGE_VAL);
            uint32_t *const winner = winners + bag * task.rows.dim + column;
            for (size_t i = 0; i < n; ++i)
                winner[i] = UINT32_MAX;
            for (size_t at = first; at < last; ++at) {
                if (members[at] > task.rows.partition.num_rows)
                    continue;
                Chunk<T> value = {};
                if (members[at] < task.rows.partition.num_rows) {
                    const std::byte *const row =
                        row_at(task.rows.shards, place_of(task.rows.partition, members[at]));
                    value = Format::template load<Full>(row + column * Format::bytes, n);
                }
                if (weights != nullptr)
                    value *= weights[at];
                for (size_t i = 0; i < n; ++i) { // as the pool does it: NaN is larger than all
                    const auto k = static_cast<int>(i);
                    if (value[k] > most[k] || value[k] != value[k] || winner[i] == UINT32_MAX) {
                        most[k] = value[k];
                        winner[i] = static_cast<uint32_t>(at - first);
                    }
                }
            }
        });
    }
}

void find_winners(const Update &task, const uint64_t *members, uint32_t *winners, size_t begin, size_t end) {
    switch (task.rows.format) {
    case RowFormat::float16:
        return find_winners_of<Half>(task, members, winners, begin, end);
    case RowFormat::bfloat16:
        return find_winners_of<BFloat16>(task, members, winners, begin, end);
    case RowFormat::float64:
        return find_winners_of<Float64>(task, members, winners, begin, end);
    default:
        return find_winners_of<Float32>(task, members, winners, begin, end);
    }
}

} // namespace

extern const UpdateKernels update_kernels;
const UpdateKernels update_kernels = {apply_all, find_nonfinite, divide, find_winners};

} // namespace shardwise::SHARDWISE_LEVEL

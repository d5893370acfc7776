// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/resolve.h"
#include "core/update.h"
#include "core/update_rules.h"
#include "core/vectors.h"

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// Rows are changed in blocks: what is done alike for all rows of a block waits for no other and has no branch
// that depends on how often a row comes, and those of blocks to come are found and asked for meanwhile.
constexpr size_t blocks_ahead = 3;
constexpr size_t gradients_ahead = 8;

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

template <class Entry> SHARDWISE_INLINE uint64_t row_of(Entry entry, unsigned bits) {
    return static_cast<uint64_t>(entry >> bits);
}

template <class Entry> SHARDWISE_INLINE uint64_t payload_of(Entry entry, unsigned bits) {
    return static_cast<uint64_t>(entry & ((static_cast<Entry>(1) << bits) - 1));
}

/// What an entry says: the number of a gradient that is added as it is, or a position, which has a bag and
/// perhaps a weight, or of which the columns are added where it is its bag's largest.
enum class Adds : uint8_t { gradient, weighted, largest };

template <class T, Adds Kind> struct Source {
    const T *gradients;
    size_t dim;
    const int64_t *bags;
    const T *weights;
    const uint32_t *winners;
    const int64_t *offsets;
    Lines lines; // of a gradient

    SHARDWISE_INLINE size_t number_of(uint64_t payload) const {
        if constexpr (Kind == Adds::gradient)
            return payload;
        return static_cast<size_t>(bags[payload]);
    }
    SHARDWISE_INLINE const T *row(uint64_t payload) const { return gradients + number_of(payload) * dim; }
    template <class Entry> SHARDWISE_INLINE void ask(Entry entry, unsigned bits) const {
        lines.ask(reinterpret_cast<const std::byte *>(row(payload_of(entry, bits))));
    }

    /// What an entry adds to columns, a vector of them.
    template <class V, bool Full> SHARDWISE_INLINE V part(uint64_t payload, size_t column, size_t n) const {
        const size_t number = number_of(payload);
        V value = read<V, Full>(gradients + number * dim + column, n);
        if constexpr (Kind == Adds::gradient)
            return value;
        if constexpr (Kind == Adds::largest) {
            const auto mine = static_cast<uint32_t>(payload - static_cast<uint64_t>(offsets[number]));
            const uint32_t *const winner = winners + number * dim + column;
            for (size_t i = 0; i < n; ++i)
                value[static_cast<int>(i)] = winner[i] == mine ? value[static_cast<int>(i)] : 0;
        }
        return weights == nullptr ? value : value * weights[payload];
    }
};

/// Sums the entries [begin, end) row by row, which are followed by others up to `last`: `Count` vectors from
/// a column on, kept in registers while the gradients go by. Each sum is written as often as it grows: that
/// is cheaper than to guess where a row ends.
template <bool Full, int Count, class T, Adds Kind, class Entry>
SHARDWISE_INLINE void add_tile(const Source<T, Kind> &source, const Entry *entries, size_t begin, size_t end,
                               size_t last, unsigned bits, size_t column, size_t n, T *sums) {
    using V = Vec<T, own_lanes<T>>;
    constexpr size_t step = own_lanes<T>;
    V totals[Count] = {};
    uint64_t before = ~row_of(entries[begin], bits); // of no row
    T *sum = sums + column - source.dim;
    for (size_t i = begin; i < end; ++i) {
        if (column == 0 && i + gradients_ahead < last)
            source.ask(entries[i + gradients_ahead], bits);
        const uint64_t row = row_of(entries[i], bits);
        const auto payload = payload_of(entries[i], bits);
        const bool starts = row != before;
        before = row;
        sum += starts ? source.dim : 0;
        const auto fresh = (V{} != V{}) - starts; // of all numbers or none
        for (size_t k = 0; k < Count; ++k) {
            const V part = source.template part<V, Full>(payload, column + k * step, n);
            totals[k] = fresh ? part : totals[k] + part;
            write<Full>(sum + k * step, n, totals[k]);
        }
    }
}

/// Sums the entries [begin, end) into a row of `sums` for each of their rows, in their order.
template <class T, Adds Kind, class Entry>
void add_up(const Source<T, Kind> &source, const Entry *entries, size_t begin, size_t end, size_t last,
            unsigned bits, T *sums) {
    constexpr size_t step = own_lanes<T>;
    constexpr int most = register_bytes == 64 ? 4 : 8; // 64 float32 where registers hold them
    const size_t dim = source.dim;
    size_t column = 0;
    for (; column + most * step <= dim; column += most * step)
        add_tile<true, most>(source, entries, begin, end, last, bits, column, step, sums);
    for (; column + step <= dim; column += step)
        add_tile<true, 1>(source, entries, begin, end, last, bits, column, step, sums);
    if (column < dim)
        add_tile<false, 1>(source, entries, begin, end, last, bits, column, dim - column, sums);
}

/// Scales a row's gradient down to the norm.
template <class T> void clip(T *gradient, size_t dim, double norm) {
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
        gradient[i] = static_cast<T>(static_cast<double>(gradient[i]) * factor);
}

SHARDWISE_INLINE uint64_t mix(uint64_t x) { // the finalizer of SplitMix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

template <class Format, class Entry, Adds Kind>
void apply(const SortedUpdate &work, size_t begin, size_t end, std::byte *scratch) {
    using T = typename Format::Number;
    const Update &task = *work.task;
    const size_t dim = task.rows.dim;
    const auto *const entries = static_cast<const Entry *>(work.entries);
    const unsigned bits = work.payload_bits;
    const Source<T, Kind> source{
        reinterpret_cast<const T *>(work.gradients),
        dim,
        work.bags,
        static_cast<const T *>(work.weights),
        work.winners,
        task.offsets,
        {dim * sizeof(T), reinterpret_cast<uintptr_t>(work.gradients) | dim * sizeof(T)}};
    const Constants<T> constants(task.rule, dim);
    const Apply<T> rule = choose_rule<Format>(task.rule.kind);
    const uint64_t noise_key =
        mix(mix(task.seed) + 0x9e3779b97f4a7c15U * static_cast<uint64_t>(task.rule.step));
    const bool clips = task.rule.clip_norm < HUGE_VAL;
    T *const sums = reinterpret_cast<T *>(scratch);
    const size_t most = update_block(dim);

    Coming<T> coming{nullptr, 0, {task.rows.row_bytes, task.rows.shards}, {}, 0};
    for (const State &state : task.state)
        if (state.shards != nullptr)
            coming.of_state[coming.num_states++] = {state.row_bytes, state.shards};
    struct Block {
        size_t begin, end; // of its entries
        size_t count;      // of its rows
        Visit<T> rows[most_update_block];
    };
    constexpr size_t ring = blocks_ahead + 1;
    Block blocks[ring];
    size_t at = begin;
    const auto find = [&](Block &block) __attribute__((always_inline)) {
        uint64_t ids[most_update_block + 1];
        size_t count = 0;
        uint64_t before = at < end ? ~row_of(entries[at], bits) : 0;
        for (block.begin = at; at < end; ++at) {
            const uint64_t id = row_of(entries[at], bits);
            ids[count] = id;
            count += id != before;
            if (count > most)
                break;
            before = id;
        }
        block.end = at;
        block.count = count < most ? count : most;
        for (size_t k = 0; k < block.count; ++k) {
            Visit<T> &visit = block.rows[k];
            const Place place = place_of(task.rows.partition, ids[k]);
            visit.row = row_at(task.rows.shards, place);
            for (size_t slot = 0; slot < coming.num_states; ++slot)
                visit.state[slot] = row_at(task.state[slot].shards, place);
            if (task.stochastic) {
                const uint64_t key = mix(noise_key ^ ids[k]);
                visit.noise = {true, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
            }
        }
    };
    for (size_t k = 0; k < blocks_ahead; ++k) {
        find(blocks[k]);
        coming.rows = blocks[k].rows;
        coming.count = blocks[k].count;
        for (size_t r = 0; r < coming.count; ++r)
            coming.ask(r);
    }
    for (size_t done = 0;; ++done) {
        Block &now = blocks[done % ring];
        if (now.count == 0)
            break;
        Block &next = blocks[(done + blocks_ahead) % ring];
        find(next);
        if (Kind == Adds::gradient && !clips && now.end - now.begin == now.count) {
            for (size_t k = 0; k < now.count; ++k) { // one gradient is its own sum
                now.rows[k].gradient = source.row(payload_of(entries[now.begin + k], bits));
                if (now.begin + k + gradients_ahead < end)
                    source.ask(entries[now.begin + k + gradients_ahead], bits);
            }
        } else {
            for (size_t k = 0; k < now.count; ++k)
                now.rows[k].gradient = sums + k * dim;
            add_up(source, entries, now.begin, now.end, end, bits, sums);
            if (clips)
                for (size_t k = 0; k < now.count; ++k)
                    clip(sums + k * dim, dim, task.rule.clip_norm);
        }
        coming.rows = next.rows;
        coming.count = next.count;
        rule(constants, now.rows, now.count, coming);
    }
}

template <class Format>
void apply_format(const SortedUpdate &work, size_t begin, size_t end, std::byte *scratch) {
    __extension__ using Wide = unsigned __int128;
    const auto with_entries = [&](auto zero) {
        using Entry = decltype(zero);
        if (work.winners != nullptr)
            return apply<Format, Entry, Adds::largest>(work, begin, end, scratch);
        if (work.bags != nullptr)
            return apply<Format, Entry, Adds::weighted>(work, begin, end, scratch);
        return apply<Format, Entry, Adds::gradient>(work, begin, end, scratch);
    };
    return work.wide ? with_entries(Wide{}) : with_entries(uint64_t{});
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

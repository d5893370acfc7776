#include "core/update.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/radix.h"
#include "core/scatter.h"
#include "core/threads.h"

namespace shardwise {

#if defined(__x86_64__) || defined(_M_X64)
namespace x86_64 {
extern const UpdateKernels update_kernels;
}
namespace x86_64_v3 {
extern const UpdateKernels update_kernels;
}
namespace x86_64_v4 {
extern const UpdateKernels update_kernels;
}
static constexpr const UpdateKernels *kernels[] = {&x86_64::update_kernels, &x86_64_v3::update_kernels,
                                                   &x86_64_v4::update_kernels};
#else
namespace baseline {
extern const UpdateKernels update_kernels;
}
static constexpr const UpdateKernels *kernels[] = {&baseline::update_kernels};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

Slots slots_of(const Rule &rule, std::size_t dim) {
    const std::size_t momentum = rule.momentum != 0 ? dim : 0;
    switch (rule.kind) {
    case RuleKind::adagrad:
        return {{dim, 0, 0}};
    case RuleKind::rowwise_adagrad:
        return {{1, 0, 0}};
    case RuleKind::rmsprop:
        return {{dim, momentum, 0}};
    case RuleKind::adam:
        return {{dim, dim, rule.corrected ? 1U : 0U}};
    case RuleKind::ftrl:
        return {{dim, dim, 0}};
    case RuleKind::sgd:
        break;
    }
    return {{momentum, 0, 0}};
}

namespace {

__extension__ using Wide = unsigned __int128;

// A second thread is worth it for this many ids, numbers or rows.
constexpr std::size_t thread_ids = 8192;
constexpr std::size_t thread_numbers = std::size_t{1} << 17;
constexpr std::size_t thread_rows = 512;

template <class T> using Maybe = std::unique_ptr<Room<T>>;
template <class T> Maybe<T> room_if(bool wanted, std::size_t count) {
    return wanted ? std::make_unique<Room<T>>(count) : nullptr;
}
template <class T> T *data_of(const Maybe<T> &room) {
    return room ? room->data() : nullptr;
}

std::size_t find_nonfinite(const Update &task) {
    const std::size_t rows = task.offsets == nullptr ? task.rows.count : task.num_bags;
    std::atomic<std::size_t> first{all_in_range};
    parallel_for(rows * task.rows.dim, thread_numbers, [&](std::size_t begin, std::size_t end) {
        lower_to(first, kernels[level()]->find_nonfinite(task, begin, end));
    });
    return first.load();
}

/// Makes entries of ids, and what bags need: reads each id once.
template <class Entry> class Reader {
public:
    Reader(const Update &task, Entry *entries, unsigned payload_bits, bool by_position, std::int64_t *bags,
           double *divisors, std::uint64_t *members)
        : task_(task), entries_(entries), bits_(payload_bits), by_position_(by_position), bags_(bags),
          divisors_(divisors), members_(members), num_rows_(task.rows.partition.num_rows),
          plain_(!task.has_padding && !task.skip_negative && !task.skip_weightless && members == nullptr &&
                 task.frozen == nullptr && task.frozen_begin >= task.frozen_end) {}

    /// Returns the position of the first id that is refused, or all_in_range.
    std::size_t read() {
        switch (task_.rows.id_type) {
        case IdType::i8:
            return read_as<std::int8_t>();
        case IdType::i16:
            return read_as<std::int16_t>();
        case IdType::i32:
            return read_as<std::int32_t>();
        case IdType::u8:
            return read_as<std::uint8_t>();
        case IdType::u16:
            return read_as<std::uint16_t>();
        case IdType::u32:
            return read_as<std::uint32_t>();
        case IdType::u64:
            return read_as<std::uint64_t>();
        case IdType::i64:
            break;
        }
        return read_as<std::int64_t>();
    }

private:
    template <class T> std::size_t read_as() {
        if (task_.rows.format == RowFormat::float64)
            return read_weighted<T, double>();
        return read_weighted<T, float>();
    }

    template <class T, class Weight> std::size_t read_weighted() {
        if (task_.offsets == nullptr) {
            parallel_for(task_.rows.count, thread_ids, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i)
                    take<T, Weight>(i, i);
            });
        } else {
            const std::size_t mean_bag = task_.rows.count / std::max<std::size_t>(task_.num_bags, 1) + 1;
            parallel_for(task_.num_bags, thread_ids / mean_bag + 1, [&](std::size_t begin, std::size_t end) {
                for (std::size_t bag = begin; bag < end; ++bag)
                    read_bag<T, Weight>(bag);
            });
        }
        return bad_.load();
    }

    template <class T, class Weight> void read_bag(std::size_t bag) {
        const auto begin = static_cast<std::size_t>(task_.offsets[bag]);
        const auto end = static_cast<std::size_t>(task_.offsets[bag + 1]);
        const auto *const weights = static_cast<const Weight *>(task_.weights);
        Weight total = 0, squares = 0;
        std::size_t members = 0;
        for (std::size_t i = begin; i < end; ++i) {
            const bool is_member = take<T, Weight>(i, bag);
            if (bags_ != nullptr)
                bags_[i] = static_cast<std::int64_t>(bag);
            if (!is_member)
                continue;
            ++members;
            if (weights != nullptr) {
                total += weights[i];
                squares += weights[i] * weights[i];
            }
        }
        if (divisors_ == nullptr)
            return;
        if (weights == nullptr)
            total = squares = static_cast<Weight>(members);
        divisors_[bag] = static_cast<double>(task_.combiner == Combiner::mean ? total : std::sqrt(squares));
    }

    /// Writes the entry of an id; returns whether it is a member of its bag.
    template <class T, class Weight> bool take(std::size_t position, std::size_t owner) {
        const T value = static_cast<const volatile T *>(task_.rows.ids)[position];
        auto id = static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
        const bool negative = value < T{0};
        const std::uint64_t payload = by_position_ ? position : owner;
        if (plain_ && id < num_rows_) {
            entries_[position] = static_cast<Entry>(static_cast<Entry>(id) << bits_ | payload);
            return true;
        }
        bool is_member = true;
        if ((task_.has_padding && id == static_cast<std::uint64_t>(task_.padding)) ||
            (task_.skip_negative && negative))
            is_member = false;
        if (task_.skip_weightless && task_.weights != nullptr &&
            !(static_cast<const Weight *>(task_.weights)[position] > 0))
            is_member = false;
        if (!is_member)
            id = num_rows_;
        else if (id >= num_rows_) {
            if (task_.rows.out_of_range == OutOfRange::error)
                lower_to(bad_, position);
            id = replacement(task_.rows.out_of_range, num_rows_, task_.rows.default_row, id, negative);
        }
        if (members_ != nullptr)
            members_[position] = is_member ? id : UINT64_MAX;
        if (id < num_rows_ && ((task_.frozen != nullptr && task_.frozen[id] != 0) ||
                               (id >= task_.frozen_begin && id < task_.frozen_end)))
            id = num_rows_;
        entries_[position] = static_cast<Entry>(static_cast<Entry>(id) << bits_ | payload);
        return is_member;
    }

    const Update &task_;
    Entry *entries_;
    unsigned bits_;
    bool by_position_;
    std::int64_t *bags_;
    double *divisors_;
    std::uint64_t *members_;
    std::uint64_t num_rows_;
    bool plain_; // an id of the table is all that there is to see
    std::atomic<std::size_t> bad_{all_in_range};
};

template <class Entry> std::uint64_t row_of(const SortedUpdate &work, std::size_t i) {
    return static_cast<std::uint64_t>(static_cast<const Entry *>(work.entries)[i] >> work.payload_bits);
}

/// The first entry of a row, at `i` or behind it.
template <class Entry> std::size_t next_row(const SortedUpdate &work, std::size_t i) {
    while (i > 0 && i < work.count && row_of<Entry>(work, i) == row_of<Entry>(work, i - 1))
        ++i;
    return i;
}

template <class Entry> void run(const SortedUpdate &work, std::size_t begin, std::size_t end) {
    const std::size_t dim = work.task->rows.dim;
    const std::size_t scratch_bytes = update_block(dim) * dim * sizeof(double) + 64;
    parallel_for(end - begin, thread_rows, [&](std::size_t from, std::size_t to) {
        const std::size_t first = next_row<Entry>(work, begin + from);
        const std::size_t last = begin + to == end ? end : next_row<Entry>(work, begin + to);
        if (first >= last)
            return;
        const auto scratch = std::make_unique_for_overwrite<std::byte[]>(scratch_bytes);
        std::byte *const aligned =
            scratch.get() + (64 - reinterpret_cast<std::uintptr_t>(scratch.get()) % 64);
        kernels[level()]->apply(work, first, last, aligned);
    });
}

/// The same in windows, the pages of the next one on their way from the disk meanwhile.
template <class Entry> void run_cold(const SortedUpdate &work) {
    const Update &task = *work.task;
    std::size_t widest = task.rows.row_bytes;
    for (const State &state : task.state)
        widest = std::max(widest, state.row_bytes);
    const std::size_t window = read_ahead_rows(widest);
    const auto end_of = [&](std::size_t begin) {
        return next_row<Entry>(work, std::min(work.count, begin + window));
    };
    std::vector<std::uint64_t> ids;
    const auto ask = [&](std::size_t begin, std::size_t end) {
        ids.clear();
        for (std::size_t i = begin; i < end; i = next_row<Entry>(work, i + 1))
            ids.push_back(row_of<Entry>(work, i));
        Gather rows = task.rows;
        rows.ids = ids.data();
        rows.id_type = IdType::u64;
        rows.count = ids.size();
        read_ahead(pages_of(rows, 0, ids.size()));
        for (const State &state : task.state) {
            if (state.shards == nullptr)
                continue;
            rows.shards = state.shards;
            rows.row_bytes = state.row_bytes;
            read_ahead(pages_of(rows, 0, ids.size()));
        }
    };
    std::size_t end = end_of(0);
    ask(0, end);
    for (std::size_t begin = 0; begin < work.count;) {
        const std::size_t next = end < work.count ? end_of(end) : end;
        ask(end, next);
        run<Entry>(work, begin, end);
        begin = end;
        end = next;
    }
}

/// Sets the bits of the rows, in their order, before any is changed.
template <class Entry> void mark_changed(const SortedUpdate &work, std::uint8_t *changed) {
    for (std::size_t i = 0; i < work.count; ++i)
        mark_row(changed, row_of<Entry>(work, i));
}

template <class Entry>
Refused update_as(const Update &task, Watch *watch, unsigned row_bits, unsigned payload_bits) {
    const UpdateKernels &kernel = *kernels[level()];
    const std::size_t count = task.rows.count, bytes = task.rows.format == RowFormat::float64 ? 8 : 4;
    const bool bagged = task.offsets != nullptr;
    const bool max = bagged && task.combiner == Combiner::max;
    const bool divided = bagged && (task.combiner == Combiner::mean || task.combiner == Combiner::sqrtn);
    const bool by_position = max || (bagged && task.weights != nullptr);

    const Room<Entry> entries(count), spare(count);
    const auto bags = room_if<std::int64_t>(by_position, count);
    const auto divisors = room_if<double>(divided, task.num_bags);
    const auto members = room_if<std::uint64_t>(max, count);
    Reader<Entry> reader(task, entries.data(), payload_bits, by_position, data_of(bags), data_of(divisors),
                         data_of(members));
    const std::size_t bad = reader.read();
    if (bad != all_in_range)
        return {.id = bad};

    const auto quotients = room_if<std::byte>(divided, task.num_bags * task.rows.dim * bytes);
    if (divided) {
        parallel_for(task.num_bags, thread_numbers / std::max<std::size_t>(task.rows.dim, 1) + 1,
                     [&](std::size_t begin, std::size_t end) {
                         kernel.divide(task, divisors->data(), quotients->data(), begin, end);
                     });
    }
    const auto winners = room_if<std::uint32_t>(max, task.num_bags * task.rows.dim);
    if (max) {
        parallel_for(task.num_bags, thread_rows, [&](std::size_t begin, std::size_t end) {
            kernel.find_winners(task, members->data(), winners->data(), begin, end);
        });
    }

    SortedUpdate work{};
    work.task = &task;
    work.wide = sizeof(Entry) > 8;
    work.payload_bits = payload_bits;
    work.gradients = divided ? quotients->data() : task.gradients;
    work.bags = data_of(bags);
    work.weights = bagged ? task.weights : nullptr;
    work.winners = data_of(winners);
    const Entry *const sorted = radix_sort(entries.data(), spare.data(), count, payload_bits, row_bits);
    work.entries = sorted;
    // Those that change no row stand at the end.
    const Entry beyond = static_cast<Entry>(task.rows.partition.num_rows) << payload_bits;
    work.count = static_cast<std::size_t>(std::lower_bound(sorted, sorted + count, beyond) - sorted);
    if (work.count == 0 || task.rows.dim == 0)
        return {};
    if (task.changed != nullptr)
        mark_changed<Entry>(work, task.changed);
    if (watch != nullptr && watch->finds_cold(task.rows))
        run_cold<Entry>(work);
    else
        run<Entry>(work, 0, work.count);
    return {};
}

} // namespace

Refused update(const Update &task, Watch *watch) {
    if (task.check_finite) {
        const std::size_t bad = find_nonfinite(task);
        if (bad != all_in_range)
            return {.number = bad};
    }
    if (task.offsets != nullptr && task.combiner == Combiner::max)
        for (std::size_t bag = 0; bag < task.num_bags; ++bag)
            if (task.offsets[bag + 1] - task.offsets[bag] >= std::int64_t{UINT32_MAX})
                throw std::length_error("a bag of 2^32 ids and more");
    const auto row_bits = static_cast<unsigned>(std::bit_width(task.rows.partition.num_rows));
    const auto payload_bits =
        static_cast<unsigned>(std::bit_width(std::max({task.rows.count, task.num_bags, std::size_t{1}})));
    if (row_bits + payload_bits <= 64)
        return update_as<std::uint64_t>(task, watch, std::max(row_bits, 1U), payload_bits);
    return update_as<Wide>(task, watch, row_bits, payload_bits);
}

} // namespace shardwise

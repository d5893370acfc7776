#include "core/route.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <utility>

#include "core/memory.h"
#include "core/radix.h"
#include "core/threads.h"

namespace shardwise {

Routes::Routes(const Partition &partition, std::vector<std::uint64_t> cuts)
    : partition_(partition), cuts_(std::move(cuts)) {
    const auto rows = static_cast<std::uint64_t>(partition.num_rows());
    if (cuts_.size() < 2 || cuts_.front() != 0 || cuts_.back() != rows ||
        !std::is_sorted(cuts_.begin(), cuts_.end()))
        throw std::invalid_argument("cuts must rise from 0 to the number of rows");
    starts_.reserve(static_cast<std::size_t>(partition.num_shards()));
    std::uint64_t start = 0;
    for (std::int64_t shard = 0; shard < partition.num_shards(); ++shard) {
        starts_.push_back(start);
        start += static_cast<std::uint64_t>(partition.shard_size(shard));
    }
}

void Routes::keep_copies(std::size_t rank, std::vector<std::uint64_t> places) {
    if (rank >= num_ranks() || places.size() > cuts_.back() ||
        std::adjacent_find(places.begin(), places.end(), std::greater_equal<>{}) != places.end() ||
        (!places.empty() && places.back() >= cuts_.back()))
        throw std::invalid_argument("copies must be of rows of the table, in ascending order");
    rank_ = rank;
    copied_ = std::move(places);
    slots_.clear();
    if (copied_.empty())
        return;
    const std::size_t size = std::bit_ceil(2 * copied_.size());
    shift_ = static_cast<unsigned>(64 - std::countr_zero(size));
    slots_.assign(size, copied_.size());
    for (std::size_t copy = 0; copy < copied_.size(); ++copy) {
        std::size_t slot = slot_of(copied_[copy]);
        while (slots_[slot] != copied_.size())
            slot = (slot + 1) & (size - 1);
        slots_[slot] = copy;
    }
}

namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::size_t thread_ids = 8192;

/// What an id is: a place of its row, or none; and whether it is a member of its bag all the same.
struct Found {
    std::uint64_t place;
    bool member;
};

/// Finds the places of ids [begin, end); calls take(position, Found). Notes the first that is refused.
class Finder {
public:
    Finder(const Routes &routes, const Routing &ids)
        : view_(routes.partition()), starts_(routes.starts().data()), ids_(ids) {}

    template <class Take> void operator()(std::size_t begin, std::size_t end, const Take &take) {
        switch (ids_.id_type) {
        case IdType::i8:
            return typed<std::int8_t>(begin, end, take);
        case IdType::i16:
            return typed<std::int16_t>(begin, end, take);
        case IdType::i32:
            return typed<std::int32_t>(begin, end, take);
        case IdType::u8:
            return typed<std::uint8_t>(begin, end, take);
        case IdType::u16:
            return typed<std::uint16_t>(begin, end, take);
        case IdType::u32:
            return typed<std::uint32_t>(begin, end, take);
        case IdType::u64:
            return typed<std::uint64_t>(begin, end, take);
        case IdType::i64:
            break;
        }
        typed<std::int64_t>(begin, end, take);
    }

    std::size_t refused() const { return refused_.load(); }

private:
    template <class T, class Take> void typed(std::size_t begin, std::size_t end, const Take &take) {
        switch (view_.strategy) {
        case Strategy::whole:
            return run<T, Strategy::whole>(begin, end, take);
        case Strategy::mod:
            return run<T, Strategy::mod>(begin, end, take);
        case Strategy::div:
            return run<T, Strategy::div>(begin, end, take);
        case Strategy::ranges:
            break;
        }
        run<T, Strategy::ranges>(begin, end, take);
    }

    template <class T, Strategy S, class Take>
    void run(std::size_t begin, std::size_t end, const Take &take) {
        const auto *const ids = static_cast<const volatile T *>(ids_.ids);
        for (std::size_t i = begin; i < end; ++i) {
            const T value = ids[i];
            auto id = static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
            const bool negative = value < T{0};
            Found found{view_.num_rows, true};
            if ((ids_.has_padding && id == static_cast<std::uint64_t>(ids_.padding)) ||
                (ids_.skip_negative && negative)) {
                found.member = false;
                take(i, found);
                continue;
            }
            if (id >= view_.num_rows) {
                if (ids_.out_of_range == OutOfRange::error)
                    lower_to(refused_, i);
                id = replacement(ids_.out_of_range, view_.num_rows, ids_.default_row, id, negative);
            }
            const bool frozen = (ids_.frozen != nullptr && id < view_.num_rows && ids_.frozen[id] != 0) ||
                                (id >= ids_.frozen_begin && id < ids_.frozen_end);
            if (id < view_.num_rows && !frozen) {
                const Place place = locate<S>(view_, id);
                found.place = starts_[place.shard] + place.row;
            }
            take(i, found);
        }
    }

    PartitionView view_;
    const std::uint64_t *starts_;
    const Routing &ids_;
    std::atomic<std::size_t> refused_{all_in_range};
};

template <class Row, class Entry>
std::size_t rows_as(const Routes &routes, const Routing &ids, unsigned place_bits, unsigned bits, Row *rows,
                    std::uint64_t *counts, std::int64_t *places) {
    const std::size_t count = ids.count;
    const Room<Entry> entries(count), spare(count);
    Finder find(routes, ids);
    parallel_for(count, thread_ids, [&](std::size_t begin, std::size_t end) {
        find(begin, end, [&](std::size_t i, Found found) {
            const std::uint64_t place = found.place + (found.member ? 0 : 1); // those last of all
            entries.data()[i] = static_cast<Entry>(static_cast<Entry>(place) << bits | i);
        });
    });
    if (find.refused() != all_in_range)
        return find.refused();
    const Entry *const sorted = radix_sort(entries.data(), spare.data(), count, bits, place_bits);
    const std::uint64_t *const cuts = routes.cuts().data();
    const std::uint64_t none = routes.partition().num_rows;
    const Entry mask = (Entry{1} << bits) - 1;
    std::fill_n(counts, routes.num_ranks(), std::uint64_t{0});
    const std::vector<std::uint64_t> &copied = routes.copied();
    std::uint64_t before = none;
    std::size_t rank = 0, i = 0, copy = 0;
    std::int64_t found = -1;
    for (; i < count; ++i) {
        const auto place = static_cast<std::uint64_t>(sorted[i] >> bits);
        if (place >= none)
            break;
        while (copy < copied.size() && copied[copy] < place)
            ++copy;
        if (copy < copied.size() && copied[copy] == place) { // it lies behind all that are not known yet
            places[static_cast<std::size_t>(sorted[i] & mask)] = -2 - static_cast<std::int64_t>(copy);
            continue;
        }
        if (place != before) {
            while (place >= cuts[rank + 1])
                ++rank;
            rows[++found] = static_cast<Row>(place - cuts[rank]);
            ++counts[rank];
            before = place;
        }
        places[static_cast<std::size_t>(sorted[i] & mask)] = found;
    }
    for (; i < count; ++i)
        places[static_cast<std::size_t>(sorted[i] & mask)] =
            static_cast<std::uint64_t>(sorted[i] >> bits) == none ? found + 1 : -1;
    if (!copied.empty())
        parallel_for(count, thread_ids, [&](std::size_t begin, std::size_t end) {
            for (std::size_t k = begin; k < end; ++k)
                places[k] = places[k] < -1 ? found - places[k] : places[k];
        });
    return all_in_range;
}

template <class Row>
std::size_t rows_of(const Routes &routes, const Routing &ids, Row *rows, std::uint64_t *counts,
                    std::int64_t *places) {
    const auto place_bits = static_cast<unsigned>(std::bit_width(routes.partition().num_rows + 1));
    const auto bits = static_cast<unsigned>(std::bit_width(std::max<std::size_t>(ids.count, 1)));
    if (place_bits + bits <= 64)
        return rows_as<Row, std::uint64_t>(routes, ids, std::max(place_bits, 1U), bits, rows, counts, places);
    return rows_as<Row, Wide>(routes, ids, place_bits, bits, rows, counts, places);
}

template <class Row, class Weight>
std::size_t bags_of(const Routes &routes, const Routing &ids, const RoutedBags &bags, const Pieces &out) {
    constexpr std::uint32_t nowhere = UINT32_MAX;
    const std::size_t ranks = routes.num_ranks(), count = ids.count, copies = routes.copied().size();
    const std::uint64_t *const cuts = routes.cuts().data();
    const auto *const weights = static_cast<const Weight *>(bags.weights);
    const Room<std::uint32_t> owners(count);
    const Room<Row> local(count);
    // Where the ids of a bag go, one after the other; `last[r]` is the bag that had a piece there last.
    std::vector<std::size_t> last(ranks, SIZE_MAX);
    std::fill_n(out.counts, ranks, std::uint64_t{0});
    std::fill_n(out.piece_counts, ranks, std::uint64_t{0});
    Finder find(routes, ids);
    for (std::size_t bag = 0; bag < bags.num_bags; ++bag) {
        Weight total = 0, squares = 0;
        std::size_t members = 0, pieces = 0;
        find(static_cast<std::size_t>(bags.offsets[bag]), static_cast<std::size_t>(bags.offsets[bag + 1]),
             [&](std::size_t i, Found found) {
                 owners.data()[i] = nowhere;
                 if (!found.member || (bags.skip_weightless && weights != nullptr && !(weights[i] > 0)))
                     return;
                 ++members;
                 if (weights != nullptr) {
                     total += weights[i];
                     squares += weights[i] * weights[i];
                 }
                 if (found.place >= cuts[ranks])
                     return;
                 std::size_t rank = routes.rank();
                 if (const std::size_t copy = routes.copy_of(found.place); copy < copies) {
                     local.data()[i] = static_cast<Row>(cuts[rank + 1] - cuts[rank] + copy);
                 } else {
                     rank = 0; // the last one that begins at or before the place, and is not empty
                     for (std::size_t length = ranks; length > 1;) {
                         const std::size_t half = length / 2;
                         rank += cuts[rank + half] <= found.place ? half : 0;
                         length -= half;
                     }
                     local.data()[i] = static_cast<Row>(found.place - cuts[rank]);
                 }
                 owners.data()[i] = static_cast<std::uint32_t>(rank);
                 ++out.counts[rank];
                 if (last[rank] != bag) {
                     last[rank] = bag;
                     ++out.piece_counts[rank];
                     ++pieces;
                 }
             });
        out.ends[bag + 1] = static_cast<std::int64_t>(pieces);
        if (out.divisors == nullptr)
            continue;
        if (weights == nullptr)
            total = squares = static_cast<Weight>(members);
        out.divisors[bag] = static_cast<double>(bags.square_root ? std::sqrt(squares) : total);
    }
    if (find.refused() != all_in_range)
        return find.refused();
    out.ends[0] = 0;
    for (std::size_t bag = 0; bag < bags.num_bags; ++bag)
        out.ends[bag + 1] += out.ends[bag];

    std::vector<std::size_t> next(ranks), piece(ranks);
    std::vector<std::int64_t> orders(ranks);
    for (std::size_t rank = 1; rank < ranks; ++rank) {
        next[rank] = next[rank - 1] + out.counts[rank - 1];
        piece[rank] = piece[rank - 1] + out.piece_counts[rank - 1];
    }
    std::fill(last.begin(), last.end(), SIZE_MAX);
    auto *const rows = static_cast<Row *>(out.rows);
    auto *const weights_out = static_cast<Weight *>(out.weights);
    std::vector<std::uint32_t> here;
    for (std::size_t bag = 0; bag < bags.num_bags; ++bag) {
        here.clear();
        for (auto i = static_cast<std::size_t>(bags.offsets[bag]);
             i < static_cast<std::size_t>(bags.offsets[bag + 1]); ++i) {
            const std::uint32_t rank = owners.data()[i];
            if (rank == nowhere)
                continue;
            if (last[rank] != bag) {
                last[rank] = bag;
                out.bags[piece[rank]] = static_cast<std::int64_t>(bag);
                out.lengths[piece[rank]++] = 0;
                here.push_back(rank);
            }
            ++out.lengths[piece[rank] - 1];
            if (weights != nullptr)
                weights_out[next[rank]] = weights[i];
            rows[next[rank]++] = local.data()[i];
        }
        std::sort(here.begin(), here.end());
        std::int64_t *to = out.order + out.ends[bag];
        for (const std::uint32_t rank : here)
            *to++ = static_cast<std::int64_t>(piece[rank] - 1);
    }
    return all_in_range;
}

} // namespace

std::size_t route_rows(const Routes &routes, const Routing &ids, bool narrow, void *rows,
                       std::uint64_t *counts, std::int64_t *places) {
    if (narrow)
        return rows_of(routes, ids, static_cast<std::uint32_t *>(rows), counts, places);
    return rows_of(routes, ids, static_cast<std::uint64_t *>(rows), counts, places);
}

std::size_t route_bags(const Routes &routes, const Routing &ids, const RoutedBags &bags, bool narrow,
                       const Pieces &out) {
    if (bags.wide)
        return narrow ? bags_of<std::uint32_t, double>(routes, ids, bags, out)
                      : bags_of<std::uint64_t, double>(routes, ids, bags, out);
    return narrow ? bags_of<std::uint32_t, float>(routes, ids, bags, out)
                  : bags_of<std::uint64_t, float>(routes, ids, bags, out);
}

} // namespace shardwise

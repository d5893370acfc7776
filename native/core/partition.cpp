#include "core/partition.h"

#include <bit>
#include <stdexcept>
#include <utility>

namespace shardwise {

Divider make_divider(std::uint64_t divisor) {
    const auto shift = static_cast<std::uint64_t>(std::bit_width(divisor - 1));
    // floor(2^(63 + shift) / divisor) by long division: one bit of quotient at a time, no 128-bit division
    // needed.
    std::uint64_t quotient = 0;
    std::uint64_t remainder = 0;
    for (std::uint64_t bit = 64 + shift; bit-- > 0;) {
        remainder = (remainder << 1) | (bit == 63 + shift ? 1U : 0U);
        quotient <<= 1;
        if (remainder >= divisor) {
            remainder -= divisor;
            quotient |= 1;
        }
    }
    return {quotient + 1, divisor, shift};
}

Partition::Partition(Strategy strategy, std::int64_t num_rows, std::int64_t num_shards)
    : strategy_(strategy) {
    if (num_rows < 0)
        throw std::invalid_argument("num_rows must be >= 0");
    if (num_shards < 1)
        throw std::invalid_argument("num_shards must be >= 1");
    view_.strategy = num_shards == 1 ? Strategy::whole : strategy;
    view_.num_rows = static_cast<std::uint64_t>(num_rows);
    view_.num_shards = static_cast<std::uint64_t>(num_shards);
}

Partition Partition::mod(std::int64_t num_rows, std::int64_t num_shards) {
    Partition p(Strategy::mod, num_rows, num_shards);
    p.view_.first = make_divider(p.view_.num_shards);
    return p;
}

Partition Partition::div(std::int64_t num_rows, std::int64_t num_shards) {
    Partition p(Strategy::div, num_rows, num_shards);
    const std::uint64_t smaller = p.view_.num_rows / p.view_.num_shards;
    p.view_.num_larger = p.view_.num_rows % p.view_.num_shards;
    p.view_.split = p.view_.num_larger * (smaller + 1);
    p.view_.first = make_divider(smaller + 1);
    p.view_.second = make_divider(smaller == 0 ? 1 : smaller); // with no rows in it, no id asks for it
    return p;
}

Partition Partition::ranges(std::vector<std::int64_t> boundaries) {
    if (boundaries.size() < 2)
        throw std::invalid_argument("boundaries must hold at least 0 and num_rows");
    if (boundaries.front() != 0)
        throw std::invalid_argument("boundaries must begin with 0");
    for (std::size_t k = 1; k < boundaries.size(); ++k) {
        if (boundaries[k] < boundaries[k - 1])
            throw std::invalid_argument("boundaries must not decrease");
    }
    Partition p(Strategy::ranges, boundaries.back(), static_cast<std::int64_t>(boundaries.size() - 1));
    p.boundaries_ = std::move(boundaries);
    return p;
}

PartitionView Partition::view() const {
    PartitionView view = view_;
    view.boundaries = boundaries_.data();
    return view;
}

std::int64_t Partition::shard_size(std::int64_t shard) const {
    if (shard < 0 || shard >= num_shards())
        throw std::out_of_range("no such shard");
    const auto k = static_cast<std::uint64_t>(shard);
    const std::uint64_t even = view_.num_rows / view_.num_shards;
    switch (strategy_) {
    case Strategy::mod:
    case Strategy::div:
        return static_cast<std::int64_t>(even + (k < view_.num_rows % view_.num_shards ? 1 : 0));
    case Strategy::ranges:
        return boundaries_[k + 1] - boundaries_[k];
    case Strategy::whole:
        break;
    }
    return num_rows();
}

namespace {

template <Strategy S>
std::size_t locate_range(const PartitionView &view, const std::int64_t *ids, std::size_t begin,
                         std::size_t end, std::int64_t *shards, std::int64_t *rows) {
    for (std::size_t i = begin; i < end; ++i) {
        const auto id = static_cast<std::uint64_t>(ids[i]);
        if (id >= view.num_rows)
            return i;
        const Place place = locate<S>(view, id);
        shards[i] = static_cast<std::int64_t>(place.shard);
        rows[i] = static_cast<std::int64_t>(place.row);
    }
    return end;
}

} // namespace

std::size_t Partition::locate(const std::int64_t *ids, std::size_t count, std::int64_t *shards,
                              std::int64_t *rows) const {
    const PartitionView p = view();
    switch (p.strategy) {
    case Strategy::whole:
        return locate_range<Strategy::whole>(p, ids, 0, count, shards, rows);
    case Strategy::mod:
        return locate_range<Strategy::mod>(p, ids, 0, count, shards, rows);
    case Strategy::div:
        return locate_range<Strategy::div>(p, ids, 0, count, shards, rows);
    case Strategy::ranges:
        return locate_range<Strategy::ranges>(p, ids, 0, count, shards, rows);
    }
    return 0;
}

} // namespace shardwise

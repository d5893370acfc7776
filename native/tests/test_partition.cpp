#include "core/partition.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"

using namespace shardwise;

namespace {

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

struct Found {
    std::int64_t shard;
    std::int64_t row;
    bool operator==(const Found &) const = default;
};

// Plain % and /, as the words of partition.h say it.
Found by_hand_mod(std::int64_t num_shards, std::int64_t id) {
    return {id % num_shards, id / num_shards};
}

/// The first id that lies in a smaller shard.
std::int64_t split_of(std::int64_t num_rows, std::int64_t num_shards) {
    return num_rows % num_shards * (num_rows / num_shards) + num_rows % num_shards;
}

Found by_hand_div(std::int64_t num_rows, std::int64_t num_shards, std::int64_t id) {
    const std::int64_t smaller = num_rows / num_shards;
    const std::int64_t split = split_of(num_rows, num_shards);
    if (id < split)
        return {id / (smaller + 1), id % (smaller + 1)};
    return {num_rows % num_shards + (id - split) / smaller, (id - split) % smaller};
}

Found by_hand_ranges(const std::vector<std::int64_t> &boundaries, std::int64_t id) {
    const auto after = std::upper_bound(boundaries.begin(), boundaries.end(), id);
    const auto shard = after - boundaries.begin() - 1;
    return {shard, id - boundaries[static_cast<std::size_t>(shard)]};
}

Found find(const Partition &partition, std::int64_t id) {
    Found found{-1, -1};
    CHECK(partition.locate(&id, 1, &found.shard, &found.row) == 1);
    return found;
}

/// What must hold for a place, whatever the strategy.
void check_bounds(const Partition &partition, const Found &found) {
    CHECK(found.shard >= 0 && found.shard < partition.num_shards());
    CHECK(found.row >= 0 && found.row < partition.shard_size(found.shard));
}

void test_divider_against_division() {
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> divisors(70);
    std::iota(divisors.begin(), divisors.end(), 1);
    for (int bit = 0; bit < 63; ++bit) {
        const std::uint64_t power = std::uint64_t{1} << bit;
        divisors.insert(divisors.end(), {power, power + 1});
        if (power > 1)
            divisors.push_back(power - 1);
    }
    const auto largest = static_cast<std::uint64_t>(most);
    const std::uint64_t primes[] = {97,
                                    641,
                                    65521,
                                    65537,
                                    1000003,
                                    2147483647,
                                    4294967291,
                                    4294967311,
                                    1000000000039,
                                    2305843009213693951,
                                    9223372036854775783U};
    divisors.insert(divisors.end(), std::begin(primes), std::end(primes));
    divisors.insert(divisors.end(),
                    {largest, largest - 1, largest / 2, largest / 2 + 1, largest / 3, largest / 7});
    for (int k = 0; k < 300; ++k)
        divisors.push_back((random() >> (1 + random() % 62)) | 1);
    for (const std::uint64_t divisor : divisors) {
        const Divider divide = make_divider(divisor);
        CHECK(divide.divisor == divisor);
        const auto check = [&](std::uint64_t n) { CHECK(divide(n) == n / divisor); };
        for (std::uint64_t n = 0; n < 130; ++n)
            check(n), check(largest - n);
        for (int bit = 0; bit < 63; ++bit)
            check(std::uint64_t{1} << bit), check((std::uint64_t{1} << bit) - 1);
        // Where the quotient changes is where an inexact one shows first.
        for (int k = 0; k < 200; ++k) {
            const std::uint64_t multiple = (random() >> 1) / divisor * divisor;
            check(multiple);
            if (multiple > 0)
                check(multiple - 1);
            check(std::min(largest, multiple + divisor - 1));
            check(random() >> (1 + random() % 63));
        }
        check(largest / divisor * divisor);
        check(largest / divisor * divisor - 1);
    }
}

void test_every_small_partition() {
    for (std::int64_t num_rows = 0; num_rows <= 40; ++num_rows) {
        for (std::int64_t num_shards = 1; num_shards <= 43; ++num_shards) {
            const Partition mod = Partition::mod(num_rows, num_shards);
            const Partition div = Partition::div(num_rows, num_shards);
            std::int64_t rows_of_mod = 0;
            std::int64_t rows_of_div = 0;
            for (std::int64_t k = 0; k < num_shards; ++k) {
                rows_of_mod += mod.shard_size(k);
                rows_of_div += div.shard_size(k);
                CHECK(div.shard_size(k) == num_rows / num_shards + (k < num_rows % num_shards ? 1 : 0));
            }
            CHECK(mod.num_rows() == num_rows && mod.num_shards() == num_shards);
            CHECK(div.num_rows() == num_rows && div.num_shards() == num_shards);
            CHECK(rows_of_mod == num_rows && rows_of_div == num_rows);
            std::vector<std::int64_t> next(static_cast<std::size_t>(num_shards), 0);
            Found before{0, -1};
            for (std::int64_t id = 0; id < num_rows; ++id) {
                const Found at_mod = find(mod, id);
                const Found at_div = find(div, id);
                CHECK(at_mod == by_hand_mod(num_shards, id));
                CHECK(at_div == by_hand_div(num_rows, num_shards, id));
                check_bounds(mod, at_mod);
                check_bounds(div, at_div);
                // Each row is met once, in order, and "div" goes from shard to shard.
                CHECK(at_mod.row == next[static_cast<std::size_t>(at_mod.shard)]++);
                CHECK(at_div == (Found{before.shard, before.row + 1}) ||
                      at_div == (Found{before.shard + 1, 0}));
                before = at_div;
            }
        }
    }
}

void test_every_small_ranges() {
    // Every way of cutting 6 rows into 1 to 5 shards, empty ones among them.
    for (std::size_t num_shards = 1; num_shards <= 5; ++num_shards) {
        std::vector<std::int64_t> boundaries(num_shards + 1, 0);
        boundaries.back() = 6;
        for (;;) {
            if (std::is_sorted(boundaries.begin(), boundaries.end())) {
                const Partition partition = Partition::ranges(boundaries);
                CHECK(partition.num_rows() == 6);
                CHECK(partition.num_shards() == static_cast<std::int64_t>(num_shards));
                for (std::size_t k = 0; k < num_shards; ++k)
                    CHECK(partition.shard_size(static_cast<std::int64_t>(k)) ==
                          boundaries[k + 1] - boundaries[k]);
                for (std::int64_t id = 0; id < 6; ++id) {
                    const Found found = find(partition, id);
                    CHECK(found == by_hand_ranges(boundaries, id));
                    check_bounds(partition, found);
                }
            }
            std::size_t digit = 1;
            while (digit < num_shards && boundaries[digit] == 6)
                boundaries[digit++] = 0;
            if (digit >= num_shards)
                break;
            ++boundaries[digit];
        }
    }
    const Partition empty = Partition::ranges({0, 0, 0});
    CHECK(empty.num_rows() == 0 && empty.num_shards() == 2 && empty.shard_size(1) == 0);
}

void test_random_large() {
    std::mt19937_64 random(2);
    const std::int64_t all_rows[] = {1000000000000, 1000000000039,         most,
                                     most - 1,      std::int64_t{1} << 62, 4294967296};
    const std::int64_t all_shards[] = {1,       2,          3,          7,        8,        97,  128,
                                       1000003, 4294967296, 4294967311, most / 2, most - 1, most};
    for (const std::int64_t num_rows : all_rows) {
        for (const std::int64_t num_shards : all_shards) {
            const Partition mod = Partition::mod(num_rows, num_shards);
            const Partition div = Partition::div(num_rows, num_shards);
            std::vector<std::int64_t> ids{0, 1, num_rows / 2, num_rows - 2, num_rows - 1};
            const std::int64_t split = split_of(num_rows, num_shards);
            for (std::int64_t id = std::max<std::int64_t>(split - 2, 0); id < num_rows; ++id) {
                if (id - split > 2)
                    break;
                ids.push_back(id);
            }
            for (int k = 0; k < 500; ++k)
                ids.push_back(static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(num_rows)));
            for (const std::int64_t id : ids) {
                CHECK(find(mod, id) == by_hand_mod(num_shards, id));
                CHECK(find(div, id) == by_hand_div(num_rows, num_shards, id));
                check_bounds(mod, find(mod, id));
                check_bounds(div, find(div, id));
            }
        }
    }
    for (const std::size_t num_shards : {2U, 3U, 17U, 64U, 1000U}) {
        std::vector<std::int64_t> boundaries{0, most};
        while (boundaries.size() <= num_shards)
            // Some boundaries twice: shards with no rows.
            boundaries.push_back(random() % 4 == 0 ? boundaries.back()
                                                   : static_cast<std::int64_t>(random() >> 1));
        std::sort(boundaries.begin(), boundaries.end());
        const Partition partition = Partition::ranges(boundaries);
        for (int k = 0; k < 2000; ++k) {
            std::int64_t id = static_cast<std::int64_t>(random() >> 1) % most;
            if (k % 2 == 0)
                id = std::clamp<std::int64_t>(boundaries[random() % boundaries.size()] - k % 3, 0, most - 1);
            CHECK(find(partition, id) == by_hand_ranges(boundaries, id));
        }
    }
}

void test_first_bad_position() {
    const Partition partitions[] = {Partition::mod(10, 1), Partition::mod(10, 3), Partition::div(10, 3),
                                    Partition::ranges({0, 4, 4, 10})};
    for (const Partition &partition : partitions) {
        for (const std::int64_t bad :
             {std::int64_t{10}, std::int64_t{-1}, most, std::numeric_limits<std::int64_t>::min()}) {
            for (std::size_t position = 0; position < 8; ++position) {
                std::vector<std::int64_t> ids(8, 9);
                ids[position] = bad;
                ids[7] = position < 7 ? -5 : bad;
                std::vector<std::int64_t> shards(8, -7);
                std::vector<std::int64_t> rows(8, -7);
                CHECK(partition.locate(ids.data(), ids.size(), shards.data(), rows.data()) == position);
                for (std::size_t k = position; k < 8; ++k)
                    CHECK(shards[k] == -7 && rows[k] == -7);
            }
        }
        CHECK(partition.locate(nullptr, 0, nullptr, nullptr) == 0);
    }
}

void test_copies_keep_their_boundaries() {
    std::vector<Partition> kept;
    for (int k = 0; k < 50; ++k)
        kept.push_back(Partition::ranges({0, 1 + k, 60})); // moved as the vector grows
    for (int k = 0; k < 50; ++k) {
        const Partition copy = kept[static_cast<std::size_t>(k)];
        CHECK(copy.view().boundaries != kept[static_cast<std::size_t>(k)].view().boundaries);
        CHECK(find(copy, k) == (Found{0, k}));
        CHECK(find(kept[static_cast<std::size_t>(k)], k + 1) == (Found{1, 0}));
    }
}

void test_refused() {
    CHECK_THROWS(Partition::mod(-1, 1), std::invalid_argument);
    CHECK_THROWS(Partition::mod(1, 0), std::invalid_argument);
    CHECK_THROWS(Partition::div(1, -1), std::invalid_argument);
    CHECK_THROWS(Partition::div(-1, 1), std::invalid_argument);
    CHECK_THROWS(Partition::ranges({}), std::invalid_argument);
    CHECK_THROWS(Partition::ranges({0}), std::invalid_argument);
    CHECK_THROWS(Partition::ranges({1, 2}), std::invalid_argument);
    CHECK_THROWS(Partition::ranges({0, 3, 2}), std::invalid_argument);
    CHECK_THROWS(Partition::ranges({0, -1}), std::invalid_argument);
    CHECK_THROWS(Partition::mod(5, 2).shard_size(2), std::out_of_range);
    CHECK_THROWS(Partition::mod(5, 2).shard_size(-1), std::out_of_range);
}

} // namespace

int main() {
    test_divider_against_division();
    test_every_small_partition();
    test_every_small_ranges();
    test_random_large();
    test_first_bad_position();
    test_copies_keep_their_boundaries();
    test_refused();
    return 0;
}

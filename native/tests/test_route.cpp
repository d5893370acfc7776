#include "core/route.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

std::vector<Partition> partitions(std::int64_t rows) {
    std::vector<Partition> made;
    for (const std::int64_t shards : {1, 2, 3, 8}) {
        made.push_back(Partition::mod(rows, shards));
        made.push_back(Partition::div(rows, shards));
    }
    made.push_back(Partition::ranges({0, rows / 7, rows / 7, rows / 2, rows}));
    return made;
}

/// The place of a row, by hand: how many rows there are before it, shard after shard.
std::uint64_t place_of(const Partition &partition, std::int64_t id) {
    std::int64_t shard = 0, row = 0;
    partition.locate(&id, 1, &shard, &row);
    for (std::int64_t k = 0; k < shard; ++k)
        row += partition.shard_size(k);
    return static_cast<std::uint64_t>(row);
}

std::vector<std::uint64_t> cuts_of(std::uint64_t rows, std::size_t ranks, std::mt19937_64 &random) {
    std::vector<std::uint64_t> cuts{0, rows};
    while (cuts.size() < ranks + 1)
        cuts.push_back(random() % (rows + 1)); // some ranks are empty
    std::sort(cuts.begin(), cuts.end());
    return cuts;
}

/// Every `step`th place; none for 0.
std::vector<std::uint64_t> some_places(std::uint64_t rows, std::uint64_t step) {
    std::vector<std::uint64_t> places;
    for (std::uint64_t place = 0; step != 0 && place < rows; place += step)
        places.push_back(place);
    return places;
}

template <class Row>
void check_rows(const Partition &partition, const std::vector<std::uint64_t> &cuts,
                const std::vector<std::int64_t> &ids, Routing routing,
                const std::vector<std::uint64_t> &copied = {}) {
    Routes routes(partition, cuts);
    routes.keep_copies(0, copied);
    const std::set<std::uint64_t> copies(copied.begin(), copied.end());
    const auto rows = static_cast<std::uint64_t>(partition.num_rows());
    routing.ids = ids.data();
    routing.count = ids.size();
    std::vector<Row> out(ids.size());
    std::vector<std::uint64_t> counts(routes.num_ranks());
    std::vector<std::int64_t> places(ids.size());
    CHECK(route_rows(routes, routing, sizeof(Row) == 4, out.data(), counts.data(), places.data()) ==
          all_in_range);
    // Each once, in the order of places, so by rank.
    std::set<std::uint64_t> expected;
    for (const std::int64_t id : ids) {
        const bool inside = id >= 0 && static_cast<std::uint64_t>(id) < rows;
        if (inside && !(routing.has_padding && id == routing.padding) &&
            !copies.contains(place_of(partition, id)))
            expected.insert(place_of(partition, id));
    }
    std::vector<std::uint64_t> found;
    std::size_t at = 0;
    for (std::size_t rank = 0; rank < routes.num_ranks(); ++rank)
        for (std::uint64_t k = 0; k < counts[rank]; ++k) {
            const std::uint64_t place = cuts[rank] + out[at++];
            CHECK(place < cuts[rank + 1]);
            found.push_back(place);
        }
    CHECK(found == std::vector<std::uint64_t>(expected.begin(), expected.end()));
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (routing.has_padding && ids[i] == routing.padding)
            CHECK(places[i] == -1);
        else if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= rows)
            CHECK(places[i] == static_cast<std::int64_t>(found.size()));
        else if (const std::uint64_t place = place_of(partition, ids[i]); copies.contains(place))
            CHECK(copied[static_cast<std::size_t>(places[i]) - found.size() - 1] == place);
        else
            CHECK(found[static_cast<std::size_t>(places[i])] == place_of(partition, ids[i]));
    }
}

void rows_are_grouped_by_rank() {
    std::mt19937_64 random(1);
    for (const std::int64_t rows : {1, 5, 1000})
        for (const Partition &partition : partitions(rows))
            for (const std::size_t ranks : {1, 2, 5})
                for (const std::size_t count : {0, 1, 600, 20'000}) {
                    std::vector<std::int64_t> ids(count);
                    for (std::int64_t &id : ids)
                        id = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(rows + 4)) - 2;
                    const auto cuts = cuts_of(static_cast<std::uint64_t>(rows), ranks, random);
                    Routing routing;
                    routing.out_of_range = OutOfRange::zeros;
                    check_rows<std::uint32_t>(partition, cuts, ids, routing);
                    routing.has_padding = true;
                    routing.padding = rows / 2;
                    check_rows<std::uint64_t>(partition, cuts, ids, routing);
                    for (const std::uint64_t step : {1, 3, 400})
                        check_rows<std::uint32_t>(partition, cuts, ids, routing,
                                                  some_places(static_cast<std::uint64_t>(rows), step));
                }
}

void huge_tables_are_routed() {
    const std::int64_t rows = std::int64_t{1} << 62;
    const Partition partition = Partition::mod(rows, 64);
    std::vector<std::uint64_t> cuts;
    for (std::uint64_t k = 0; k <= 64; ++k)
        cuts.push_back(static_cast<std::uint64_t>(rows) / 64 * k);
    std::vector<std::int64_t> ids(1000);
    std::mt19937_64 random(2);
    for (std::int64_t &id : ids)
        id = static_cast<std::int64_t>(random() >> 2);
    ids.push_back(ids.front());
    check_rows<std::uint64_t>(partition, cuts, ids, Routing{});
}

void the_first_id_outside_is_refused() {
    const Partition partition = Partition::div(100, 3);
    const Routes routes(partition, {0, 50, 100});
    std::vector<std::int64_t> ids(30'000, 7);
    ids[20'001] = 100;
    ids[20'000] = -1;
    Routing routing;
    routing.ids = ids.data();
    routing.count = ids.size();
    std::vector<std::uint32_t> rows(ids.size()), lengths(ids.size());
    std::vector<std::uint64_t> counts(2), piece_counts(2);
    std::vector<std::int64_t> places(ids.size()), bags(ids.size()), order(ids.size()), ends(2);
    CHECK(route_rows(routes, routing, true, rows.data(), counts.data(), places.data()) == 20'000);
    const std::vector<std::int64_t> offsets{0, static_cast<std::int64_t>(ids.size())};
    RoutedBags routed;
    routed.offsets = offsets.data();
    routed.num_bags = 1;
    Pieces pieces;
    pieces.rows = rows.data();
    pieces.counts = counts.data();
    pieces.lengths = lengths.data();
    pieces.bags = bags.data();
    pieces.piece_counts = piece_counts.data();
    pieces.order = order.data();
    pieces.ends = ends.data();
    CHECK(route_bags(routes, routing, routed, true, pieces) == 20'000);
    for (const auto &[policy, expected] : std::map<OutOfRange, std::pair<std::int64_t, std::int64_t>>{
             {OutOfRange::clamp, {0, 99}}, {OutOfRange::wrap, {99, 0}}, {OutOfRange::row, {42, 42}}}) {
        routing.out_of_range = policy;
        routing.default_row = 42;
        CHECK(route_rows(routes, routing, true, rows.data(), counts.data(), places.data()) == all_in_range);
        const auto place = [&](std::size_t i) {
            const auto k = static_cast<std::size_t>(places[i]);
            return (k < counts[0] ? 0U : 50U) + rows[k];
        };
        CHECK(place(20'000) == place_of(partition, expected.first));
        CHECK(place(20'001) == place_of(partition, expected.second));
    }
}

template <class Row, class Weight> void bags_are_cut(bool weighted, bool square_root, std::uint64_t step) {
    std::mt19937_64 random(3);
    const std::int64_t rows = 300;
    for (const Partition &partition : partitions(rows)) {
        const auto cuts = cuts_of(static_cast<std::uint64_t>(rows), 4, random);
        Routes routes(partition, cuts);
        const std::size_t own = step % 4; // the rank that keeps copies, behind its own rows
        routes.keep_copies(own, some_places(static_cast<std::uint64_t>(rows), step));
        std::vector<std::int64_t> ids(700), offsets{0, 0};
        for (std::int64_t &id : ids)
            id = static_cast<std::int64_t>(random() % 300);
        while (offsets.back() < 700)
            offsets.push_back(
                std::min<std::int64_t>(700, offsets.back() + static_cast<std::int64_t>(random() % 9)));
        std::vector<Weight> weights(ids.size());
        for (Weight &weight : weights)
            weight = static_cast<Weight>(random() % 5) - 1;
        Routing routing;
        routing.ids = ids.data();
        routing.count = ids.size();
        routing.has_padding = true;
        routing.padding = 11;
        routing.frozen_begin = 20;
        routing.frozen_end = 40;
        RoutedBags bags;
        bags.offsets = offsets.data();
        bags.num_bags = offsets.size() - 1;
        bags.weights = weighted ? weights.data() : nullptr;
        bags.wide = sizeof(Weight) == 8;
        bags.skip_weightless = true;
        bags.square_root = square_root;
        std::vector<Row> out(ids.size());
        std::vector<Weight> out_weights(ids.size());
        std::vector<std::uint32_t> lengths(ids.size());
        std::vector<std::uint64_t> counts(4), piece_counts(4);
        std::vector<std::int64_t> of(ids.size()), order(ids.size()), ends(bags.num_bags + 1);
        std::vector<double> divisors(bags.num_bags);
        Pieces pieces{out.data(),          out_weights.data(), counts.data(), lengths.data(), of.data(),
                      piece_counts.data(), order.data(),       ends.data(),   divisors.data()};
        CHECK(route_bags(routes, routing, bags, sizeof(Row) == 4, pieces) == all_in_range);

        // By hand: the pieces of each rank, bag by bag, ids in their order.
        std::size_t row_at = 0, piece_at = 0;
        std::map<std::pair<std::int64_t, std::size_t>, std::int64_t> numbers;
        for (std::size_t rank = 0; rank < 4; ++rank) {
            std::size_t rows_here = 0, pieces_here = 0;
            for (std::size_t bag = 0; bag < bags.num_bags; ++bag) {
                std::uint32_t length = 0;
                for (auto i = static_cast<std::size_t>(offsets[bag]);
                     i < static_cast<std::size_t>(offsets[bag + 1]); ++i) {
                    const std::uint64_t place = place_of(partition, ids[i]);
                    const bool is_copied = step != 0 && place % step == 0;
                    const bool here = is_copied ? rank == own : place >= cuts[rank] && place < cuts[rank + 1];
                    if (ids[i] == 11 || (ids[i] >= 20 && ids[i] < 40) || !here ||
                        (weighted && !(weights[i] > 0)))
                        continue;
                    CHECK(out[row_at] ==
                          (is_copied ? cuts[own + 1] - cuts[own] + place / step : place - cuts[rank]));
                    if (weighted)
                        CHECK(out_weights[row_at] == weights[i]);
                    ++row_at, ++rows_here, ++length;
                }
                if (length == 0)
                    continue;
                CHECK(lengths[piece_at] == length);
                CHECK(of[piece_at] == static_cast<std::int64_t>(bag));
                numbers[{static_cast<std::int64_t>(bag), rank}] = static_cast<std::int64_t>(piece_at++);
                ++pieces_here;
            }
            CHECK(counts[rank] == rows_here);
            CHECK(piece_counts[rank] == pieces_here);
        }
        std::size_t next = 0; // the pieces of a bag in the order of ranks
        for (const auto &[key, number] : numbers) {
            CHECK(ends[static_cast<std::size_t>(key.first)] <= static_cast<std::int64_t>(next));
            CHECK(static_cast<std::int64_t>(next) < ends[static_cast<std::size_t>(key.first) + 1]);
            CHECK(order[next++] == number);
        }
        CHECK(ends.back() == static_cast<std::int64_t>(next));
        for (std::size_t bag = 0; bag < bags.num_bags; ++bag) {
            double total = 0; // frozen rows are members; padding, and what has no weight, are not
            for (auto i = static_cast<std::size_t>(offsets[bag]);
                 i < static_cast<std::size_t>(offsets[bag + 1]); ++i) {
                const double weight = weighted ? static_cast<double>(weights[i]) : 1;
                if (ids[i] != 11 && weight > 0)
                    total += square_root ? weight * weight : weight;
            }
            CHECK(std::abs(divisors[bag] - (square_root ? std::sqrt(total) : total)) < 1e-5);
        }
    }
}

void bad_cuts_are_refused() {
    const Partition partition = Partition::mod(10, 2);
    for (const auto &cuts :
         std::vector<std::vector<std::uint64_t>>{{}, {0}, {1, 10}, {0, 9}, {0, 6, 5, 10}, {0, 11}}) {
        CHECK_THROWS(Routes(partition, cuts), std::invalid_argument);
    }
    Routes routes(partition, {0, 5, 10});
    CHECK_THROWS(routes.keep_copies(2, {}), std::invalid_argument);
    for (const auto &places : std::vector<std::vector<std::uint64_t>>{{10}, {3, 3}, {4, 2}})
        CHECK_THROWS(routes.keep_copies(0, places), std::invalid_argument);
}

} // namespace

int main() {
    for (const int threads : {1, 4}) {
        set_num_threads(threads);
        rows_are_grouped_by_rank();
        huge_tables_are_routed();
        the_first_id_outside_is_refused();
        for (const std::uint64_t step : {0, 1, 3, 50})
            bags_are_cut<std::uint32_t, float>(false, false, step);
        for (const std::uint64_t step : {0, 1, 3, 50})
            bags_are_cut<std::uint64_t, float>(true, true, step);
        for (const std::uint64_t step : {0, 1, 3, 50})
            bags_are_cut<std::uint32_t, double>(true, false, step);
    }
    bad_cuts_are_refused();
}

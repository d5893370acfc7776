#pragma once
// Which process holds the row of an id, and ids grouped by the process that they go to.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/gather.h"
#include "core/partition.h"

namespace shardwise {

/// Rows that follow each other, shard after shard, cut at `cuts`: rank r holds the places from cuts[r] up to
/// cuts[r + 1], of which the first is its row 0.
class Routes {
public:
    /// `cuts`: from 0 to the number of rows, never falling; throws std::invalid_argument where they are not.
    Routes(const Partition &partition, std::vector<std::uint64_t> cuts);

    /// The rows of `places`, strictly rising, have copies on every rank, of which `rank` is this one: their
    /// ids go nowhere, but to these. Throws std::invalid_argument where there is no such rank or place.
    void keep_copies(std::size_t rank, std::vector<std::uint64_t> places);

    std::size_t num_ranks() const { return cuts_.size() - 1; }
    PartitionView partition() const { return partition_.view(); }
    const std::vector<std::uint64_t> &cuts() const { return cuts_; }
    const std::vector<std::uint64_t> &starts() const { return starts_; }

    /// Whose are the copies: this rank.
    std::size_t rank() const { return rank_; }
    /// The places of the rows that have copies.
    const std::vector<std::uint64_t> &copied() const { return copied_; }
    /// Which copy is that of a place; their number where it has none.
    std::size_t copy_of(std::uint64_t place) const {
        for (std::size_t slot = slot_of(place); !slots_.empty(); slot = (slot + 1) & (slots_.size() - 1)) {
            const std::size_t copy = slots_[slot];
            if (copy == copied_.size() || copied_[copy] == place)
                return copy;
        }
        return 0;
    }

private:
    std::size_t slot_of(std::uint64_t place) const {
        return static_cast<std::size_t>(place * 0x9E3779B97F4A7C15 >> shift_);
    }

    Partition partition_;
    std::vector<std::uint64_t> cuts_;
    std::vector<std::uint64_t> starts_; // of each shard, the place of its first row
    std::size_t rank_ = 0;
    std::vector<std::uint64_t> copied_;
    std::vector<std::size_t> slots_; // a hash table of copies, at most half full; none where there are none
    unsigned shift_ = 63;
};

/// Ids, and which of them take part.
struct Routing {
    const void *ids = nullptr;
    IdType id_type = IdType::i64;
    std::size_t count = 0;
    OutOfRange out_of_range = OutOfRange::error; // with `zeros`, an id outside goes nowhere
    std::uint64_t default_row = 0;
    bool has_padding = false; // this id is passed over
    std::int64_t padding = 0;
    bool skip_negative = false;
    const std::uint8_t *frozen = nullptr; // num_rows flags: rows that take part in divisors alone; or null
    std::uint64_t frozen_begin = 0;       // and so do the rows of this range
    std::uint64_t frozen_end = 0;
};

/// Each row once, grouped by rank and rising: `rows` (room for `count`) are numbers of rows of that rank, of
/// 4 bytes with `narrow` and else of 8; `counts` (num_ranks) says how many each rank gets, and places[i]
/// which of them id i is: their number itself where it is none, that and 1 and k for copy k, and -1 where it
/// is passed over. Returns the position of the first id that is refused, or all_in_range.
std::size_t route_rows(const Routes &routes, const Routing &ids, bool narrow, void *rows,
                       std::uint64_t *counts, std::int64_t *places);

/// Bags of ids, and weights: float32, or float64 with `wide`; or null.
struct RoutedBags {
    const std::int64_t *offsets = nullptr; // num_bags + 1, from 0 to the number of ids, never falling
    std::size_t num_bags = 0;
    const void *weights = nullptr;
    bool wide = false;
    bool skip_weightless = false; // ids with a weight that is not above 0 are passed over
    bool square_root = false;     // of the divisors: those of "sqrtn", else of "mean"
};

/// What bags become: pieces, each the ids of one bag that go to one rank; grouped by rank, in the order of
/// the bags. Copies are rows of this rank behind its own. All have room for `count` entries but as said.
struct Pieces {
    void *rows = nullptr;    // as in route_rows, but in the order of the ids, and as often as they are there
    void *weights = nullptr; // of these rows, where there are weights
    std::uint64_t *counts = nullptr;       // num_ranks: rows
    std::uint32_t *lengths = nullptr;      // of each piece
    std::int64_t *bags = nullptr;          // of each piece
    std::uint64_t *piece_counts = nullptr; // num_ranks
    std::int64_t *order = nullptr;         // the pieces of bag 0 by rank, those of bag 1, ...
    std::int64_t *ends = nullptr;          // num_bags + 1: where each bag begins in `order`
    double *divisors = nullptr;            // num_bags, or null
};

/// Returns the position of the first id that is refused, or all_in_range.
std::size_t route_bags(const Routes &routes, const Routing &ids, const RoutedBags &bags, bool narrow,
                       const Pieces &out);

} // namespace shardwise

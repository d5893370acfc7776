#pragma once
// How the ids of a table fall on its shards: arithmetic alone, no data.

#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(_MSC_VER)
#include <intrin.h>
#define SHARDWISE_INLINE __forceinline
#else
// Kernels are compiled once per instruction level: a function that is not inlined could be emitted with wide
// instructions and then be chosen by the linker for every caller.
#define SHARDWISE_INLINE inline __attribute__((always_inline))
#endif

namespace shardwise {

SHARDWISE_INLINE std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#if defined(_MSC_VER)
    return __umulh(a, b);
#else
    __extension__ using wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<wide>(a) * b) >> 64);
#endif
}

/// n / divisor for 0 <= n < 2^63 by one multiplication: magic = floor(2^(63+s) / divisor) + 1 with
/// s = ceil(log2 divisor) gives the exact quotient (Granlund and Montgomery 1994, theorem 4.2).
struct Divider {
    std::uint64_t magic = 0;
    std::uint64_t divisor = 1;
    std::uint64_t shift = 0;

    SHARDWISE_INLINE std::uint64_t operator()(std::uint64_t n) const {
        return multiply_high(magic, n << 1) >> shift;
    }
};

Divider make_divider(std::uint64_t divisor);

enum class Strategy : std::uint8_t { whole, mod, div, ranges };

struct Place {
    std::uint64_t shard;
    std::uint64_t row;
};

/// What a kernel needs of a Partition: plain values, and a pointer that the Partition owns.
struct PartitionView {
    Strategy strategy = Strategy::whole;
    std::uint64_t num_rows = 0;
    std::uint64_t num_shards = 1;
    Divider first;                            // mod: num_shards; div: the rows of a larger shard
    Divider second;                           // div: the rows of a smaller shard
    std::uint64_t split = 0;                  // div: the first id that lies in a smaller shard
    std::uint64_t num_larger = 0;             // div: how many shards have one row more
    const std::int64_t *boundaries = nullptr; // ranges: num_shards + 1 values, from 0 to num_rows
};

/// Where row `id` < num_rows lies.
template <Strategy S> SHARDWISE_INLINE Place locate(const PartitionView &p, std::uint64_t id) {
    if constexpr (S == Strategy::whole) {
        return {0, id};
    } else if constexpr (S == Strategy::mod) {
        const std::uint64_t row = p.first(id);
        return {id - row * p.num_shards, row};
    } else if constexpr (S == Strategy::div) {
        const bool larger = id < p.split;
        const std::uint64_t offset = larger ? id : id - p.split;
        const std::uint64_t before = larger ? 0 : p.num_larger;
        const std::uint64_t divisor = larger ? p.first.divisor : p.second.divisor;
        const std::uint64_t magic = larger ? p.first.magic : p.second.magic;
        const std::uint64_t shift = larger ? p.first.shift : p.second.shift;
        const std::uint64_t shard = multiply_high(magic, offset << 1) >> shift;
        return {before + shard, offset - shard * divisor};
    } else {
        // The last boundary that is <= id; a binary search whose steps are conditional moves.
        std::uint64_t low = 0;
        for (std::uint64_t length = p.num_shards; length > 1;) {
            const std::uint64_t half = length / 2;
            low += p.boundaries[low + half] <= static_cast<std::int64_t>(id) ? half : 0;
            length -= half;
        }
        return {low, id - static_cast<std::uint64_t>(p.boundaries[low])};
    }
}

/// `num_rows` ids on `num_shards` shards.
class Partition {
public:
    /// Id i lies in shard i % num_shards, as row i / num_shards.
    static Partition mod(std::int64_t num_rows, std::int64_t num_shards);
    /// Contiguous shards; the first num_rows % num_shards have one row more.
    static Partition div(std::int64_t num_rows, std::int64_t num_shards);
    /// Contiguous shards: shard k holds the ids from boundaries[k] up to boundaries[k + 1].
    static Partition ranges(std::vector<std::int64_t> boundaries);

    std::int64_t num_rows() const { return static_cast<std::int64_t>(view_.num_rows); }
    std::int64_t num_shards() const { return static_cast<std::int64_t>(view_.num_shards); }
    std::int64_t shard_size(std::int64_t shard) const;

    /// For kernels; valid while this Partition lives and is not moved.
    PartitionView view() const;

    /// Places of `count` ids; returns the position of the first id outside the table, or `count`.
    std::size_t locate(const std::int64_t *ids, std::size_t count, std::int64_t *shards,
                       std::int64_t *rows) const;

private:
    Partition(Strategy strategy, std::int64_t num_rows, std::int64_t num_shards);
    PartitionView view_;
    Strategy strategy_; // as made; view_ says `whole` where one shard makes them all the same
    std::vector<std::int64_t> boundaries_;
};

} // namespace shardwise

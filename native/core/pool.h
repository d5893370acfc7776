#pragma once
// Bags of rows, each combined to one row while it is read: no array of all the rows is made.

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/gather.h"
#include "core/pages.h"

namespace shardwise {

enum class Combiner : std::uint8_t { sum, mean, sqrtn, max };

/// The bags of one table.
struct Pool {
    Gather rows; // the ids, where their rows lie and in which format; `out` is not used

    const std::int64_t *offsets = nullptr; // num_bags + 1, from 0 to rows.count, in ascending order
    std::size_t num_bags = 0;
    /// One for each id, or null: float64 for float64 rows, float32 for all others.
    const void *weights = nullptr;
    Combiner combiner = Combiner::sum;

    bool has_padding = false; // ids equal to `padding` are no part of their bag
    std::int64_t padding = 0;
    bool skip_negative = false;   // nor are negative ids
    bool skip_weightless = false; // nor those with a weight that is not above 0

    bool has_default = false; // the row of empty bags; else it is zeros
    std::uint64_t default_row = 0;

    std::byte *out = nullptr;                  // num_bags rows of `rows.dim` elements of `out_format`
    RowFormat out_format = RowFormat::float32; // one of floats
    std::ptrdiff_t out_stride = 0;             // bytes from a bag's row to the next
    bool out_is_fresh = false;                 // as in Gather

    Watch *watch = nullptr; // of a table that is mapped: its rows may have to be read in first
};

/// The first id that is refused: of which task, and its position there.
struct RefusedId {
    std::size_t task = 0;
    std::size_t position = all_in_range; // there is none
};

/// Does them all at once; after an id was refused, `out` of any of them is partly written. Sums are made in
/// float32 (float64 for float64 rows), in the order of the ids, a row times its weight with one rounding.
RefusedId pool(std::span<const Pool> tasks);

/// The most rows, those of empty bags included, that a kernel combines at once.
inline constexpr std::size_t pool_group_rows = 192;

/// Bags [begin, end) of a task.
struct PoolPiece {
    const Pool *task;
    std::size_t begin, end;
};

/// One instruction level's kernel: columns [first, last) of the bags of pieces, one piece after the other; at
/// least one. Their rows and results are of one format and width, all have weights or none, all are combined
/// by max or none. `first` is a multiple of 64. `stream`: the rows are written past the caches; `out` and its
/// stride are multiples of 64 then, and rows are written as they are summed. Returns the position of an id
/// that is refused, the first of its task in these pieces, or all_in_range.
using PoolKernel = std::size_t (*)(const PoolPiece *pieces, std::size_t count, std::size_t first,
                                   std::size_t last, bool stream, std::byte *scratch);

/// Whether offsets begin with 0, never fall, and end with at most `most`.
bool are_splits(std::span<const std::int64_t> offsets, std::size_t most);

} // namespace shardwise

#pragma once
// Bags of rows, each combined to one row while it is read: no array of all the rows is made.

#include <cstddef>
#include <cstdint>

#include "core/gather.h"
#include "core/pages.h"

namespace shardwise {

enum class Combiner : std::uint8_t { sum, mean, sqrtn, max };

/// How the elements of a row lie in memory. int8 and int4 are unsigned steps, and a scale and a bias at the
/// row's end, as PyTorch and FBGEMM lay them: float32 behind int8, float16 behind int4.
enum class RowFormat : std::uint8_t { float16, bfloat16, float32, float64, int8, int4 };

struct Pool {
    Gather rows; // the ids and where their rows lie; `out` and `element` are not used
    RowFormat format = RowFormat::float32;
    std::size_t dim = 0; // elements of a row

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

    std::byte *out = nullptr;                  // num_bags rows of `dim` elements of `out_format`
    RowFormat out_format = RowFormat::float32; // one of floats
    std::ptrdiff_t out_stride = 0;             // bytes from a bag's row to the next
};

/// Does it. Returns all_in_range, or the position of the first id that is refused; `out` is then partly
/// written. Sums are made in float32 (float64 for float64 rows), in the order of the ids.
std::size_t pool(const Pool &task);

/// The same, and where rows are not in memory, with their pages read in ahead of it.
std::size_t pool_mapped(const Pool &task, Watch &watch);

/// One instruction level's kernel: columns [first, last) of bags [begin, end). `first` is a multiple of 64.
using PoolKernel = std::size_t (*)(const Pool &task, std::size_t begin, std::size_t end, std::size_t first,
                                   std::size_t last, std::byte *scratch);

} // namespace shardwise

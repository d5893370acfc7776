#pragma once
// The lookup: rows of shards copied to one block in the order of the ids, in one pass whatever the partition.

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/partition.h"
#include "core/row_format.h"

namespace shardwise {

enum class IdType : std::uint8_t { i8, i16, i32, i64, u8, u16, u32, u64 };

constexpr std::size_t size_of(IdType type) {
    return std::size_t{1} << (static_cast<unsigned>(type) % 4);
}

/// What an id outside the table does.
enum class OutOfRange : std::uint8_t { error, zeros, clamp, wrap, row };

/// The row that is meant by an id outside a table of `rows` rows; `rows` itself where there is none, for
/// `error` and `zeros`. A negative id is given as 64 bits that are taken for unsigned.
SHARDWISE_INLINE std::uint64_t replacement(OutOfRange policy, std::uint64_t rows, std::uint64_t default_row,
                                           std::uint64_t id, bool negative) {
    switch (policy) {
    case OutOfRange::error:
    case OutOfRange::zeros:
        break;
    case OutOfRange::clamp:
        return negative ? 0 : rows - 1;
    case OutOfRange::wrap: {
        if (!negative)
            return id % rows;
        const std::uint64_t rest = (0 - id) % rows;
        return rest == 0 ? 0 : rows - rest;
    }
    case OutOfRange::row:
        return default_row;
    }
    return rows;
}

struct Shard {
    const std::byte *data;
    std::ptrdiff_t stride; // bytes from a row to the next; negative where an array is reversed
};

struct Gather {
    PartitionView partition;
    const Shard *shards = nullptr;
    std::size_t row_bytes = 0;
    RowFormat format = RowFormat::opaque; // what the kernels need to know where they compute on elements
    std::size_t dim = 0;                  // elements of a row, where the format is not opaque

    const void *ids = nullptr;
    IdType id_type = IdType::i64;
    std::size_t count = 0;
    std::byte *out = nullptr;  // count * out_row_bytes(), contiguous
    bool out_is_fresh = false; // its pages were not touched before: the system clears each at the first write

    OutOfRange out_of_range = OutOfRange::error;
    std::uint64_t default_row = 0;       // for OutOfRange::row; < num_rows
    const std::byte *zero_row = nullptr; // for OutOfRange::zeros; row_bytes of 0

    RowFormat out_format = RowFormat::opaque; // floats, where rows are written in another format than theirs

    /// Rows with a larger L2 norm are scaled down to it, in the format that they are written in.
    double max_norm = std::numeric_limits<double>::infinity();

    bool converts() const { return out_format != RowFormat::opaque; }
    bool clips() const { return max_norm < std::numeric_limits<double>::infinity(); }
    std::size_t out_row_bytes() const { return converts() ? row_bytes_of(out_format, dim) : row_bytes; }
};

inline constexpr std::size_t all_in_range = SIZE_MAX;

/// Does the lookup. Returns all_in_range, or the position of the first id that is out of range under
/// OutOfRange::error; `out` is then partly written.
std::size_t gather(const Gather &task);

/// The position of the first id that is not in [0, num_rows), or all_in_range.
std::size_t find_out_of_range(const void *ids, IdType type, std::size_t count, std::uint64_t num_rows);

/// The id at a position, as a number that keeps its sign.
struct Id {
    std::uint64_t bits;
    bool negative;
};
Id id_at(const void *ids, IdType type, std::size_t position);

/// How a result goes to memory: through the caches, or past them where its rows allow that.
enum class Traffic : std::uint8_t { cached, stream };

/// One instruction level's kernel: ids [begin, end) of the task.
using GatherKernel = std::size_t (*)(const Gather &task, std::size_t begin, std::size_t end, Traffic traffic);

/// The kernel of a level, an index into `level_names` that is less than supported_levels().
GatherKernel gather_kernel(std::size_t level);

} // namespace shardwise

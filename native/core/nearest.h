#pragma once
// The rows nearest to each of many queries: all products of a block of rows and the queries, of which only
// those above a query's worst so far leave the registers.
//
// Where the processor multiplies bytes, most products are of bytes, four for the time of one of floats: they
// tell which pairs may be above the worst, with a bound of what the rounding to bytes lost, and those alone
// are multiplied as floats. The answers are the same bits.

#include <cstddef>
#include <cstdint>

namespace shardwise {

struct Nearest {
    const float *queries = nullptr; // rows of `dim`, contiguous
    std::size_t num_queries = 0;
    std::size_t dim = 0;

    const std::byte *rows = nullptr; // of `dim` floats that each lie in one piece
    std::ptrdiff_t stride = 0;       // bytes from a row to the next
    std::size_t num_rows = 0;
    const float *factors = nullptr; // of each row: its scores are its products times this
    std::int64_t first_id = 0;      // of the first row; that of the others follows

    /// The best so far: for each query a heap of `keep` ids and scores, at least 1, the worst in front: the
    /// lowest score, and of equal ones the highest id. Scores of -inf stand for none.
    std::size_t keep = 1;
    std::int64_t *ids = nullptr;
    float *scores = nullptr;
};

/// How the products are made: as it takes the least time; all as floats; by bytes first, where the processor
/// has that and the rows fit (for tests).
enum class Products { fastest, floats, bytes };

/// Puts the rows whose scores exceed a query's worst in its place, in the order of their ids. A score that is
/// NaN exceeds nothing. A product's terms are added in the order of the columns, rounded after each addition,
/// and on processors that fuse it with the multiplication not before it. False where products of bytes were
/// of little use: most rows may be among the best. Throws std::bad_alloc.
bool find_nearest(const Nearest &task, Products products = Products::fastest);

inline constexpr std::size_t nearest_queries = 64;    // in a tile of products, at most
inline constexpr std::size_t byte_group = 12;         // rows that share a bound
inline constexpr std::size_t most_byte_dim = 1 << 14; // 32 bits hold any sum, and floats its margin

/// Rows rounded to bytes, in groups of `byte_group`, the last one filled up. A row is its bytes times its
/// scale, and an error; all but the bytes are times the row's factor.
struct ByteRows {
    struct Bound {
        float error; // no row's error is longer; -1 where a row is out of the bytes' reach
        float norm;  // no row is longer
    };
    std::size_t num_groups = 0;
    std::size_t stride = 0;         // bytes of a row, `dim` rounded up to a multiple of 4; the rest are 0
    std::int8_t *bytes = nullptr;   // -127 to 127
    float *scales = nullptr;        // of each row; NaN of what is none
    std::int32_t *starts = nullptr; // of each row: its bytes' sum times -128
    Bound *bounds = nullptr;        // of each group
};

struct NearestKernels {
    /// Queries [begin, end) by all rows; `room`, a multiple of 64, is for `nearest_queries` floats of each
    /// column.
    void (*by_floats)(const Nearest &task, std::size_t begin, std::size_t end, float *room);
    /// Fills groups [begin, end) of `rows`. Null, as the next, where the level has no products of bytes.
    void (*to_bytes)(const Nearest &task, const ByteRows &rows, std::size_t begin, std::size_t end);
    /// As by_floats; `packed`, a multiple of 64, is for `nearest_queries` + 1 rows of bytes. Returns how many
    /// pairs of a group and a query were multiplied as floats all the same.
    std::size_t (*by_bytes)(const Nearest &task, const ByteRows &rows, std::size_t begin, std::size_t end,
                            float *room, std::uint8_t *packed);
};
NearestKernels nearest_kernels(std::size_t level);

} // namespace shardwise

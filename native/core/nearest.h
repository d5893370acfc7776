#pragma once
// The rows nearest to each of many queries: all products of a block of rows and the queries, of which only
// those above a query's worst so far leave the registers.

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

/// Puts the rows whose scores exceed a query's worst in its place, in the order of their ids. A score that is
/// NaN exceeds nothing. A product's terms are added in the order of the columns, rounded after each addition,
/// and on processors that fuse it with the multiplication not before it.
void find_nearest(const Nearest &task);

/// Queries [begin, end); `room`, a multiple of 64, is for `nearest_queries` floats of each column.
using NearestKernel = void (*)(const Nearest &task, std::size_t begin, std::size_t end, float *room);
NearestKernel nearest_kernel(std::size_t level);

inline constexpr std::size_t nearest_queries = 64; // in a tile of products, at most

} // namespace shardwise

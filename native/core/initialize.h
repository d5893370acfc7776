#pragma once
// First values of rows, each a function of (seed, row id, column) alone: no order of filling, number of
// shards or of threads changes them.

#include <cstddef>
#include <cstdint>

namespace shardwise {

enum class Distribution : std::uint8_t {
    uniform,         // from a up to b
    normal,          // mean a, standard deviation b
    truncated_normal // the same, within two standard deviations of the mean
};

struct Initialize {
    Distribution distribution = Distribution::uniform;
    double a = 0;
    double b = 0;
    std::uint64_t seed = 0;
};

/// Fills `out[k, j]` for the rows `ids[k]`, k < count, and the columns j < columns. T is float or double.
template <class T>
void initialize(const Initialize &how, const std::int64_t *ids, std::size_t count, std::size_t columns,
                T *out);

} // namespace shardwise

#pragma once
// Rows of vectors as text and in word2vec's binary form, as text.h reads them. Rows are float32, `dim`
// values each and one after the other; what does not fit together throws std::invalid_argument.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shardwise {

/// Tokens of rows that follow each other: the token of row i is [offsets[i], offsets[i + 1]) of `bytes`.
struct RowTokens {
    const std::uint8_t *bytes;
    std::size_t size;
    const std::int64_t *offsets; // one more than there are rows
};

/// Each row as a line: its token, and before each value a space. A value is the shortest decimal number that
/// parse_float reads back as the same float, or "nan", "inf" with their signs.
std::vector<std::uint8_t> format_rows(const float *rows, std::size_t count, std::size_t dim,
                                      const RowTokens &tokens);

/// Each row as its token, a space, its values as little-endian float32, and a newline.
std::vector<std::uint8_t> pack_rows(const float *rows, std::size_t count, std::size_t dim,
                                    const RowTokens &tokens);

} // namespace shardwise

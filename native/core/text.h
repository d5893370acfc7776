#pragma once
// Vectors in text and in word2vec's binary form, read from a mapped file in two passes: where the rows are,
// then their values. A row is a token, one separator byte and `dim` values, so two positions describe it:
// where its token starts and where its values start. Everything that a file says is checked; a bad file
// throws std::invalid_argument with the line or row, what was expected and what is there.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shardwise {

/// The float32 nearest to the decimal number that fills [begin, end); ties go to even. Takes a leading '+',
/// "nan", "inf" and "infinity"; what is too large becomes inf, too small 0. Returns false for anything else.
bool parse_float(const char *begin, const char *end, float &out);

struct RowIndex {
    std::vector<std::int64_t> token_starts;
    std::vector<std::int64_t> value_starts; // a token ends one byte before its values start
    std::size_t next;                       // where the next call goes on
};

/// The size of a text without the blank lines, spaces, tabs and line ends after its last row.
std::size_t text_end(const char *data, std::size_t size);

/// Indexes the lines that start in [begin, end), at most `max_rows`; `begin` must be the start of a line.
/// The values are a line's last `dim` fields, cut at spaces (or tabs); the token is all before the one byte
/// in front of them: it may be empty, have spaces, and need not be UTF-8. Trailing spaces and a '\r' before
/// '\n' are no part of a line. A line without enough fields is an error, and so is one whose token ends in
/// " 1.5" or the like: that is a row of more values.
RowIndex index_text(const char *data, std::size_t size, std::size_t begin, std::size_t end, std::size_t dim,
                    std::size_t max_rows);

/// Parses the `dim` values at each start into rows of `out`, `stride` floats apart.
void parse_rows(const char *data, std::size_t size, const std::int64_t *starts, std::size_t count,
                std::size_t dim, float *out, std::size_t stride);

/// Indexes rows of word2vec's binary form from `begin` until `max_rows` or `max_bytes` are passed or the data
/// ends. A token goes up to the first space; newlines in front of it are the end of the row before.
/// `first_row` is for messages.
RowIndex index_binary(const char *data, std::size_t size, std::size_t begin, std::size_t dim,
                      std::size_t max_rows, std::size_t max_bytes, std::size_t first_row);

/// Copies the `dim` little-endian float32 at each start into rows of `out`, `stride` floats apart.
void copy_rows(const char *data, std::size_t size, const std::int64_t *starts, std::size_t count,
               std::size_t dim, float *out, std::size_t stride);

struct PackedTokens {
    std::vector<std::uint8_t> bytes;
    std::vector<std::int64_t> offsets; // one more than there are tokens
};

/// Lays the indexed tokens end to end.
PackedTokens gather_tokens(const char *data, std::size_t size, const std::int64_t *token_starts,
                           const std::int64_t *value_starts, std::size_t count);

} // namespace shardwise

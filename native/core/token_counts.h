#pragma once
// Counts tokens: of text, cut at white space, and of lists. The memory grows with the distinct tokens, not
// with the text, and the result is the same for every number of threads.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/tokens.h"

namespace shardwise {

/// Distinct tokens end to end in the order in which they were first seen, and how often.
struct CountedTokens {
    std::vector<std::uint8_t> bytes;
    std::vector<std::int64_t> offsets; // one more than there are tokens
    std::vector<std::int64_t> counts;
};

/// One thread at a time may call a function. After an exception the counts are of no use.
class TokenCounts {
public:
    TokenCounts();
    ~TokenCounts();
    TokenCounts(TokenCounts &&) noexcept;
    TokenCounts &operator=(TokenCounts &&) noexcept;

    /// Counts the tokens of a block of text: the runs of bytes that are no ASCII white space (space, \t, \n,
    /// \v, \f, \r). Returns how many bytes were used: all of them if this is the `last` block of a text, else
    /// those up to the last white space, for what follows may be the beginning of a longer token.
    std::size_t count_text(const std::uint8_t *data, std::size_t size, bool last);

    /// Counts each token, whatever its bytes; token `i` as often as `weights[i]` says, which may be null for
    /// once each. Throws std::invalid_argument for offsets that are not in order.
    void count_tokens(const Tokens &tokens, const std::int64_t *weights = nullptr);

    /// How many distinct tokens there are.
    std::size_t size() const;

    /// How many tokens were counted.
    std::uint64_t total() const;

    /// The tokens that were counted at least `min_count` times.
    CountedTokens tokens(std::int64_t min_count) const;

    /// counts[i] = how often token `i` was counted. Throws std::invalid_argument for offsets that are not in
    /// order.
    void find(const Tokens &tokens, std::int64_t *counts) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Which of two tokens that occur equally often goes first: the one with the lower number, with the lower
/// bytes, or with the higher bytes.
enum class Ties { first, ascending, descending };

/// The numbers of the tokens, the most frequent first. Throws std::invalid_argument for offsets that are not
/// in order.
std::vector<std::int64_t> order_tokens(const Tokens &tokens, const std::int64_t *counts, Ties ties);

/// Tokens end to end, in the order of `ids`. Throws std::invalid_argument for an id that is none, or offsets
/// that are not in order.
CountedTokens take_tokens(const Tokens &tokens, const std::int64_t *counts, const std::int64_t *ids,
                          std::size_t num_ids);

} // namespace shardwise

#pragma once
// Looks up many tokens in a map.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/token_map.h"

namespace shardwise {

/// ids[i] = the id of wanted token `i`, or `missing`. Returns how many are missing. Throws
/// std::invalid_argument where the map is damaged, std::out_of_range where `wanted` is.
std::size_t find_tokens(const TokenMap &map, const Tokens &wanted, std::int64_t *ids,
                        std::int64_t missing = -1);
std::size_t find_tokens(const TokenMap &map, const ShortTokens &wanted, std::int64_t *ids,
                        std::int64_t missing = -1);

/// Says where tokens lie that may lie apart. Called by several threads at once.
class TokenLocator {
public:
    /// Fills `spans` with tokens [begin, end). The 16 bytes before a token's end must be readable. Where it
    /// cannot give a token, the span is `elsewhere`.
    virtual void locate(std::size_t begin, std::size_t end, TokenSpan *spans) const = 0;

    static constexpr TokenSpan elsewhere{nullptr, ~std::size_t{0}};

protected:
    ~TokenLocator() = default;
};

/// The same for tokens that lie apart, piece by piece: what one call learns of the tokens helps the next.
/// `count` is about how many there are in all.
class TokenFinder {
public:
    TokenFinder(const TokenMap &map, std::size_t count);
    ~TokenFinder();
    TokenFinder(const TokenFinder &) = delete;
    TokenFinder &operator=(const TokenFinder &) = delete;

    /// The ids of tokens that are elsewhere are set to nothing of use, and their numbers put into
    /// `elsewhere`, in ascending order; they do not count as missing.
    std::size_t find(const TokenLocator &wanted, std::size_t count, std::int64_t *ids, std::int64_t missing,
                     std::vector<std::size_t> &elsewhere);

    /// On the calling thread, of spans with nothing readable around them.
    std::size_t find(const TokenSpan *wanted, std::size_t count, std::int64_t *ids, std::int64_t missing);

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace shardwise

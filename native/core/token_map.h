#pragma once
// A hash map from token bytes to row ids that lives in flat arrays: a file can be mapped and used as it is.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/mapped_file.h"

namespace shardwise {

/// Token `i` is the bytes [offsets[i], offsets[i + 1]); `offsets` has `count + 1` entries. Nothing here is
/// trusted: every function checks an offset before it follows it.
template <class Offset> struct BasicTokens {
    const std::uint8_t *bytes;
    std::size_t size;
    const Offset *offsets;
    std::size_t count;
};

using Tokens = BasicTokens<std::int64_t>;
using ShortTokens = BasicTokens<std::int32_t>; // as Arrow keeps most strings

/// One token where it lies; `begin` may be anything where `size` is 0.
struct TokenSpan {
    const std::uint8_t *begin;
    std::size_t size;
};

/// Open addressing with linear probing from `hash & (num_slots - 1)`. A slot is the hash's top 16 bits, then
/// 48 bits of `id + 1`; 0 is empty. `num_slots` is token_map_slots() or a larger power of two.
struct TokenMap {
    Tokens tokens;
    const std::uint64_t *slots;
    std::size_t num_slots;
    const MappedFile *file = nullptr; // where given: what the arrays are mapped from, to be read in pieces
};

/// XXH64 with seed 0.
std::uint64_t hash64(const std::uint8_t *data, std::size_t size);

/// The number of slots for `count` tokens: the least power of two >= 2 * count, and at least 8.
std::size_t token_map_slots(std::size_t count);

/// Cuts `joined`, `count` tokens with one NUL between neighbours, into `bytes` (of `size - (count - 1)`)
/// and `offsets` (of `count + 1`). Throws std::invalid_argument if the NULs are not `count - 1`.
void unjoin_tokens(const std::uint8_t *joined, std::size_t size, std::size_t count, std::uint8_t *bytes,
                   std::int64_t *offsets);

/// Fills `slots`; `first_of[i]` is the first id with the bytes of token `i`, and only that id can be found.
/// Returns how many tokens are repetitions. Throws std::invalid_argument for offsets that are not in order.
std::size_t build_token_map(const Tokens &tokens, std::uint64_t *slots, std::size_t num_slots,
                            std::int64_t *first_of);

/// The checks that cost nothing: the ends of `offsets` and the number of slots. Offsets between the ends and
/// slots are checked where they are used, so that opening a mapped file reads none of its pages.
/// Throws std::invalid_argument.
void validate_token_map(const TokenMap &map);

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

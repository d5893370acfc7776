#pragma once
// A hash map from token bytes to row ids that lives in flat arrays: a file can be mapped and used as it is.

#include <cstddef>
#include <cstdint>
#include <memory>

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

/// ids[i] = the id of wanted token `i`, or `missing`. Throws std::invalid_argument where the map is damaged,
/// std::out_of_range where `wanted` is.
void find_tokens(const TokenMap &map, const Tokens &wanted, std::int64_t *ids, std::int64_t missing = -1);
void find_tokens(const TokenMap &map, const ShortTokens &wanted, std::int64_t *ids,
                 std::int64_t missing = -1);

/// The same on one thread for tokens that lie apart, block by block; `count` is about how many there are in
/// all.
class SpanFinder {
public:
    SpanFinder(const TokenMap &map, std::size_t count);
    ~SpanFinder();
    SpanFinder(const SpanFinder &) = delete;
    SpanFinder &operator=(const SpanFinder &) = delete;

    void find(const TokenSpan *wanted, std::size_t count, std::int64_t *ids, std::int64_t missing = -1);

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace shardwise

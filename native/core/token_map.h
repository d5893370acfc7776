#pragma once
// A hash map from token bytes to row ids that lives in flat arrays: a file can be mapped and used as it is.

#include <cstddef>
#include <cstdint>

#include "core/mapped_file.h"
#include "core/tokens.h"

namespace shardwise {

/// Open addressing with linear probing from `hash & (num_slots - 1)`. A slot is the hash's top 16 bits, then
/// 48 bits of `id + 1`; 0 is empty. `num_slots` is token_map_slots() or a larger power of two.
struct TokenMap {
    Tokens tokens;
    const std::uint64_t *slots;
    std::size_t num_slots;
    const MappedFile *file = nullptr; // where given: what the arrays are mapped from, to be read in pieces
};

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

/// Enough loads in flight to hide one trip to memory.
inline constexpr std::size_t token_batch = 32;

/// ids[i] = the id of token `i`, or -1, of at most `token_batch` tokens. Returns how many are missing. Throws
/// std::invalid_argument where the map is damaged.
std::size_t find_batch(const TokenMap &map, const TokenSpan *wanted, std::size_t count, std::int64_t *ids);

} // namespace shardwise

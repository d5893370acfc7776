#pragma once
// Tokens as the core takes them, and their hashes.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace shardwise {

static_assert(std::endian::native == std::endian::little,
              "tokens are stored and hashed as little-endian words");

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

template <class T> T load(const std::uint8_t *p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

namespace xxh64 {

inline constexpr std::uint64_t P1 = 0x9E3779B185EBCA87u, P2 = 0xC2B2AE3D27D4EB4Fu, P3 = 0x165667B19E3779F9u,
                               P4 = 0x85EBCA77C2B2AE63u, P5 = 0x27D4EB2F165667C5u;

inline std::uint64_t mix(std::uint64_t lane, std::uint64_t input) {
    return std::rotl(lane + input * P2, 31) * P1;
}

} // namespace xxh64

/// XXH64 with seed 0, after the public specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
inline std::uint64_t hash64(const std::uint8_t *data, std::size_t size) {
    using namespace xxh64;
    const std::uint8_t *p = data;
    std::size_t left = size;
    std::uint64_t hash = P5;
    if (left >= 32) {
        std::uint64_t lanes[4] = {P1 + P2, P2, 0, 0 - P1};
        for (; left >= 32; left -= 32)
            for (std::uint64_t &lane : lanes) {
                lane = mix(lane, load<std::uint64_t>(p));
                p += 8;
            }
        hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
               std::rotl(lanes[3], 18);
        for (std::uint64_t lane : lanes)
            hash = (hash ^ mix(0, lane)) * P1 + P4;
    }
    hash += size;
    for (; left >= 8; left -= 8, p += 8)
        hash = std::rotl(hash ^ mix(0, load<std::uint64_t>(p)), 27) * P1 + P4;
    if (left >= 4) {
        hash = std::rotl(hash ^ load<std::uint32_t>(p) * P1, 23) * P2 + P3;
        left -= 4;
        p += 4;
    }
    for (; left > 0; --left, ++p)
        hash = std::rotl(hash ^ *p * P5, 11) * P1;
    hash = (hash ^ (hash >> 33)) * P2;
    hash = (hash ^ (hash >> 29)) * P3;
    return hash ^ (hash >> 32);
}

/// A cheap hash of two words, of which the upper bits are good.
inline std::uint64_t hash_words(std::uint64_t low, std::uint64_t high) {
    return (low + std::rotl(high * xxh64::P2, 32)) * xxh64::P1;
}

} // namespace shardwise

#pragma once
// The two hashes by which TensorFlow puts strings into buckets. They are the same on every machine, and are
// kept for good: models were trained with them.

#include <cstddef>
#include <cstdint>

#include "core/tokens.h"

namespace shardwise {

struct SipKey {
    std::uint64_t first;
    std::uint64_t second;
};

/// FarmHash's Fingerprint64 (github.com/google/farmhash): TensorFlow's "fast" hash.
std::uint64_t fingerprint64(const std::uint8_t *data, std::size_t size);

/// SipHash-2-4 (Aumasson and Bernstein, 2012): TensorFlow's "strong" hash. The key's bytes are the two words,
/// little-endian.
std::uint64_t siphash64(const SipKey &key, const std::uint8_t *data, std::size_t size);

/// buckets[i] = hash of token `i` modulo `count`: siphash64 with a key, fingerprint64 without. Throws
/// std::invalid_argument for offsets that are not in order, and for a count of 0.
void hash_buckets(const Tokens &tokens, std::uint64_t count, const SipKey *key, std::int64_t *buckets);

} // namespace shardwise

#include "core/fingerprint.h"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/threads.h"

namespace shardwise {
namespace {

constexpr std::size_t grain = 2048; // tokens: some tens of microseconds

std::uint64_t load64(const std::uint8_t *p) {
    return load<std::uint64_t>(p);
}

std::uint64_t load32(const std::uint8_t *p) {
    return load<std::uint32_t>(p);
}

// ---- Fingerprint64: one rule for each class of lengths ----

constexpr std::uint64_t K0 = 0xc3a5c85c97cb3127u, K1 = 0xb492b66fbe98f273u, K2 = 0x9ae16a3b2f90404fu;

std::uint64_t fold(std::uint64_t value) {
    return value ^ (value >> 47);
}

std::uint64_t mix(std::uint64_t u, std::uint64_t v, std::uint64_t factor) {
    const std::uint64_t inner = fold((u ^ v) * factor);
    return fold((v ^ inner) * factor) * factor;
}

std::uint64_t short_hash(const std::uint8_t *p, std::size_t size) {
    const std::uint64_t factor = K2 + 2 * size;
    if (size >= 8) {
        const std::uint64_t a = load64(p) + K2, b = load64(p + size - 8);
        return mix(std::rotr(b, 37) * factor + a, (std::rotr(a, 25) + b) * factor, factor);
    }
    if (size >= 4)
        return mix(size + (load32(p) << 3), load32(p + size - 4), factor);
    if (size == 0)
        return K2;
    const std::uint64_t y = p[0] + (std::uint64_t{p[size / 2]} << 8);
    const std::uint64_t z = size + (std::uint64_t{p[size - 1]} << 2);
    return fold((y * K2) ^ (z * K0)) * K2;
}

struct Pair {
    std::uint64_t first;
    std::uint64_t second;
};

/// What the lengths from 17 to 64 have in common: of the first two words and the last two.
Pair ends_of(const std::uint8_t *p, std::size_t size, std::uint64_t k, std::uint64_t factor) {
    const std::uint64_t a = load64(p) * k, b = load64(p + 8);
    const std::uint64_t c = load64(p + size - 8) * factor, d = load64(p + size - 16) * K2;
    return {std::rotr(a + b, 43) + std::rotr(c, 30) + d, a + std::rotr(b + K2, 18) + c};
}

std::uint64_t middle_hash(const std::uint8_t *p, std::size_t size) {
    const std::uint64_t factor = K2 + 2 * size;
    if (size <= 32) {
        const Pair ends = ends_of(p, size, K1, factor);
        return mix(ends.first, ends.second, factor);
    }
    const Pair ends = ends_of(p, size, K2, factor);
    const std::uint64_t z = mix(ends.first, ends.second, factor);
    const std::uint64_t e = load64(p + 16) * factor, f = load64(p + 24);
    const std::uint64_t g = (ends.first + load64(p + size - 32)) * factor;
    const std::uint64_t h = (z + load64(p + size - 24)) * factor;
    return mix(std::rotr(e + f, 43) + std::rotr(g, 30) + h, e + std::rotr(f + load64(p) * K2, 18) + g,
               factor);
}

/// Stirs 32 bytes into a pair.
Pair stir(const std::uint8_t *p, std::uint64_t a, std::uint64_t b) {
    a += load64(p);
    const std::uint64_t sum = a + load64(p + 8) + load64(p + 16);
    b = std::rotr(b + a + load64(p + 24), 21) + std::rotr(sum, 44);
    return {sum + load64(p + 24), b + a};
}

struct LongState {
    std::uint64_t x, y, z;
    Pair v, w;

    /// Takes in 64 bytes. The last block, which overlaps the one before, is weighed by other factors.
    void take(const std::uint8_t *p, std::uint64_t factor, std::uint64_t weight) {
        x = std::rotr(x + y + v.first + load64(p + 8), 37) * factor;
        y = std::rotr(y + v.second + load64(p + 48), 42) * factor;
        x ^= w.second * weight;
        y += v.first * weight + load64(p + 40);
        z = std::rotr(z + w.first, 33) * factor;
        v = stir(p, v.second * factor, x + w.first);
        w = stir(p + 32, z + w.second, y + load64(p + 16));
        std::swap(z, x);
    }
};

std::uint64_t long_hash(const std::uint8_t *p, std::size_t size) {
    constexpr std::uint64_t seed = 81;
    LongState state{};
    state.y = seed * K1 + 113;
    state.z = fold(state.y * K2 + 113) * K2;
    state.x = seed * K2 + load64(p);
    const std::size_t whole = (size - 1) / 64 * 64; // without the last block, whole or not
    for (std::size_t at = 0; at < whole; at += 64)
        state.take(p + at, K1, 1);
    const std::uint64_t factor = K1 + 2 * (state.z & 0xff);
    state.w.first += (size - 1) & 63;
    state.v.first += state.w.first;
    state.w.first += state.v.first;
    state.take(p + size - 64, factor, 9);
    return mix(mix(state.v.first, state.w.first, factor) + fold(state.y) * K0 + state.z,
               mix(state.v.second, state.w.second, factor) + state.x, factor);
}

// ---- SipHash-2-4 ----

struct SipState {
    std::uint64_t v[4];

    explicit SipState(const SipKey &key)
        : v{key.first ^ 0x736f6d6570736575u, key.second ^ 0x646f72616e646f6du,
            key.first ^ 0x6c7967656e657261u, key.second ^ 0x7465646279746573u} {}

    void round() {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = std::rotl(v[1], 13) ^ v[0];
        v[3] = std::rotl(v[3], 16) ^ v[2];
        v[0] = std::rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = std::rotl(v[1], 17) ^ v[2];
        v[3] = std::rotl(v[3], 21) ^ v[0];
        v[2] = std::rotl(v[2], 32);
    }

    void take(std::uint64_t word) {
        v[3] ^= word;
        round();
        round();
        v[0] ^= word;
    }
};

} // namespace

std::uint64_t fingerprint64(const std::uint8_t *data, std::size_t size) {
    if (size <= 16)
        return short_hash(data, size);
    return size <= 64 ? middle_hash(data, size) : long_hash(data, size);
}

std::uint64_t siphash64(const SipKey &key, const std::uint8_t *data, std::size_t size) {
    SipState state(key);
    const std::size_t left = size % 8, whole = size - left;
    for (std::size_t at = 0; at < whole; at += 8)
        state.take(load64(data + at));
    std::uint64_t last = static_cast<std::uint64_t>(size) << 56;
    for (std::size_t i = 0; i < left; ++i)
        last |= std::uint64_t{data[whole + i]} << (8 * i);
    state.take(last);
    state.v[2] ^= 0xff;
    for (int i = 0; i < 4; ++i)
        state.round();
    return state.v[0] ^ state.v[1] ^ state.v[2] ^ state.v[3];
}

void hash_buckets(const Tokens &tokens, std::uint64_t count, const SipKey *key, std::int64_t *buckets) {
    if (count == 0)
        throw std::invalid_argument("expected at least 1 bucket, got 0");
    parallel_for(tokens.count, grain, [&](std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i) {
            const std::int64_t begin = tokens.offsets[i], end = tokens.offsets[i + 1];
            if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > tokens.size)
                throw std::invalid_argument("expected offsets in ascending order within the " +
                                            std::to_string(tokens.size) + " bytes of the tokens, got " +
                                            std::to_string(begin) + " and " + std::to_string(end));
            const std::uint8_t *const bytes = tokens.bytes + begin;
            const auto size = static_cast<std::size_t>(end - begin);
            const std::uint64_t hash =
                key == nullptr ? fingerprint64(bytes, size) : siphash64(*key, bytes, size);
            buckets[i] = static_cast<std::int64_t>(hash % count);
        }
    });
}

} // namespace shardwise

#include "core/token_map.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "core/threads.h"

namespace shardwise {

static_assert(std::endian::native == std::endian::little, "tokens and slots are stored little-endian");

// ---- XXH64, after the public specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) ----

namespace {

constexpr std::uint64_t P1 = 0x9E3779B185EBCA87u, P2 = 0xC2B2AE3D27D4EB4Fu, P3 = 0x165667B19E3779F9u,
                        P4 = 0x85EBCA77C2B2AE63u, P5 = 0x27D4EB2F165667C5u;

template <class T> T load(const std::uint8_t *p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

std::uint64_t mix(std::uint64_t lane, std::uint64_t input) {
    return std::rotl(lane + input * P2, 31) * P1;
}

} // namespace

std::uint64_t hash64(const std::uint8_t *data, std::size_t size) {
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

// ---- the map ----

namespace {

constexpr std::uint64_t id_mask = (std::uint64_t{1} << 48) - 1;
constexpr std::size_t batch = 32; // enough loads in flight to hide one trip to memory

using Span = TokenSpan;

[[noreturn]] void damaged(const std::string &what) {
    throw std::invalid_argument("the token map is damaged: " + what);
}

Span token_at(const Tokens &tokens, std::size_t id) {
    const std::int64_t begin = tokens.offsets[id], end = tokens.offsets[id + 1];
    if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > tokens.size)
        damaged("expected token " + std::to_string(id) + " within " + std::to_string(tokens.size) +
                " bytes, got bytes " + std::to_string(begin) + " to " + std::to_string(end));
    return {tokens.bytes + begin, static_cast<std::size_t>(end - begin)};
}

bool equal(Span a, Span b) {
    return a.size == b.size && (a.size == 0 || std::memcmp(a.begin, b.begin, a.size) == 0);
}

std::uint64_t tag_of(std::uint64_t hash) {
    return hash & ~id_mask;
}

void check_slots(std::size_t num_slots, std::size_t count) {
    if (count > id_mask - 1 || !std::has_single_bit(num_slots) || num_slots < token_map_slots(count))
        throw std::invalid_argument("expected a power of two of slots, at least twice the " +
                                    std::to_string(count) + " tokens, got " + std::to_string(num_slots));
}

/// Hashes the tokens [begin, end), at most `batch`, and asks for their slots. `at(i)` is token `i`.
template <class At>
void hash_batch(const At &at, std::size_t begin, std::size_t end, const std::uint64_t *slots,
                std::size_t num_slots, Span *spans, std::uint64_t *hashes) {
    for (std::size_t i = begin; i < end; ++i) {
        const Span span = at(i);
        const std::uint64_t hash = hash64(span.begin, span.size);
        __builtin_prefetch(slots + (hash & (num_slots - 1)));
        spans[i - begin] = span;
        hashes[i - begin] = hash;
    }
}

/// Walks the probe sequence to `token` or to the first empty slot. Returns the slot's index.
/// The walk is bounded: a hostile file may hold no empty slot.
std::size_t probe(const Tokens &tokens, const std::uint64_t *slots, std::size_t num_slots, Span token,
                  std::uint64_t hash) {
    std::size_t at = hash & (num_slots - 1);
    for (std::size_t step = 0; step < num_slots; ++step, at = (at + 1) & (num_slots - 1)) {
        const std::uint64_t slot = slots[at];
        if (slot == 0)
            return at;
        if (tag_of(slot ^ hash) != 0)
            continue;
        const std::uint64_t id = (slot & id_mask) - 1;
        if (id >= tokens.count)
            damaged("expected an id below " + std::to_string(tokens.count) + " in slot " +
                    std::to_string(at) + ", got " + std::to_string(static_cast<std::int64_t>(id)));
        if (equal(token_at(tokens, id), token))
            return at;
    }
    damaged("expected an empty slot, got none");
}

/// Asks for the offsets (`bytes` false) or the bytes (`bytes` true) of the token in the hash's first slot.
void prefetch_candidate(const TokenMap &map, std::uint64_t hash, bool bytes) {
    const std::uint64_t slot = map.slots[hash & (map.num_slots - 1)];
    const std::uint64_t id = (slot & id_mask) - 1;
    if (tag_of(slot ^ hash) != 0 || id >= map.tokens.count)
        return;
    if (!bytes) {
        __builtin_prefetch(map.tokens.offsets + id);
        return;
    }
    const std::int64_t begin = map.tokens.offsets[id];
    if (begin >= 0 && static_cast<std::uint64_t>(begin) < map.tokens.size)
        __builtin_prefetch(map.tokens.bytes + begin);
}

} // namespace

std::size_t token_map_slots(std::size_t count) {
    if (count > id_mask - 1)
        throw std::invalid_argument("expected fewer than 2**48 tokens, got " + std::to_string(count));
    return std::bit_ceil(std::max<std::size_t>(8, 2 * count));
}

void unjoin_tokens(const std::uint8_t *joined, std::size_t size, std::size_t count, std::uint8_t *bytes,
                   std::int64_t *offsets) {
    offsets[0] = 0;
    const std::uint8_t *p = joined, *const end = joined + size;
    std::size_t found = 0;
    for (std::uint8_t *to = bytes; found < count; ++found) {
        const auto *nul =
            p == end
                ? nullptr
                : static_cast<const std::uint8_t *>(std::memchr(p, 0, static_cast<std::size_t>(end - p)));
        const std::uint8_t *stop = nul == nullptr ? end : nul;
        if ((nul == nullptr) != (found + 1 == count))
            break;
        if (stop != p)
            std::memcpy(to, p, static_cast<std::size_t>(stop - p));
        to += stop - p;
        offsets[found + 1] = to - bytes;
        p = nul == nullptr ? end : nul + 1;
    }
    if (found != count || p != end)
        throw std::invalid_argument("expected " + std::to_string(count) +
                                    " tokens with one NUL between each two");
}

std::size_t build_token_map(const Tokens &tokens, std::uint64_t *slots, std::size_t num_slots,
                            std::int64_t *first_of) {
    check_slots(num_slots, tokens.count);
    std::fill_n(slots, num_slots, std::uint64_t{0});
    std::size_t duplicates = 0;
    Span spans[batch];
    std::uint64_t hashes[batch];
    for (std::size_t begin = 0; begin < tokens.count; begin += batch) {
        const std::size_t end = std::min(tokens.count, begin + batch);
        hash_batch([&](std::size_t i) { return token_at(tokens, i); }, begin, end, slots, num_slots, spans,
                   hashes);
        for (std::size_t i = begin; i < end; ++i) {
            const std::uint64_t hash = hashes[i - begin];
            std::uint64_t &slot = slots[probe(tokens, slots, num_slots, spans[i - begin], hash)];
            if (slot == 0)
                slot = tag_of(hash) | (i + 1);
            else
                ++duplicates;
            first_of[i] = static_cast<std::int64_t>((slot & id_mask) - 1);
        }
    }
    return duplicates;
}

void validate_token_map(const TokenMap &map) {
    const Tokens &tokens = map.tokens;
    if (tokens.offsets[0] != 0)
        throw std::invalid_argument("expected the first offset to be 0, got " +
                                    std::to_string(tokens.offsets[0]));
    const std::int64_t last = tokens.offsets[tokens.count];
    if (last < 0 || static_cast<std::uint64_t>(last) != tokens.size)
        throw std::invalid_argument("expected the last offset to be the number of bytes, " +
                                    std::to_string(tokens.size) + ", got " + std::to_string(last));
    check_slots(map.num_slots, tokens.count);
}

namespace {

/// A token of at most 16 bytes as two numbers that, with its size, say which it is.
struct Key {
    std::uint64_t low, high;
    bool operator==(const Key &) const = default;
};

constexpr std::size_t key_bytes = 16;

/// Reads the token and nothing beyond it.
Key key_of(Span token) {
    const std::uint8_t *const p = token.begin;
    const std::size_t size = token.size;
    if (size >= 8)
        return {load<std::uint64_t>(p), load<std::uint64_t>(p + size - 8)};
    if (size >= 4)
        return {load<std::uint32_t>(p), load<std::uint32_t>(p + size - 4)};
    if (size == 0)
        return {0, 0};
    return {p[0] | std::uint64_t{p[size / 2]} << 8, p[size - 1]};
}

/// The same without a branch that depends on the size, where 16 bytes can be read.
Key key_of_readable(Span token) {
    static constexpr auto masks = [] {
        std::array<std::uint64_t, key_bytes + 9> all{}; // [8 + n] keeps n bytes, at most 8
        for (std::size_t n = 0; n <= key_bytes; ++n)
            all[8 + n] = n < 8 ? (std::uint64_t{1} << (8 * n)) - 1 : ~std::uint64_t{0};
        return all;
    }();
    return {load<std::uint64_t>(token.begin) & masks[8 + token.size],
            load<std::uint64_t>(token.begin + 8) & masks[token.size]};
}

/// The ids of short tokens that were looked up lately: a few words make up most of a text, and their answers
/// are had without a hash, a probe or a jump that the processor cannot foresee.
class Memo {
public:
    struct Entry {
        Key key;
        std::uint64_t size; // of the token, plus 1: 0 is an empty entry
        std::int64_t id;
    };

    Entry &at(Key key) {
        return entries_[((key.low + std::rotl(key.high * P2, 32)) * P1) >> (64 - log_entries)];
    }

private:
    static constexpr int log_entries = 13;
    std::array<Entry, std::size_t{1} << log_entries> entries_{};
};

/// Tokens that wait for their turn in the map, and their places among all.
struct Waiting {
    std::size_t count = 0;
    Span spans[batch];
    std::size_t places[batch];
};

void find_waiting(const TokenMap &map, Waiting &waiting, std::int64_t *ids, std::int64_t missing) {
    Span spans[batch];
    std::uint64_t hashes[batch];
    hash_batch([&](std::size_t i) { return waiting.spans[i]; }, 0, waiting.count, map.slots, map.num_slots,
               spans, hashes);
    for (const bool bytes : {false, true})
        for (std::size_t i = 0; i < waiting.count; ++i)
            prefetch_candidate(map, hashes[i], bytes);
    for (std::size_t i = 0; i < waiting.count; ++i) {
        const std::uint64_t slot =
            map.slots[probe(map.tokens, map.slots, map.num_slots, spans[i], hashes[i])];
        ids[waiting.places[i]] = slot == 0 ? missing : static_cast<std::int64_t>((slot & id_mask) - 1);
    }
}

/// Looks up the tokens [first, last): `at(i)` is token `i`, `key(token)` the key of one of at most
/// `key_bytes`. `memo` may be null.
template <class At, class KeyOf>
void find_range(const TokenMap &map, const At &at, const KeyOf &key, std::size_t first, std::size_t last,
                std::int64_t *ids, std::int64_t missing, Memo *memo) {
    Waiting waiting;
    const auto flush = [&] {
        find_waiting(map, waiting, ids, missing);
        for (std::size_t i = 0; memo != nullptr && i < waiting.count; ++i) {
            const Span token = waiting.spans[i];
            if (token.size <= key_bytes) {
                const Key own = key(token);
                memo->at(own) = {own, token.size + 1, ids[waiting.places[i]]};
            }
        }
        waiting.count = 0;
    };
    for (std::size_t i = first; i < last; ++i) {
        const Span token = at(i);
        bool known = false;
        if (memo != nullptr && token.size <= key_bytes) {
            const Key own = key(token);
            const Memo::Entry &entry = memo->at(own);
            known = (entry.key == own) & (entry.size == token.size + 1);
            ids[i] = entry.id;
        }
        waiting.spans[waiting.count] = token;
        waiting.places[waiting.count] = i;
        waiting.count += !known;
        if (waiting.count == batch)
            flush();
    }
    flush();
}

constexpr std::size_t memo_pays = 16384; // tokens; to clear a memo costs as much as a thousand look-ups

std::unique_ptr<Memo> memo_for(std::size_t count) {
    return count < memo_pays ? nullptr : std::make_unique<Memo>();
}

template <class Offset> Span wanted_at(const BasicTokens<Offset> &wanted, std::size_t i) {
    const std::int64_t begin = wanted.offsets[i], end = wanted.offsets[i + 1];
    if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > wanted.size)
        throw std::out_of_range("expected token " + std::to_string(i) + " within " +
                                std::to_string(wanted.size) + " bytes, got bytes " + std::to_string(begin) +
                                " to " + std::to_string(end));
    return {wanted.bytes + begin, static_cast<std::size_t>(end - begin)};
}

template <class Offset>
void find_packed(const TokenMap &map, const BasicTokens<Offset> &wanted, std::int64_t *ids,
                 std::int64_t missing) {
    const auto key = [&](Span token) {
        if (static_cast<std::size_t>(wanted.bytes + wanted.size - token.begin) >= key_bytes)
            return key_of_readable(token);
        std::uint8_t bytes[key_bytes] = {}; // one of the last tokens
        if (token.size != 0)
            std::memcpy(bytes, token.begin, token.size);
        return key_of_readable({bytes, token.size});
    };
    validate_token_map(map);
    parallel_for(wanted.count, memo_pays, [&](std::size_t first, std::size_t last) {
        const auto at = [&](std::size_t i) { return wanted_at(wanted, i); };
        find_range(map, at, key, first, last, ids, missing, memo_for(last - first).get());
    });
}

} // namespace

void find_tokens(const TokenMap &map, const Tokens &wanted, std::int64_t *ids, std::int64_t missing) {
    find_packed(map, wanted, ids, missing);
}

void find_tokens(const TokenMap &map, const ShortTokens &wanted, std::int64_t *ids, std::int64_t missing) {
    find_packed(map, wanted, ids, missing);
}

struct SpanFinder::State {
    TokenMap map;
    std::unique_ptr<Memo> memo;
};

SpanFinder::SpanFinder(const TokenMap &map, std::size_t count)
    : state_(std::make_unique<State>(State{map, memo_for(count)})) {
    validate_token_map(map);
}

SpanFinder::~SpanFinder() = default;

void SpanFinder::find(const TokenSpan *wanted, std::size_t count, std::int64_t *ids, std::int64_t missing) {
    const auto at = [=](std::size_t i) { return wanted[i]; };
    find_range(state_->map, at, key_of, 0, count, ids, missing, state_->memo.get());
}

} // namespace shardwise

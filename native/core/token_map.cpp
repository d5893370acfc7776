#include "core/token_map.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace shardwise {
namespace {

constexpr std::uint64_t id_mask = (std::uint64_t{1} << 48) - 1;

[[noreturn]] void damaged(const std::string &what) {
    throw std::invalid_argument("the token map is damaged: " + what);
}

/// How a map is read that is in memory.
struct InMemory {
    void operator()(const void *from, std::size_t size, void *to) const { std::memcpy(to, from, size); }
    bool equal(TokenSpan a, TokenSpan b) const { return std::memcmp(a.begin, b.begin, a.size) == 0; }
};

/// How one token is looked for in a file.
class InPieces {
public:
    explicit InPieces(const MappedFile &file) : file_(file) {}

    void operator()(const void *from, std::size_t size, void *to) {
        if (pieces_ == most)
            std::memcpy(to, from, size);
        else {
            ++pieces_;
            file_.read(from, size, to);
        }
    }

    /// Whether the bytes of the file at `a` are those of `b`, which has as many.
    bool equal(TokenSpan a, TokenSpan b) {
        std::uint8_t piece[256];
        for (std::size_t begin = 0; begin < a.size; begin += sizeof piece) {
            const std::size_t size = std::min(sizeof piece, a.size - begin);
            (*this)(a.begin + begin, size, piece);
            if (std::memcmp(piece, b.begin + begin, size) != 0)
                return false;
        }
        return true;
    }

private:
    static constexpr int most = 64; // a hostile file may send a walk through all of its slots
    const MappedFile &file_;
    int pieces_ = 0;
};

template <class Read> TokenSpan token_at(const Tokens &tokens, std::size_t id, Read &read) {
    std::int64_t ends[2];
    read(tokens.offsets + id, sizeof ends, ends);
    const std::int64_t begin = ends[0], end = ends[1];
    if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > tokens.size)
        damaged("expected token " + std::to_string(id) + " within " + std::to_string(tokens.size) +
                " bytes, got bytes " + std::to_string(begin) + " to " + std::to_string(end));
    return {tokens.bytes + begin, static_cast<std::size_t>(end - begin)};
}

std::uint64_t tag_of(std::uint64_t hash) {
    return hash & ~id_mask;
}

void check_slots(std::size_t num_slots, std::size_t count) {
    if (count > id_mask - 1 || !std::has_single_bit(num_slots) || num_slots < token_map_slots(count))
        throw std::invalid_argument("expected a power of two of slots, at least twice the " +
                                    std::to_string(count) + " tokens, got " + std::to_string(num_slots));
}

struct Found {
    std::size_t at;
    std::uint64_t slot; // 0 where there is no such token
};

/// Walks the probe sequence to `token` or to the first empty slot.
/// The walk is bounded: a hostile file may hold no empty slot.
template <class Read>
Found probe(const Tokens &tokens, const std::uint64_t *slots, std::size_t num_slots, TokenSpan token,
            std::uint64_t hash, Read read) {
    std::size_t at = hash & (num_slots - 1);
    for (std::size_t step = 0; step < num_slots; ++step, at = (at + 1) & (num_slots - 1)) {
        std::uint64_t slot;
        read(slots + at, sizeof slot, &slot);
        if (slot == 0)
            return {at, slot};
        if (tag_of(slot ^ hash) != 0)
            continue;
        const std::uint64_t id = (slot & id_mask) - 1;
        if (id >= tokens.count)
            damaged("expected an id below " + std::to_string(tokens.count) + " in slot " +
                    std::to_string(at) + ", got " + std::to_string(static_cast<std::int64_t>(id)));
        const TokenSpan known = token_at(tokens, id, read);
        if (known.size == token.size && (known.size == 0 || read.equal(known, token)))
            return {at, slot};
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
    TokenSpan spans[token_batch];
    std::uint64_t hashes[token_batch];
    const InMemory read;
    for (std::size_t begin = 0; begin < tokens.count; begin += token_batch) {
        const std::size_t some = std::min(token_batch, tokens.count - begin);
        for (std::size_t i = 0; i < some; ++i) {
            spans[i] = token_at(tokens, begin + i, read);
            hashes[i] = hash64(spans[i].begin, spans[i].size);
            __builtin_prefetch(slots + (hashes[i] & (num_slots - 1)));
        }
        for (std::size_t i = 0; i < some; ++i) {
            std::uint64_t &slot = slots[probe(tokens, slots, num_slots, spans[i], hashes[i], read).at];
            if (slot == 0)
                slot = tag_of(hashes[i]) | (begin + i + 1);
            else
                ++duplicates;
            first_of[begin + i] = static_cast<std::int64_t>((slot & id_mask) - 1);
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

std::size_t find_batch(const TokenMap &map, const TokenSpan *wanted, std::size_t count, std::int64_t *ids) {
    std::uint64_t hashes[token_batch];
    for (std::size_t i = 0; i < count; ++i) {
        hashes[i] = hash64(wanted[i].begin, wanted[i].size);
        __builtin_prefetch(map.slots + (hashes[i] & (map.num_slots - 1)));
    }
    std::size_t missing = 0;
    const auto find_all = [&](const auto &read) {
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint64_t slot =
                probe(map.tokens, map.slots, map.num_slots, wanted[i], hashes[i], read).slot;
            ids[i] = static_cast<std::int64_t>(slot & id_mask) - 1;
            missing += slot == 0;
        }
    };
    if (map.file != nullptr) {
        find_all(InPieces(*map.file));
        return missing;
    }
    for (const bool bytes : {false, true})
        for (std::size_t i = 0; i < count; ++i)
            prefetch_candidate(map, hashes[i], bytes);
    find_all(InMemory());
    return missing;
}

} // namespace shardwise

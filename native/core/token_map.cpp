#include "core/token_map.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

/// How a map is read that is in memory.
struct InMemory {
    void operator()(const void *from, std::size_t size, void *to) const { std::memcpy(to, from, size); }
    bool equal(Span a, Span b) const { return std::memcmp(a.begin, b.begin, a.size) == 0; }
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
    bool equal(Span a, Span b) {
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

template <class Read> Span token_at(const Tokens &tokens, std::size_t id, Read &read) {
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

struct Found {
    std::size_t at;
    std::uint64_t slot; // 0 where there is no such token
};

/// Walks the probe sequence to `token` or to the first empty slot.
/// The walk is bounded: a hostile file may hold no empty slot.
template <class Read>
Found probe(const Tokens &tokens, const std::uint64_t *slots, std::size_t num_slots, Span token,
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
        const Span known = token_at(tokens, id, read);
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
    Span spans[batch];
    std::uint64_t hashes[batch];
    for (std::size_t begin = 0; begin < tokens.count; begin += batch) {
        const std::size_t end = std::min(tokens.count, begin + batch);
        const InMemory read;
        hash_batch([&](std::size_t i) { return token_at(tokens, i, read); }, begin, end, slots, num_slots,
                   spans, hashes);
        for (std::size_t i = begin; i < end; ++i) {
            const std::uint64_t hash = hashes[i - begin];
            std::uint64_t &slot = slots[probe(tokens, slots, num_slots, spans[i - begin], hash, read).at];
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

/// A token of at most `key_bytes` as one number: its bytes at the upper end, its size + 1 in the lowest byte.
struct Key {
    std::uint64_t low, high;
    bool operator==(const Key &other) const { // without a jump between the two
        return ((low ^ other.low) | (high ^ other.high)) == 0;
    }
};

constexpr std::size_t key_bytes = 15;

// Objects, not functions: a template that takes one holds its code instead of a call.

/// Reads the token and nothing else.
constexpr auto key_of = [](Span token) {
    const std::uint8_t *const p = token.begin;
    const std::size_t size = token.size;
    Key key{size + 1, 0};
    if (size >= 8) {
        key.high = load<std::uint64_t>(p + size - 8);
        if (size > 8)
            key.low |= load<std::uint64_t>(p) << (8 * (16 - size));
    } else if (size >= 4) {
        key.high = std::uint64_t{load<std::uint32_t>(p + size - 4)} << 32 |
                   std::uint64_t{load<std::uint32_t>(p)} << (8 * (8 - size));
    } else if (size > 0) {
        key.high = std::uint64_t{p[size - 1]} << 56 | std::uint64_t{p[0]} << (8 * (8 - size)) |
                   std::uint64_t{p[size / 2]} << (8 * (8 - size + size / 2));
    }
    return key;
};

/// The same without a jump that depends on the size, where the 16 bytes before the token's end can be read.
constexpr auto key_of_roomy = [](Span token) {
    static constexpr auto masks = [] {
        std::array<std::uint64_t, 8 + key_bytes + 1> all{}; // [8 + n] keeps the upper n bytes of 8
        for (std::size_t n = 1; n <= key_bytes; ++n)
            all[8 + n] = n < 8 ? ~std::uint64_t{0} << (8 * (8 - n)) : ~std::uint64_t{0};
        return all;
    }();
    const std::uint8_t *const end = token.begin + token.size;
    const std::size_t size = token.size;
    return Key{(load<std::uint64_t>(end - 16) & masks[size]) | (size + 1),
               load<std::uint64_t>(end - 8) & masks[8 + size]};
};

/// The ids of short tokens that were looked up lately: a few words make up most of a text, and their answers
/// are had without a hash, a probe or a jump that the processor cannot foresee.
class Memo {
public:
    struct alignas(32) Entry { // never across two lines of the cache
        Key key;               // all 0 where there is none
        std::int64_t id;       // -1 for a token that the map has not
    };

    explicit Memo(int log_entries)
        : shift_(64 - log_entries), entries_(std::make_unique<Entry[]>(std::size_t{1} << log_entries)) {}

    Entry &at(Key key) { return entries_[((key.low + std::rotl(key.high * P2, 32)) * P1) >> shift_]; }

private:
    int shift_;
    std::unique_ptr<Entry[]> entries_;
};

constexpr std::size_t grain = 16384; // tokens that are worth another thread
constexpr std::size_t memo_pays = 4096;

/// An entry for every 16 to 32 tokens, and at most 1 MB of them: clearing them must not cost what they save.
int log_entries_for(std::size_t count) {
    return std::min(static_cast<int>(std::bit_width(count)) - 5, 15);
}

/// As many memos as threads are at work at once: what one range of tokens leaves serves the next.
class Memos {
public:
    /// `count` is about how many tokens there are: a memo costs memory to clear, and must pay.
    explicit Memos(std::size_t count) : count_(count) {}

    /// A memo, null where none pays, for the use of one thread.
    class Loan {
    public:
        explicit Loan(Memos &memos) : memos_(memos), memo_(memos.take()) {}
        ~Loan() {
            if (memo_ != nullptr)
                memos_.give(std::move(memo_));
        }
        Loan(const Loan &) = delete;
        Loan &operator=(const Loan &) = delete;
        Memo *get() const { return memo_.get(); }

    private:
        Memos &memos_;
        std::unique_ptr<Memo> memo_;
    };

private:
    std::unique_ptr<Memo> take() {
        if (count_ < memo_pays)
            return nullptr;
        {
            const std::lock_guard lock(mutex_);
            for (std::unique_ptr<Memo> &memo : free_)
                if (memo != nullptr)
                    return std::move(memo);
            free_.emplace_back(); // the place to give it back to, which cannot fail
        }
        return std::make_unique<Memo>(log_entries_for(count_));
    }

    void give(std::unique_ptr<Memo> memo) noexcept {
        const std::lock_guard lock(mutex_);
        for (std::unique_ptr<Memo> &place : free_)
            if (place == nullptr) {
                place = std::move(memo);
                return;
            }
    }

    std::size_t count_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Memo>> free_;
};

/// Looks up the tokens at `places`, at most `batch`; the id of a missing one is -1. Returns how many are
/// missing. `at(i)` is token `i` of a block, here and below.
template <class At>
std::size_t find_batch(const TokenMap &map, const At &at, const std::uint16_t *places, std::size_t count,
                       std::int64_t *ids) {
    Span spans[batch];
    std::uint64_t hashes[batch];
    for (std::size_t i = 0; i < count; ++i) {
        const Span token = spans[i] = at(places[i]);
        hashes[i] = hash64(token.begin, token.size);
        __builtin_prefetch(map.slots + (hashes[i] & (map.num_slots - 1)));
    }
    std::size_t missing = 0;
    const auto find_all = [&](const auto &read) {
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint64_t slot =
                probe(map.tokens, map.slots, map.num_slots, spans[i], hashes[i], read).slot;
            ids[places[i]] = static_cast<std::int64_t>(slot & id_mask) - 1;
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

constexpr std::size_t block = 256; // tokens: what is known of them stays in the nearest cache

/// Looks in the memo for the `count` tokens of a block. Sets the ids of those that it knows, puts the places
/// of the others into `places`, and adds those that are known to be missing to `lost`. Returns how many
/// others there are. `key(token)` is the key of one of at most `key_bytes`.
template <class At, class KeyOf>
std::size_t recall_block(Memo &memo, const At &at, std::size_t count, const KeyOf &key, std::int64_t *ids,
                         std::int64_t missing, std::uint16_t *places, std::size_t &lost) {
    Key keys[block];
    const Memo::Entry *entries[block];
    for (std::size_t i = 0; i < count; ++i) {
        const Span token = at(i);
        keys[i] = token.size <= key_bytes ? key(token) : Key{0, 1}; // which no entry has
        entries[i] = &memo.at(keys[i]);
        __builtin_prefetch(entries[i]);
    }
    std::size_t waiting = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const Memo::Entry &entry = *entries[i];
        const bool known = entry.key == keys[i];
        ids[i] = entry.id < 0 ? missing : entry.id;
        lost += known & (entry.id < 0);
        places[waiting] = static_cast<std::uint16_t>(i);
        waiting += !known;
    }
    return waiting;
}

/// Looks up the `count` tokens of a block, but for those that are elsewhere. Returns how many are missing.
template <class At, class KeyOf>
std::size_t find_block(const TokenMap &map, const At &at, std::size_t count, const KeyOf &key,
                       std::int64_t *ids, std::int64_t missing, Memo *memo) {
    std::uint16_t places[block];
    std::size_t waiting = count, lost = 0;
    if (memo != nullptr)
        waiting = recall_block(*memo, at, count, key, ids, missing, places, lost);
    else
        std::iota(places, places + count, std::uint16_t{0});
    const auto is_elsewhere = [&](std::uint16_t place) {
        return at(place).size == TokenLocator::elsewhere.size;
    };
    waiting = static_cast<std::size_t>(std::remove_if(places, places + waiting, is_elsewhere) - places);
    for (std::size_t begin = 0; begin < waiting; begin += batch) {
        const std::size_t some = std::min(batch, waiting - begin);
        lost += find_batch(map, at, places + begin, some, ids);
        for (std::size_t i = begin; i < begin + some; ++i) {
            const Span token = at(places[i]);
            std::int64_t &id = ids[places[i]];
            if (memo != nullptr && token.size <= key_bytes) {
                const Key own = key(token);
                memo->at(own) = {own, id};
            }
            if (id < 0)
                id = missing;
        }
    }
    return lost;
}

/// Says which of `count` tokens, of which the first is `begin`, lies outside the bytes.
template <class Offset>
void refuse(const BasicTokens<Offset> &wanted, std::size_t begin, const std::int64_t *places,
            std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
        if (places[i] < 0 || places[i] > places[i + 1] ||
            static_cast<std::uint64_t>(places[i + 1]) > wanted.size)
            throw std::out_of_range("expected token " + std::to_string(begin + i) + " within " +
                                    std::to_string(wanted.size) + " bytes, got bytes " +
                                    std::to_string(places[i]) + " to " + std::to_string(places[i + 1]));
}

template <class Offset>
std::size_t find_packed(const TokenMap &map, const BasicTokens<Offset> &wanted, std::int64_t *ids,
                        std::int64_t missing) {
    validate_token_map(map);
    Memos memos(wanted.count);
    std::atomic<std::size_t> not_found = 0;
    parallel_for(wanted.count, grain, [&](std::size_t first, std::size_t last) {
        const Memos::Loan memo(memos);
        std::size_t lost = 0;
        std::int64_t places[block + 1];
        for (std::size_t begin = first; begin < last; begin += block) {
            const std::size_t end = std::min(last, begin + block);
            const std::size_t count = end - begin;
            // A copy, which is what is checked: of all at once, for hardly any are wrong.
            for (std::size_t i = 0; i <= count; ++i)
                places[i] = wanted.offsets[begin + i];
            // None is negative, and then a difference is negative where it falls.
            std::int64_t wrong = places[0];
            for (std::size_t i = 0; i < count; ++i)
                wrong |= places[i + 1] | static_cast<std::int64_t>(static_cast<std::uint64_t>(places[i + 1]) -
                                                                   static_cast<std::uint64_t>(places[i]));
            if (wrong < 0 || static_cast<std::uint64_t>(places[count]) > wanted.size)
                refuse(wanted, begin, places, count);
            const auto at = [&](std::size_t i) {
                return Span{wanted.bytes + places[i], static_cast<std::size_t>(places[i + 1] - places[i])};
            };
            const bool roomy = places[1] >= 16;
            lost += roomy ? find_block(map, at, end - begin, key_of_roomy, ids + begin, missing, memo.get())
                          : find_block(map, at, end - begin, key_of, ids + begin, missing, memo.get());
        }
        not_found += lost;
    });
    return not_found;
}

} // namespace

std::size_t find_tokens(const TokenMap &map, const Tokens &wanted, std::int64_t *ids, std::int64_t missing) {
    return find_packed(map, wanted, ids, missing);
}

std::size_t find_tokens(const TokenMap &map, const ShortTokens &wanted, std::int64_t *ids,
                        std::int64_t missing) {
    return find_packed(map, wanted, ids, missing);
}

struct TokenFinder::State {
    TokenMap map;
    Memos memos;
};

TokenFinder::TokenFinder(const TokenMap &map, std::size_t count) : state_(new State{map, Memos(count)}) {
    validate_token_map(map);
}

TokenFinder::~TokenFinder() = default;

std::size_t TokenFinder::find(const TokenLocator &wanted, std::size_t count, std::int64_t *ids,
                              std::int64_t missing, std::vector<std::size_t> &elsewhere) {
    std::atomic<std::size_t> not_found = 0;
    std::mutex mutex;
    elsewhere.clear();
    parallel_for(count, grain, [&](std::size_t first, std::size_t last) {
        const Memos::Loan memo(state_->memos);
        Span spans[block];
        std::vector<std::size_t> left;
        std::size_t lost = 0;
        for (std::size_t begin = first; begin < last; begin += block) {
            const std::size_t end = std::min(last, begin + block);
            wanted.locate(begin, end, spans);
            const auto at = [&](std::size_t i) { return spans[i]; };
            lost += find_block(state_->map, at, end - begin, key_of_roomy, ids + begin, missing, memo.get());
            for (std::size_t i = begin; i < end; ++i)
                if (spans[i - begin].size == TokenLocator::elsewhere.size)
                    left.push_back(i);
        }
        not_found += lost;
        const std::lock_guard lock(mutex);
        elsewhere.insert(elsewhere.end(), left.begin(), left.end());
    });
    std::sort(elsewhere.begin(), elsewhere.end());
    return not_found;
}

std::size_t TokenFinder::find(const TokenSpan *wanted, std::size_t count, std::int64_t *ids,
                              std::int64_t missing) {
    const Memos::Loan memo(state_->memos);
    std::size_t not_found = 0;
    for (std::size_t begin = 0; begin < count; begin += block)
        not_found += find_block(
            state_->map, [&](std::size_t i) { return wanted[begin + i]; }, std::min(block, count - begin),
            key_of, ids + begin, missing, memo.get());
    return not_found;
}

} // namespace shardwise

#include "core/token_counts.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/threads.h"

namespace shardwise {

// How it works. A round is a stretch of text. First, each thread counts a piece of it in a memo of fixed
// size, where the few words that make up most of a text are found without a hash or a probe; what has to
// leave the memo becomes a record in one of the parts. Then each thread adds the records of some parts to the
// maps of those parts. No two threads write to the same map, and no map is ever merged with another.

namespace {

bool equal_bytes(const std::uint8_t *a, const std::uint8_t *b, std::size_t size) {
    return size == 0 || std::memcmp(a, b, size) == 0;
}

TokenSpan token_at(const Tokens &tokens, std::size_t i) {
    const std::int64_t begin = tokens.offsets[i], end = tokens.offsets[i + 1];
    if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > tokens.size)
        throw std::invalid_argument("expected token " + std::to_string(i) + " within " +
                                    std::to_string(tokens.size) + " bytes, got bytes " +
                                    std::to_string(begin) + " to " + std::to_string(end));
    return {tokens.bytes + begin, static_cast<std::size_t>(end - begin)};
}

// ---- white space ----

constexpr std::size_t group = 64; // bytes whose white space is found at once

bool is_space(std::uint8_t byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/// Bit `i` is set where byte `i` of eight is white space.
std::uint64_t spaces_of_word(std::uint64_t word) {
    constexpr std::uint64_t each = 0x0101010101010101u, high = 0x80 * each;
    const std::uint64_t low = word & ~high; // no carry from a byte into the next
    const std::uint64_t control = (low + (0x80 - '\t') * each) & ~(low + (0x80 - '\r' - 1) * each);
    const std::uint64_t other = (low ^ ' ' * each) + 0x7f * each;
    const std::uint64_t found = (control | ~other) & ~word & high;
    return (found >> 7) * 0x0102040810204080u >> 56;
}

std::uint64_t spaces_of_group(const std::uint8_t *p) {
    std::uint64_t spaces = 0;
    for (std::size_t i = 0; i < group; i += 8)
        spaces |= spaces_of_word(load<std::uint64_t>(p + i)) << i;
    return spaces;
}

/// The same at the end of a text, beyond which all is white space.
std::uint64_t spaces_of_rest(const std::uint8_t *p, std::size_t size) {
    std::uint8_t bytes[group];
    std::memset(bytes, ' ', group);
    std::memcpy(bytes, p, size);
    return spaces_of_group(bytes);
}

/// Calls `each(begin, end)` for the tokens that start in [begin, end), in order.
template <class Each>
void cut(const std::uint8_t *data, std::size_t size, std::size_t begin, std::size_t end, const Each &each) {
    std::size_t at = begin, start = 0;
    if (at > 0 && !is_space(data[at - 1])) // the token of the piece before
        while (at < end && !is_space(data[at]))
            ++at;
    bool inside = false;
    for (; at < size && (at < end || inside); at += group) {
        const std::uint64_t spaces =
            size - at >= group ? spaces_of_group(data + at) : spaces_of_rest(data + at, size - at);
        for (std::uint64_t edges = spaces ^ (spaces << 1 | (inside ? 0u : 1u)); edges != 0;
             edges &= edges - 1) {
            const std::size_t edge = at + static_cast<std::size_t>(std::countr_zero(edges));
            if (inside)
                each(start, edge);
            else if (edge >= end)
                return;
            start = edge;
            inside = !inside;
        }
    }
    if (inside)
        each(start, size);
}

// ---- the memo of a thread ----

/// What became of one token in a piece. The bytes lie in the text, which outlives the round.
struct Record {
    const std::uint8_t *begin;
    std::size_t size;
    std::uint64_t hash, count, first;
};

constexpr std::size_t num_parts = 64;
constexpr int part_shift = 42; // neither the bits of a slot's place nor those of its tag

struct Records {
    std::size_t begin; // of the piece
    std::array<std::vector<Record>, num_parts> parts;
};

/// A token of at most 16 bytes as two numbers that, with its size, say which it is; of a longer one the hash.
struct Key {
    std::uint64_t low, high;
    bool operator==(const Key &) const = default;
};

constexpr std::size_t key_bytes = 16;

/// `end` is where the memory ends that may be read.
Key key_of(TokenSpan token, const std::uint8_t *end) {
    static constexpr auto masks = [] {
        std::array<std::uint64_t, key_bytes + 9> all{}; // [8 + n] keeps n bytes, at most 8
        for (std::size_t n = 0; n <= key_bytes; ++n)
            all[8 + n] = n < 8 ? (std::uint64_t{1} << (8 * n)) - 1 : ~std::uint64_t{0};
        return all;
    }();
    if (token.size > key_bytes)
        return {hash64(token.begin, token.size), 0};
    std::uint8_t bytes[key_bytes] = {};
    const std::uint8_t *p = token.begin;
    if (static_cast<std::size_t>(end - p) < key_bytes) {
        if (token.size != 0)
            std::memcpy(bytes, p, token.size);
        p = bytes;
    }
    return {load<std::uint64_t>(p) & masks[8 + token.size], load<std::uint64_t>(p + 8) & masks[token.size]};
}

class Memo {
public:
    explicit Memo(Records &records) : records_(records), entries_(std::size_t{1} << log_entries) {}

    void add(TokenSpan token, const std::uint8_t *end, std::uint64_t first, std::uint64_t count) {
        const Key key = key_of(token, end);
        Entry &entry = entries_[hash_words(key.low, key.high) >> (64 - log_entries)];
        if (entry.key == key && entry.size == token.size && entry.used &&
            (token.size <= key_bytes || equal_bytes(entry.begin, token.begin, token.size))) {
            entry.count += count;
            return;
        }
        leave(entry);
        entry = {key, token.begin, token.size, count, first, true};
    }

    void empty() {
        for (Entry &entry : entries_)
            leave(entry);
    }

private:
    struct Entry {
        Key key;
        const std::uint8_t *begin;
        std::size_t size;
        std::uint64_t count, first;
        bool used;
    };
    static constexpr int log_entries = 13; // it has to stay in the second-level cache

    void leave(Entry &entry) {
        if (!entry.used)
            return;
        const std::uint64_t hash = entry.size > key_bytes ? entry.key.low : hash64(entry.begin, entry.size);
        records_.parts[hash >> part_shift & (num_parts - 1)].push_back(
            {entry.begin, entry.size, hash, entry.count, entry.first});
        entry.used = false;
    }

    Records &records_;
    std::vector<Entry> entries_;
};

// ---- the map of a part ----

/// Open addressing with linear probing; a slot is the hash's top 16 bits, then 48 bits of the entry's number
/// plus 1, as in TokenMap.
class Part {
public:
    struct Entry {
        std::uint64_t hash, begin, count, first;
    };

    std::vector<Entry> entries;
    std::vector<std::uint8_t> bytes;

    TokenSpan token(std::size_t i) const {
        const std::uint64_t end = i + 1 < entries.size() ? entries[i + 1].begin : bytes.size();
        return {bytes.data() + entries[i].begin, static_cast<std::size_t>(end - entries[i].begin)};
    }

    /// The number of the token's entry, or how many there are.
    std::size_t find(TokenSpan wanted, std::uint64_t hash) const {
        const std::uint64_t slot = slots_.empty() ? 0 : slots_[probe(wanted, hash)];
        return slot == 0 ? entries.size() : number_of(slot);
    }

    void add(const std::vector<Record> &records) {
        for (std::size_t begin = 0; begin < records.size(); begin += batch) {
            const std::size_t end = std::min(records.size(), begin + batch);
            grow(end - begin);
            for (std::size_t i = begin; i < end; ++i)
                __builtin_prefetch(&slots_[place(records[i].hash)]);
            for (const bool last : {false, true})
                for (std::size_t i = begin; i < end; ++i)
                    prefetch_candidate(records[i].hash, last);
            for (std::size_t i = begin; i < end; ++i)
                add(records[i]);
        }
    }

private:
    static constexpr std::size_t batch = 32; // enough loads in flight to hide one trip to memory
    static constexpr std::uint64_t number_mask = (std::uint64_t{1} << 48) - 1;

    std::vector<std::uint64_t> slots_;

    static std::size_t number_of(std::uint64_t slot) {
        return static_cast<std::size_t>((slot & number_mask) - 1);
    }
    static std::uint64_t slot_of(std::uint64_t hash, std::size_t number) {
        return (hash & ~number_mask) | (number + 1);
    }
    std::size_t place(std::uint64_t hash) const { return hash & (slots_.size() - 1); }

    /// The slot of the token, or the empty one where it belongs; half of them are empty at least.
    std::size_t probe(TokenSpan wanted, std::uint64_t hash) const {
        std::size_t at = place(hash);
        for (; slots_[at] != 0; at = (at + 1) & (slots_.size() - 1)) {
            const std::uint64_t slot = slots_[at];
            if (((slot ^ hash) & ~number_mask) != 0 || entries[number_of(slot)].hash != hash)
                continue;
            const TokenSpan found = token(number_of(slot));
            if (found.size == wanted.size && equal_bytes(found.begin, wanted.begin, wanted.size))
                break;
        }
        return at;
    }

    void prefetch_candidate(std::uint64_t hash, bool last) const {
        const std::uint64_t slot = slots_[place(hash)];
        if (slot == 0 || ((slot ^ hash) & ~number_mask) != 0)
            return;
        const Entry &entry = entries[number_of(slot)];
        if (last)
            __builtin_prefetch(bytes.data() + entry.begin);
        else
            __builtin_prefetch(&entry);
    }

    void add(const Record &record) {
        std::uint64_t &slot = slots_[probe({record.begin, record.size}, record.hash)];
        if (slot != 0) {
            Entry &entry = entries[number_of(slot)];
            entry.count += record.count;
            entry.first = std::min(entry.first, record.first);
            return;
        }
        const std::size_t begin = bytes.size();
        if (record.size != 0)
            bytes.insert(bytes.end(), record.begin, record.begin + record.size);
        entries.push_back({record.hash, begin, record.count, record.first});
        slot = slot_of(record.hash, entries.size() - 1);
    }

    /// Makes room for `count` more tokens.
    void grow(std::size_t count) {
        const std::size_t needed = std::bit_ceil(2 * (entries.size() + count));
        if (needed <= slots_.size())
            return;
        std::vector<std::uint64_t>().swap(slots_); // first, not to hold both
        slots_.resize(needed);
        for (std::size_t i = 0; i < entries.size(); ++i) {
            std::size_t at = place(entries[i].hash);
            while (slots_[at] != 0)
                at = (at + 1) & (slots_.size() - 1);
            slots_[at] = slot_of(entries[i].hash, i);
        }
    }
};

} // namespace

struct TokenCounts::State {
    std::array<Part, num_parts> parts;
    std::uint64_t seen = 0; // a place for each byte of text and each token of a list: what came first
    std::uint64_t total = 0;

    /// Cuts [0, count) into pieces, calls `fill(memo, begin, end)` for each, which returns how many tokens it
    /// counted, and adds what the memos hold.
    template <class Fill> void round(std::size_t count, std::size_t grain, const Fill &fill) {
        std::mutex mutex;
        std::vector<std::unique_ptr<Records>> pieces;
        parallel_for(count, grain, [&](std::size_t begin, std::size_t end) {
            auto records = std::make_unique<Records>();
            records->begin = begin;
            Memo memo(*records);
            const std::uint64_t counted = fill(memo, begin, end);
            memo.empty();
            const std::lock_guard lock(mutex);
            pieces.push_back(std::move(records));
            total += counted;
        });
        // In the order of the text, so that the bytes of tokens lie in the same order each time.
        std::sort(pieces.begin(), pieces.end(),
                  [](const auto &a, const auto &b) { return a->begin < b->begin; });
        parallel_for(num_parts, 1, [&](std::size_t begin, std::size_t end) {
            for (std::size_t part = begin; part < end; ++part)
                for (const auto &records : pieces)
                    parts[part].add(records->parts[part]);
        });
    }
};

TokenCounts::TokenCounts() : state_(std::make_unique<State>()) {}
TokenCounts::~TokenCounts() = default;
TokenCounts::TokenCounts(TokenCounts &&) noexcept = default;
TokenCounts &TokenCounts::operator=(TokenCounts &&) noexcept = default;

namespace {

// Of a round, for each thread. At worst every few bytes are a token that is not in the memo, and its record
// has ten times the bytes.
constexpr std::size_t round_bytes = std::size_t{2} << 20;
constexpr std::size_t round_tokens = round_bytes / 8;
constexpr std::size_t piece_bytes = std::size_t{1} << 17; // less is not worth a thread and its memo

} // namespace

std::size_t TokenCounts::count_text(const std::uint8_t *data, std::size_t size, bool last) {
    std::size_t used = size;
    while (!last && used > 0 && !is_space(data[used - 1]))
        --used;
    const std::size_t step = round_bytes * static_cast<std::size_t>(num_threads());
    for (std::size_t start = 0; start < used; start += step) {
        const std::size_t stop = std::min(used - start, step);
        state_->round(stop, piece_bytes, [&](Memo &memo, std::size_t begin, std::size_t end) {
            std::uint64_t counted = 0;
            cut(data, used, start + begin, start + end, [&](std::size_t from, std::size_t to) {
                ++counted;
                memo.add({data + from, to - from}, data + size, state_->seen + from, 1);
            });
            return counted;
        });
    }
    state_->seen += used;
    return used;
}

void TokenCounts::count_tokens(const Tokens &tokens, const std::int64_t *weights) {
    const std::size_t step = round_tokens * static_cast<std::size_t>(num_threads());
    for (std::size_t start = 0; start < tokens.count; start += step) {
        const std::size_t stop = std::min(tokens.count - start, step);
        state_->round(stop, piece_bytes / 8, [&](Memo &memo, std::size_t begin, std::size_t end) {
            std::uint64_t counted = 0;
            for (std::size_t i = start + begin; i < start + end; ++i) {
                const std::uint64_t weight = weights == nullptr ? 1 : static_cast<std::uint64_t>(weights[i]);
                counted += weight;
                memo.add(token_at(tokens, i), tokens.bytes + tokens.size, state_->seen + i, weight);
            }
            return counted;
        });
    }
    state_->seen += tokens.count;
}

std::size_t TokenCounts::size() const {
    std::size_t size = 0;
    for (const Part &part : state_->parts)
        size += part.entries.size();
    return size;
}

std::uint64_t TokenCounts::total() const {
    return state_->total;
}

CountedTokens TokenCounts::tokens(std::int64_t min_count) const {
    struct Place {
        std::uint64_t first;
        std::size_t part, number;
    };
    std::vector<Place> places;
    for (std::size_t part = 0; part < num_parts; ++part) {
        const auto &entries = state_->parts[part].entries;
        for (std::size_t i = 0; i < entries.size(); ++i)
            if (min_count <= 0 || entries[i].count >= static_cast<std::uint64_t>(min_count))
                places.push_back({entries[i].first, part, i});
    }
    std::sort(places.begin(), places.end(), [](const Place &a, const Place &b) { return a.first < b.first; });
    CountedTokens result;
    result.offsets.reserve(places.size() + 1);
    result.counts.reserve(places.size());
    result.offsets.push_back(0);
    for (const Place &place : places) {
        const Part &part = state_->parts[place.part];
        const TokenSpan token = part.token(place.number);
        result.offsets.push_back(result.offsets.back() + static_cast<std::int64_t>(token.size));
        result.counts.push_back(static_cast<std::int64_t>(part.entries[place.number].count));
    }
    result.bytes.reserve(static_cast<std::size_t>(result.offsets.back()));
    for (const Place &place : places) {
        const TokenSpan token = state_->parts[place.part].token(place.number);
        if (token.size != 0)
            result.bytes.insert(result.bytes.end(), token.begin, token.begin + token.size);
    }
    return result;
}

void TokenCounts::find(const Tokens &tokens, std::int64_t *counts) const {
    for (std::size_t i = 0; i < tokens.count; ++i) {
        const TokenSpan token = token_at(tokens, i);
        const std::uint64_t hash = hash64(token.begin, token.size);
        const Part &part = state_->parts[hash >> part_shift & (num_parts - 1)];
        const std::size_t number = part.find(token, hash);
        counts[i] = number == part.entries.size() ? 0 : static_cast<std::int64_t>(part.entries[number].count);
    }
}

// ---- which tokens, and in which order ----

std::vector<std::int64_t> order_tokens(const Tokens &tokens, const std::int64_t *counts, Ties ties) {
    struct Item {
        std::int64_t count;
        std::uint64_t head; // the first eight bytes as a number that is in the order of the bytes
        std::int64_t id;
    };
    std::vector<Item> items(tokens.count);
    for (std::size_t i = 0; i < tokens.count; ++i) {
        const TokenSpan token = token_at(tokens, i);
        std::uint64_t head = 0;
        for (std::size_t k = 0; ties != Ties::first && k < std::min<std::size_t>(8, token.size); ++k)
            head |= std::uint64_t{token.begin[k]} << (56 - 8 * k);
        items[i] = {counts[i], head, static_cast<std::int64_t>(i)};
    }
    const auto lower = [&](const Item &a, const Item &b) {
        if (a.head != b.head)
            return a.head < b.head;
        const TokenSpan x = token_at(tokens, static_cast<std::size_t>(a.id));
        const TokenSpan y = token_at(tokens, static_cast<std::size_t>(b.id));
        const std::size_t size = std::min(x.size, y.size);
        const int compared = size == 0 ? 0 : std::memcmp(x.begin, y.begin, size);
        return compared != 0 ? compared < 0 : x.size != y.size ? x.size < y.size : a.id < b.id;
    };
    std::sort(items.begin(), items.end(), [&](const Item &a, const Item &b) {
        if (a.count != b.count)
            return a.count > b.count;
        if (ties == Ties::first || a.id == b.id)
            return a.id < b.id;
        return ties == Ties::ascending ? lower(a, b) : lower(b, a);
    });
    std::vector<std::int64_t> ids(items.size());
    std::transform(items.begin(), items.end(), ids.begin(), [](const Item &item) { return item.id; });
    return ids;
}

CountedTokens take_tokens(const Tokens &tokens, const std::int64_t *counts, const std::int64_t *ids,
                          std::size_t num_ids) {
    CountedTokens taken;
    taken.offsets.reserve(num_ids + 1);
    taken.counts.reserve(num_ids);
    taken.offsets.push_back(0);
    std::vector<TokenSpan> spans(num_ids);
    for (std::size_t i = 0; i < num_ids; ++i) {
        if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= tokens.count)
            throw std::invalid_argument("expected an id below " + std::to_string(tokens.count) + ", got " +
                                        std::to_string(ids[i]));
        spans[i] = token_at(tokens, static_cast<std::size_t>(ids[i]));
        taken.offsets.push_back(taken.offsets.back() + static_cast<std::int64_t>(spans[i].size));
        taken.counts.push_back(counts[ids[i]]);
    }
    taken.bytes.reserve(static_cast<std::size_t>(taken.offsets.back()));
    for (const TokenSpan &token : spans)
        if (token.size != 0)
            taken.bytes.insert(taken.bytes.end(), token.begin, token.begin + token.size);
    return taken;
}

} // namespace shardwise

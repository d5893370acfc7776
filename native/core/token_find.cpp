#include "core/token_find.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>

#include "core/threads.h"
#include "core/token_memo.h"

namespace shardwise {
namespace {

constexpr std::size_t grain = 16384; // tokens that are worth another thread
constexpr std::size_t block = 256;   // tokens: what is known of them stays in the nearest cache

/// Looks in the memo for the `count` tokens of a block. Sets the ids of those that it knows, puts the places
/// of the others into `places`, and adds those that are known to be missing to `lost`. Returns how many
/// others there are. `key(token)` is the key of one of at most `key_bytes`.
template <class At, class KeyOf>
std::size_t recall_block(TokenMemo &memo, const At &at, std::size_t count, const KeyOf &key,
                         std::int64_t *ids, std::int64_t missing, std::uint16_t *places, std::size_t &lost) {
    TokenKey keys[block];
    const TokenMemo::Entry *entries[block];
    for (std::size_t i = 0; i < count; ++i) {
        const TokenSpan token = at(i);
        keys[i] = token.size <= key_bytes ? key(token) : TokenKey{0, 1}; // which no entry has
        entries[i] = &memo.at(keys[i]);
        __builtin_prefetch(entries[i]);
    }
    std::size_t waiting = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const TokenMemo::Entry &entry = *entries[i];
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
                       std::int64_t *ids, std::int64_t missing, TokenMemo *memo) {
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
    for (std::size_t begin = 0; begin < waiting; begin += token_batch) {
        const std::size_t some = std::min(token_batch, waiting - begin);
        TokenSpan tokens[token_batch];
        std::int64_t found[token_batch];
        for (std::size_t i = 0; i < some; ++i)
            tokens[i] = at(places[begin + i]);
        lost += find_batch(map, tokens, some, found);
        for (std::size_t i = 0; i < some; ++i) {
            if (memo != nullptr && tokens[i].size <= key_bytes) {
                const TokenKey own = key(tokens[i]);
                memo->at(own) = {own, found[i]};
            }
            ids[places[begin + i]] = found[i] < 0 ? missing : found[i];
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
    TokenMemos memos(wanted.count);
    std::atomic<std::size_t> not_found = 0;
    parallel_for(wanted.count, grain, [&](std::size_t first, std::size_t last) {
        const TokenMemos::Loan memo(memos);
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
                return TokenSpan{wanted.bytes + places[i],
                                 static_cast<std::size_t>(places[i + 1] - places[i])};
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
    TokenMemos memos;
};

TokenFinder::TokenFinder(const TokenMap &map, std::size_t count) : state_(new State{map, TokenMemos(count)}) {
    validate_token_map(map);
}

TokenFinder::~TokenFinder() = default;

std::size_t TokenFinder::find(const TokenLocator &wanted, std::size_t count, std::int64_t *ids,
                              std::int64_t missing, std::vector<std::size_t> &elsewhere) {
    std::atomic<std::size_t> not_found = 0;
    std::mutex mutex;
    elsewhere.clear();
    parallel_for(count, grain, [&](std::size_t first, std::size_t last) {
        const TokenMemos::Loan memo(state_->memos);
        TokenSpan spans[block];
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
    const TokenMemos::Loan memo(state_->memos);
    std::size_t not_found = 0;
    for (std::size_t begin = 0; begin < count; begin += block)
        not_found += find_block(
            state_->map, [&](std::size_t i) { return wanted[begin + i]; }, std::min(block, count - begin),
            key_of, ids + begin, missing, memo.get());
    return not_found;
}

} // namespace shardwise

#pragma once
// What was learned lately of short tokens, for those who look up many.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/tokens.h"

namespace shardwise {

/// A token of at most `key_bytes` as one number: its bytes at the upper end, its size + 1 in the lowest byte.
struct TokenKey {
    std::uint64_t low, high;
    bool operator==(const TokenKey &other) const { // without a jump between the two
        return ((low ^ other.low) | (high ^ other.high)) == 0;
    }
};

inline constexpr std::size_t key_bytes = 15;

// Objects, not functions: a template that takes one holds its code instead of a call.

/// Reads the token and nothing else.
inline constexpr auto key_of = [](TokenSpan token) {
    const std::uint8_t *const p = token.begin;
    const std::size_t size = token.size;
    TokenKey key{size + 1, 0};
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
inline constexpr auto key_of_roomy = [](TokenSpan token) {
    static constexpr auto masks = [] {
        std::array<std::uint64_t, 8 + key_bytes + 1> all{}; // [8 + n] keeps the upper n bytes of 8
        for (std::size_t n = 1; n <= key_bytes; ++n)
            all[8 + n] = n < 8 ? ~std::uint64_t{0} << (8 * (8 - n)) : ~std::uint64_t{0};
        return all;
    }();
    const std::uint8_t *const end = token.begin + token.size;
    const std::size_t size = token.size;
    return TokenKey{(load<std::uint64_t>(end - 16) & masks[size]) | (size + 1),
                    load<std::uint64_t>(end - 8) & masks[8 + size]};
};

/// The ids of short tokens that were looked up lately: a few words make up most of a text, and their answers
/// are had without a hash, a probe or a jump that the processor cannot foresee.
class TokenMemo {
public:
    struct alignas(32) Entry { // never across two lines of the cache
        TokenKey key;          // all 0 where there is none
        std::int64_t id;       // -1 for a token that the map has not
    };

    explicit TokenMemo(int log_entries)
        : shift_(64 - log_entries), entries_(std::make_unique<Entry[]>(std::size_t{1} << log_entries)) {}

    Entry &at(TokenKey key) { return entries_[hash_words(key.low, key.high) >> shift_]; }

private:
    int shift_;
    std::unique_ptr<Entry[]> entries_;
};

/// As many memos as threads are at work at once: what one range of tokens leaves serves the next.
class TokenMemos {
public:
    /// `count` is about how many tokens there are: a memo costs memory to clear, and must pay.
    explicit TokenMemos(std::size_t count) : count_(count) {}

    /// A memo, null where none pays, for the use of one thread.
    class Loan {
    public:
        explicit Loan(TokenMemos &memos) : memos_(memos), memo_(memos.take()) {}
        ~Loan() {
            if (memo_ != nullptr)
                memos_.give(std::move(memo_));
        }
        Loan(const Loan &) = delete;
        Loan &operator=(const Loan &) = delete;
        TokenMemo *get() const { return memo_.get(); }

    private:
        TokenMemos &memos_;
        std::unique_ptr<TokenMemo> memo_;
    };

private:
    std::unique_ptr<TokenMemo> take() {
        if (count_ < pays)
            return nullptr;
        {
            const std::lock_guard lock(mutex_);
            for (std::unique_ptr<TokenMemo> &memo : free_)
                if (memo != nullptr)
                    return std::move(memo);
            free_.emplace_back(); // the place to give it back to, which cannot fail
        }
        return std::make_unique<TokenMemo>(log_entries());
    }

    void give(std::unique_ptr<TokenMemo> memo) noexcept {
        const std::lock_guard lock(mutex_);
        for (std::unique_ptr<TokenMemo> &place : free_)
            if (place == nullptr) {
                place = std::move(memo);
                return;
            }
    }

    static constexpr std::size_t pays = 4096;

    /// An entry for every 16 to 32 tokens, and at most 1 MB of them: clearing them must not cost what they
    /// save.
    int log_entries() const { return std::min(static_cast<int>(std::bit_width(count_)) - 5, 15); }

    std::size_t count_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<TokenMemo>> free_;
};

} // namespace shardwise

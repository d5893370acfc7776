#include "core/subwords.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/threads.h"

namespace shardwise {
namespace {

constexpr std::size_t grain = 256; // tokens: some thousands of hashes

bool is_continuation(std::uint8_t byte) {
    return (byte & 0xc0) == 0x80;
}

std::uint32_t hash_step(std::uint32_t hash, std::uint8_t byte) {
    const auto extended =
        static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int8_t>(byte)));
    return (hash ^ extended) * 16777619u;
}

std::string_view token_at(const Tokens &tokens, std::size_t i) {
    const std::int64_t begin = tokens.offsets[i], end = tokens.offsets[i + 1];
    if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > tokens.size)
        throw std::invalid_argument("expected offsets in ascending order within the " +
                                    std::to_string(tokens.size) + " bytes of the tokens, got " +
                                    std::to_string(begin) + " and " + std::to_string(end));
    return {reinterpret_cast<const char *>(tokens.bytes) + begin, static_cast<std::size_t>(end - begin)};
}

bool has_subwords(std::string_view token, const SubwordRule &rule) {
    return rule.max_chars >= std::max<std::int64_t>(1, rule.min_chars) && (rule.cut_end || token != "</s>");
}

/// In closed form: of `chars` characters, chars - n + 1 n-grams have n of them.
std::int64_t count_of(std::string_view token, const SubwordRule &rule) {
    if (!has_subwords(token, rule))
        return 0;
    // The "<" and the ">" are two; continuation bytes at the start of a token belong to the "<".
    const auto chars = 2 + static_cast<std::int64_t>(std::count_if(token.begin(), token.end(), [](char c) {
                           return !is_continuation(static_cast<std::uint8_t>(c));
                       }));
    const std::int64_t least = std::max<std::int64_t>(1, rule.min_chars);
    const std::int64_t most = std::min(rule.max_chars, chars);
    if (most < least)
        return 0;
    const std::int64_t lengths = most - least + 1, longest = chars - least + 1, shortest = chars - most + 1;
    std::int64_t twice = 0;
    if (__builtin_mul_overflow(lengths, longest + shortest, &twice))
        throw std::invalid_argument("expected a token of a sane length, got one of " +
                                    std::to_string(token.size()) + " bytes");
    return twice / 2 - (least == 1 ? 2 : 0);
}

/// `text` is a token between its brackets.
void write_buckets(std::string_view text, const SubwordRule &rule, std::int64_t *out) {
    const auto *const bytes = reinterpret_cast<const std::uint8_t *>(text.data());
    const std::size_t size = text.size();
    for (std::size_t begin = 0; begin < size; ++begin) {
        if (is_continuation(bytes[begin]))
            continue;
        std::uint32_t hash = 2166136261u;
        std::size_t end = begin;
        for (std::int64_t chars = 1; end < size && chars <= rule.max_chars; ++chars) {
            do
                hash = hash_step(hash, bytes[end++]);
            while (end < size && is_continuation(bytes[end]));
            if (chars >= rule.min_chars && !(chars == 1 && (begin == 0 || end == size)))
                *out++ = hash % rule.buckets;
        }
    }
}

} // namespace

void count_subwords(const Tokens &tokens, const SubwordRule &rule, std::int64_t *counts) {
    parallel_for(tokens.count, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i)
            counts[i] = count_of(token_at(tokens, i), rule);
    });
}

SubwordBuckets subword_buckets(const Tokens &tokens, const SubwordRule &rule, std::size_t most) {
    SubwordBuckets found;
    found.offsets.resize(tokens.count + 1);
    count_subwords(tokens, rule, found.offsets.data() + 1);
    for (std::size_t i = 0; i < tokens.count; ++i) {
        const auto total = static_cast<std::uint64_t>(found.offsets[i]);
        if (static_cast<std::uint64_t>(found.offsets[i + 1]) > most - total)
            throw std::invalid_argument("expected at most " + std::to_string(most) +
                                        " n-grams, got more; ask for fewer tokens at once");
        found.offsets[i + 1] += found.offsets[i];
    }
    if (found.offsets.back() == 0)
        return found;
    if (rule.buckets == 0)
        throw std::invalid_argument("expected at least 1 bucket for the n-grams, got 0");
    found.buckets.resize(static_cast<std::size_t>(found.offsets.back()));
    parallel_for(tokens.count, grain, [&](std::size_t begin, std::size_t end) {
        std::string text;
        for (std::size_t i = begin; i < end; ++i) {
            const std::string_view token = token_at(tokens, i);
            if (found.offsets[i] != found.offsets[i + 1]) {
                text.assign(1, '<');
                text.append(token);
                text.push_back('>');
                write_buckets(text, rule, found.buckets.data() + found.offsets[i]);
            }
        }
    });
    return found;
}

} // namespace shardwise

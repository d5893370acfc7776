#pragma once
// The n-grams of words as fastText cuts and hashes them: which rows stand for the pieces of a word, be it in
// a vocabulary or not. The rules are those of fastText's dictionary.cc.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tokens.h"

namespace shardwise {

struct SubwordRule {
    std::int64_t min_chars; // of an n-gram, with the "<" before a word and the ">" after it
    std::int64_t max_chars; // less than min_chars, or less than 1: there are no n-grams
    std::uint32_t buckets;  // at least 1 where there are n-grams
    bool cut_end;           // whether "</s>", the end of a sentence, has n-grams like a word
};

/// counts[i] = how many n-grams token `i` has. A character is a byte and the UTF-8 continuation bytes behind
/// it, valid or not; the n-grams "<" and ">" do not count. Throws std::invalid_argument for offsets that are
/// not in order, and where a count does not fit.
void count_subwords(const Tokens &tokens, const SubwordRule &rule, std::int64_t *counts);

struct SubwordBuckets {
    std::vector<std::int64_t> buckets; // of all n-grams, in [0, rule.buckets)
    std::vector<std::int64_t> offsets; // one more than there are tokens
};

/// The bucket of each n-gram, a token's from left to right, those that begin together by their length: the
/// FNV-1a hash of its bytes, 32 bits, each byte sign-extended, modulo `buckets`. Throws std::invalid_argument
/// for offsets that are not in order, and where there are more than `most` n-grams in all.
SubwordBuckets subword_buckets(const Tokens &tokens, const SubwordRule &rule, std::size_t most);

} // namespace shardwise

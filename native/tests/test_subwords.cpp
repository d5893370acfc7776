#include "core/subwords.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "packed.h"

using namespace shardwise;

namespace {

constexpr std::size_t plenty = 1u << 20;
constexpr std::uint32_t all_buckets = std::numeric_limits<std::uint32_t>::max();

bool continues(char c) {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

std::int64_t bucket_of(const std::string &ngram, std::uint32_t buckets) {
    std::uint32_t hash = 2166136261u;
    for (const char c : ngram) {
        const auto byte = static_cast<unsigned char>(c);
        hash = (hash ^ (byte < 0x80 ? byte : byte | 0xffffff00u)) * 16777619u;
    }
    return hash % buckets;
}

/// The rules once more, with a list of characters.
std::vector<std::int64_t> expected(const std::string &token, const SubwordRule &rule) {
    if (token == "</s>" && !rule.cut_end)
        return {};
    std::vector<std::string> chars;
    for (const char c : "<" + token + ">") {
        if (chars.empty() || !continues(c))
            chars.emplace_back();
        chars.back() += c;
    }
    std::vector<std::int64_t> found;
    const auto count = static_cast<std::int64_t>(chars.size());
    for (std::int64_t begin = 0; begin < count; ++begin) {
        const std::int64_t most = std::min(rule.max_chars, count - begin);
        for (std::int64_t n = std::max<std::int64_t>(1, rule.min_chars); n <= most; ++n) {
            if (n == 1 && (begin == 0 || begin + 1 == count))
                continue;
            found.push_back(
                bucket_of(std::accumulate(chars.begin() + begin, chars.begin() + begin + n, std::string()),
                          rule.buckets));
        }
    }
    return found;
}

void compare(const std::vector<std::string> &words, const SubwordRule &rule) {
    const Packed tokens(words);
    const SubwordBuckets found = subword_buckets(tokens.view(), rule, plenty);
    std::vector<std::int64_t> counts(words.size(), -7);
    count_subwords(tokens.view(), rule, counts.data());
    CHECK(found.offsets.size() == words.size() + 1 && found.offsets[0] == 0);
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::vector<std::int64_t> here(found.buckets.begin() + found.offsets[i],
                                             found.buckets.begin() + found.offsets[i + 1]);
        CHECK(here == expected(words[i], rule));
        CHECK(counts[i] == static_cast<std::int64_t>(here.size()));
    }
}

void test_known() {
    // Hashes of FNV-1a, and of fastText's variant where a byte is not ASCII.
    CHECK(bucket_of("a", all_buckets) == 0xe40c292c && bucket_of("foobar", all_buckets) == 0xbf9cf968);
    const Packed tokens({"ab", "", "</s>", "\xc3\xa4"});
    const SubwordBuckets found = subword_buckets(tokens.view(), {3, 6, all_buckets, false}, plenty);
    CHECK((found.offsets == std::vector<std::int64_t>{0, 3, 3, 3, 4}));
    CHECK(found.buckets[0] == bucket_of("<ab", all_buckets));
    CHECK(found.buckets[1] == bucket_of("<ab>", all_buckets));
    CHECK(found.buckets[2] == bucket_of("ab>", all_buckets));
    CHECK(found.buckets[3] == bucket_of("<\xc3\xa4>", all_buckets));
}

void test_rules() {
    const std::vector<std::string> words{
        "a", "",  "</s>", "word", "\xc3\xa4\xe2\x82\xac", "\x80", "\x80\x80x", "x\xff", std::string("\0b", 2),
        "<", ">", "<>"};
    for (std::int64_t least = -1; least <= 7; ++least)
        for (std::int64_t most = -1; most <= 8; ++most)
            for (const bool cut_end : {false, true})
                compare(words, {least, most, 1000, cut_end});
    compare({}, {3, 6, 1000, false});
    compare(words, {1, std::numeric_limits<std::int32_t>::max(), 7, false});
}

void test_random() {
    std::mt19937 random(1);
    std::vector<std::string> words(5000);
    for (std::string &word : words) {
        word.resize(random() % 12);
        for (char &c : word)
            c = static_cast<char>(random() % 3 == 0 ? 0x80 + random() % 0x80 : random() % 0x80);
    }
    compare(words, {3, 6, 2000000, false});
    compare(words, {1, 2, 1, true});
}

void test_refused() {
    Packed tokens({"word", "word"});
    CHECK(subword_buckets(tokens.view(), {3, 3, 5, false}, 8).buckets.size() == 8);
    CHECK_THROWS(subword_buckets(tokens.view(), {3, 3, 5, false}, 7), std::invalid_argument);
    CHECK_THROWS(subword_buckets(tokens.view(), {3, 6, 0, false}, plenty), std::invalid_argument);
    CHECK(subword_buckets(tokens.view(), {3, 0, 0, false}, plenty).buckets.empty());
    std::vector<std::int64_t> counts(2);
    for (const std::int64_t wild :
         {std::int64_t{-1}, std::int64_t{9}, std::numeric_limits<std::int64_t>::min(),
          std::numeric_limits<std::int64_t>::max()}) {
        tokens.offsets[1] = wild;
        CHECK_THROWS(subword_buckets(tokens.view(), {3, 6, 5, false}, plenty), std::invalid_argument);
        CHECK_THROWS(count_subwords(tokens.view(), {3, 6, 5, false}, counts.data()), std::invalid_argument);
    }
}

} // namespace

int main() {
    test_known();
    test_rules();
    test_random();
    test_refused();
    return 0;
}

#include "core/token_counts.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "core/threads.h"
#include "packed.h"

using namespace shardwise;

namespace {

using Words = std::vector<std::pair<std::string, std::int64_t>>; // and how often

Words words_of(const CountedTokens &tokens) {
    CHECK(tokens.offsets.size() == tokens.counts.size() + 1);
    Words words;
    for (std::size_t i = 0; i < tokens.counts.size(); ++i)
        words.emplace_back(std::string(tokens.bytes.begin() + tokens.offsets[i],
                                       tokens.bytes.begin() + tokens.offsets[i + 1]),
                           tokens.counts[i]);
    return words;
}

/// What the rule says, byte by byte.
std::vector<std::string> split(const std::string &text) {
    std::vector<std::string> tokens;
    bool inside = false;
    for (const char c : text) {
        const bool space = std::strchr(" \t\n\v\f\r", c) != nullptr && c != '\0';
        if (!space && !inside)
            tokens.emplace_back();
        if (!space)
            tokens.back() += c;
        inside = !space;
    }
    return tokens;
}

Words expected(const std::vector<std::string> &tokens) {
    std::map<std::string, std::size_t> places;
    Words words;
    for (const std::string &token : tokens) {
        const auto [place, fresh] = places.emplace(token, words.size());
        if (fresh)
            words.emplace_back(token, 0);
        ++words[place->second].second;
    }
    return words;
}

/// Gives the text in blocks of their exact sizes, so that a sanitizer sees every step beyond them.
TokenCounts counted(const std::string &text, std::size_t block) {
    TokenCounts counts;
    std::size_t at = 0, room = block;
    while (at < text.size()) {
        const std::size_t size = std::min(room, text.size() - at);
        const auto bytes = std::make_unique<std::uint8_t[]>(size);
        std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(at), size, bytes.get());
        const std::size_t used = counts.count_text(bytes.get(), size, at + size == text.size());
        CHECK(used <= size);
        at += used;
        room = used == 0 ? 2 * room : block;
    }
    return counts;
}

std::string random_text(std::mt19937 &random, std::size_t size, int alphabet) {
    const std::string odd =
        " \t\n\v\f\r  ab\x01\x08\x0e\x1f\x21\x7f\x80\x85\x89\xa0\xff" + std::string(1, '\0');
    std::string text(size, ' ');
    for (char &c : text)
        c = random() % 3 == 0 ? odd[random() % odd.size()]
                              : static_cast<char>('a' + static_cast<int>(random()) % alphabet);
    return text;
}

void test_text() {
    std::mt19937 random(1);
    for (const std::size_t size : {0u, 1u, 7u, 63u, 64u, 65u, 200u, 5000u})
        for (int repeat = 0; repeat < 20; ++repeat) {
            const std::string text = random_text(random, size, 1 + repeat);
            const Words words = expected(split(text));
            for (const std::size_t block : {std::size_t{1}, std::size_t{17}, std::size_t{64}, size + 1}) {
                const TokenCounts counts = counted(text, block);
                CHECK(words_of(counts.tokens(0)) == words);
                CHECK(counts.size() == words.size());
                CHECK(counts.total() == split(text).size());
            }
        }
}

void test_threads() {
    std::mt19937 random(2);
    // More than a piece for each thread, more distinct words than a memo holds, and long ones.
    std::string text;
    while (text.size() < 1'200'000) {
        text += std::to_string(random() % (random() % 2 == 0 ? 100 : 200'000));
        if (random() % 50 == 0)
            text += "-and-more-than-sixteen-bytes-" + std::to_string(random() % 1000);
        text += random() % 9 == 0 ? "\r\n" : " ";
    }
    text += std::string(400'000, 'x') + " " + text.substr(0, 1000);
    const Words words = expected(split(text));
    for (const int threads : {1, 2, 7}) {
        set_num_threads(threads);
        const TokenCounts whole = counted(text, text.size());
        CHECK(words_of(whole.tokens(0)) == words);
        CHECK(words_of(counted(text, 300'000).tokens(0)) == words);
        Words frequent;
        std::copy_if(words.begin(), words.end(), std::back_inserter(frequent),
                     [](const auto &word) { return word.second >= 5; });
        CHECK(words_of(whole.tokens(5)) == frequent);
    }
    set_num_threads(2);
}

void test_lists() {
    std::mt19937 random(3);
    std::vector<std::string> tokens{"", "a b",      std::string("\0", 1),
                                    "", "\xff\xfe", std::string(100'000, 'y')};
    for (int i = 0; i < 50'000; ++i)
        tokens.push_back(random() % 7 == 0 ? "" : std::to_string(random() % 30'000));
    const Packed packed(tokens);
    const Words words = expected(tokens);
    for (const int threads : {1, 2, 7}) {
        set_num_threads(threads);
        TokenCounts counts;
        counts.count_tokens(packed.view());
        CHECK(words_of(counts.tokens(0)) == words);
        // Again, by weights, behind a text.
        TokenCounts weighted;
        const std::string head = "q a b q";
        weighted.count_text(reinterpret_cast<const std::uint8_t *>(head.data()), head.size(), true);
        const CountedTokens distinct = counts.tokens(0);
        weighted.count_tokens(
            {distinct.bytes.data(), distinct.bytes.size(), distinct.offsets.data(), distinct.counts.size()},
            distinct.counts.data());
        Words after{{"q", 2}, {"a", 1}, {"b", 1}};
        after.insert(after.end(), words.begin(), words.end());
        CHECK(words_of(weighted.tokens(0)) == after);
        CHECK(weighted.total() == tokens.size() + 4);
        const Packed asked({"", "q", "none", "a b", std::string(17, 'n')});
        std::vector<std::int64_t> found(5, -1);
        weighted.find(asked.view(), found.data());
        CHECK(found[0] == words[0].second && found[1] == 2 && found[2] == 0 && found[3] == 1 &&
              found[4] == 0);
    }
    set_num_threads(2);
    std::vector<std::int64_t> none(1, -1);
    TokenCounts().find(Packed({"a"}).view(), none.data());
    CHECK(none[0] == 0);
    CHECK(TokenCounts().tokens(1).offsets == std::vector<std::int64_t>{0});
}

void test_order() {
    std::mt19937 random(4);
    std::vector<std::string> tokens;
    std::vector<std::int64_t> counts;
    for (int i = 0; i < 2000; ++i) {
        std::string token = random_text(random, random() % 12, 2);
        if (std::find(tokens.begin(), tokens.end(), token) != tokens.end())
            continue;
        tokens.push_back(token);
        counts.push_back(static_cast<std::int64_t>(random() % 4));
    }
    const auto bytes = [](const std::string &token) {
        return std::vector<std::uint8_t>(token.begin(), token.end());
    };
    const Packed packed(tokens);
    for (const Ties ties : {Ties::first, Ties::ascending, Ties::descending}) {
        std::vector<std::int64_t> wanted(tokens.size());
        for (std::size_t i = 0; i < wanted.size(); ++i)
            wanted[i] = static_cast<std::int64_t>(i);
        std::stable_sort(wanted.begin(), wanted.end(), [&](std::int64_t a, std::int64_t b) {
            const auto x = static_cast<std::size_t>(a), y = static_cast<std::size_t>(b);
            if (counts[x] != counts[y])
                return counts[x] > counts[y];
            if (ties == Ties::first)
                return false;
            return ties == Ties::ascending ? bytes(tokens[x]) < bytes(tokens[y])
                                           : bytes(tokens[y]) < bytes(tokens[x]);
        });
        CHECK(order_tokens(packed.view(), counts.data(), ties) == wanted);
        const Words words = words_of(take_tokens(packed.view(), counts.data(), wanted.data(), 10));
        for (std::size_t i = 0; i < 10; ++i) {
            const auto id = static_cast<std::size_t>(wanted[i]);
            CHECK(words[i] == std::pair(tokens[id], counts[id]));
        }
    }
}

void test_errors() {
    const Packed good({"ab", "c"});
    const std::int64_t counts[] = {1, 1};
    for (const std::vector<std::int64_t> &offsets :
         {std::vector<std::int64_t>{0, 4, 3}, {0, -1, 3}, {-1, 2, 3}, {0, 2, 1}}) {
        const Tokens broken{good.bytes.get(), 3, offsets.data(), 2};
        TokenCounts counted;
        std::int64_t found[2];
        const std::int64_t ids[] = {0, 1};
        CHECK_THROWS(counted.count_tokens(broken), std::invalid_argument);
        CHECK_THROWS(counted.find(broken, found), std::invalid_argument);
        CHECK_THROWS(order_tokens(broken, counts, Ties::ascending), std::invalid_argument);
        CHECK_THROWS(take_tokens(broken, counts, ids, 2), std::invalid_argument);
    }
    for (const std::int64_t id : {-1, 2})
        CHECK_THROWS(take_tokens(good.view(), counts, &id, 1), std::invalid_argument);
}

} // namespace

int main() {
    test_text();
    test_threads();
    test_lists();
    test_order();
    test_errors();
    return 0;
}

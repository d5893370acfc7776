#include "core/token_find.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "core/platform.h"
#include "core/threads.h"
#include "packed.h"

using namespace shardwise;

namespace {

struct Map {
    Packed tokens;
    std::vector<std::uint64_t> slots;
    std::vector<std::int64_t> first_of;
    std::size_t duplicates;

    explicit Map(const std::vector<std::string> &words)
        : tokens(words), slots(token_map_slots(words.size())), first_of(words.size()),
          duplicates(build_token_map(tokens.view(), slots.data(), slots.size(), first_of.data())) {}
    TokenMap view() const { return {tokens.view(), slots.data(), slots.size()}; }
};

/// A map's arrays in a file, and in memory a copy whose slots are empty: who reads that finds nothing.
struct InFile {
    std::vector<std::uint8_t> memory;
    std::FILE *file = std::tmpfile();
    std::unique_ptr<MappedFile> mapped;
    TokenMap map;

    explicit InFile(TokenMap original) : map(original) {
        const std::size_t slots = map.num_slots * 8, offsets = (map.tokens.count + 1) * 8;
        memory.resize(slots + offsets + map.tokens.size);
        std::memcpy(memory.data(), map.slots, slots);
        std::memcpy(memory.data() + slots, map.tokens.offsets, offsets);
        std::copy_n(map.tokens.bytes, map.tokens.size, memory.data() + slots + offsets);
        CHECK(std::fwrite(memory.data(), 1, memory.size(), file) == memory.size() && std::fflush(file) == 0);
        if (SHARDWISE_POSIX) // elsewhere it is the memory that is read
            std::fill_n(memory.begin(), slots, std::uint8_t{0});
        mapped = std::make_unique<MappedFile>(fileno(file), memory.data(), memory.size());
        map.slots = reinterpret_cast<const std::uint64_t *>(memory.data());
        map.tokens.offsets = reinterpret_cast<const std::int64_t *>(memory.data() + slots);
        map.tokens.bytes = memory.data() + slots + offsets;
        map.file = mapped.get();
    }
    ~InFile() { std::fclose(file); }
};

std::vector<std::int64_t> ids_of(const TokenMap &map, const std::vector<std::string> &words) {
    const Packed wanted(words);
    std::vector<std::int64_t> ids(words.size(), -7);
    find_tokens(map, wanted.view(), ids.data());
    return ids;
}

std::uint64_t hash_of(const std::string &text) {
    return hash64(reinterpret_cast<const std::uint8_t *>(text.data()), text.size());
}

void test_hash() {
    CHECK(hash_of("") == 0xef46db3751d8e999u);
    CHECK(hash_of("a") == 0xd24ec4f1a98c6e5bu);
    CHECK(hash_of("abc") == 0x44bc2cf5ad770999u);
    CHECK(hash_of("Nobody inspects the spammish repetition") == 0xfbcea83c8a378bf1u);
}

void test_slots() {
    CHECK(token_map_slots(0) == 8 && token_map_slots(4) == 8 && token_map_slots(5) == 16);
    CHECK(token_map_slots(64) == 128 && token_map_slots(65) == 256);
    CHECK_THROWS(token_map_slots(std::numeric_limits<std::size_t>::max()), std::invalid_argument);
}

void test_find() {
    const std::string odd("a\0b", 3);
    const Map map({"the", "", "the ", "\xff\xfe", odd, "a"});
    CHECK(map.duplicates == 0);
    CHECK((ids_of(map.view(), {"a", odd, "\xff\xfe", "the ", "", "the", "th", "them"}) ==
           std::vector<std::int64_t>{5, 4, 3, 2, 1, 0, -1, -1}));
    CHECK(ids_of(Map({}).view(), {"a", ""}) == (std::vector<std::int64_t>{-1, -1}));
    CHECK(ids_of(map.view(), {}).empty());
}

void test_first_wins() {
    const Map map({"b", "a", "b", "c", "a", "b"});
    CHECK(map.duplicates == 3);
    CHECK((map.first_of == std::vector<std::int64_t>{0, 1, 0, 3, 1, 0}));
    CHECK((ids_of(map.view(), {"a", "b", "c"}) == std::vector<std::int64_t>{1, 0, 3}));
}

void test_many() {
    std::vector<std::string> words;
    for (int i = 0; i < 50000; ++i)
        words.push_back("w" + std::to_string(i * 7919));
    const Map map(words);
    std::vector<std::string> wanted = words;
    for (int i = 0; i < 50000; ++i)
        wanted.push_back("x" + std::to_string(i));
    const std::vector<std::int64_t> ids = ids_of(map.view(), wanted);
    for (std::size_t i = 0; i < ids.size(); ++i)
        CHECK(ids[i] == (i < words.size() ? static_cast<std::int64_t>(i) : -1));
}

/// Tokens in objects of their own, 16 bytes of something else before them; every 1000th is elsewhere.
class Objects final : public TokenLocator {
public:
    explicit Objects(const std::vector<std::string> &words) {
        for (const std::string &word : words) {
            objects_.push_back(std::make_unique<std::uint8_t[]>(16 + word.size()));
            std::fill_n(objects_.back().get(), 16, static_cast<std::uint8_t>('a' + objects_.size() % 3));
            std::copy(word.begin(), word.end(), objects_.back().get() + 16);
            spans_.push_back({objects_.back().get() + 16, word.size()});
        }
    }
    void locate(std::size_t begin, std::size_t end, TokenSpan *spans) const override {
        for (std::size_t i = begin; i < end; ++i)
            spans[i - begin] = i % 1000 == 999 ? elsewhere : spans_[i];
    }

private:
    std::vector<std::unique_ptr<std::uint8_t[]>> objects_;
    std::vector<TokenSpan> spans_;
};

void test_apart(const TokenMap &map, const std::vector<std::string> &wanted,
                const std::vector<std::int64_t> &expected) {
    std::vector<std::unique_ptr<std::uint8_t[]>> apart; // of exact sizes, for the sanitizers
    std::vector<TokenSpan> spans;
    for (const std::string &word : wanted) {
        apart.push_back(std::make_unique<std::uint8_t[]>(word.size()));
        std::copy(word.begin(), word.end(), apart.back().get());
        spans.push_back({apart.back().get(), word.size()});
    }
    const Objects objects(wanted);
    for (const int threads : {1, 3}) {
        set_num_threads(threads);
        for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{2000}, wanted.size()}) {
            TokenFinder finder(map, count);
            std::vector<std::int64_t> ids(count, -7);
            std::vector<std::size_t> elsewhere{5};
            std::size_t lost = finder.find(objects, count, ids.data(), -3, elsewhere);
            CHECK(elsewhere.size() == count / 1000);
            for (std::size_t i = 0; i < elsewhere.size(); ++i) {
                CHECK(elsewhere[i] == i * 1000 + 999);
                lost += finder.find(&spans[elsewhere[i]], 1, &ids[elsewhere[i]], -3);
            }
            std::vector<std::int64_t> again(count, -7); // with the memos that the threads left
            CHECK(finder.find(spans.data(), count, again.data(), -3) == lost);
            for (std::size_t i = 0; i < count; ++i) {
                CHECK(ids[i] == (expected[i] < 0 ? -3 : expected[i]));
                CHECK(again[i] == ids[i]);
            }
            CHECK(static_cast<std::ptrdiff_t>(lost) == std::count(ids.begin(), ids.end(), -3));
        }
    }
    set_num_threads(2);
}

/// Every way to ask, with enough tokens for a memo: sizes around 4, 8 and 16, and tokens all but equal.
void test_ways_to_ask() {
    std::vector<std::string> words;
    for (std::size_t size = 0; size < 40; ++size)
        for (const char last : {'a', 'b', '\0'})
            if (size > 0 || last == 'a')
                words.push_back(std::string(size == 0 ? 0 : size - 1, 'a') + std::string(size > 0, last));
    const std::size_t known = words.size();
    const Map map(words);
    CHECK(map.duplicates == 0);
    words.push_back(std::string(41, 'a'));
    words.push_back("\x01");
    words.push_back(std::string(8, '\0'));
    words.push_back(std::string("\0aaa", 4)); // NULs before and after: the size tells
    std::mt19937 random(3);
    std::vector<std::string> wanted;
    std::vector<std::int64_t> expected;
    for (int i = 0; i < 140000; ++i) {
        const std::size_t pick = random() % words.size();
        wanted.push_back(words[pick]);
        expected.push_back(pick < known ? static_cast<std::int64_t>(pick) : -1);
    }
    CHECK(ids_of(map.view(), wanted) == expected);
    const auto lost = std::count(expected.begin(), expected.end(), -1);

    const Packed packed(wanted);
    std::vector<std::int32_t> offsets(packed.offsets.begin(), packed.offsets.end());
    const ShortTokens tokens{packed.bytes.get(), packed.size, offsets.data(), wanted.size()};
    std::vector<std::int64_t> ids(wanted.size(), -7);
    CHECK(find_tokens(map.view(), tokens, ids.data()) == static_cast<std::size_t>(lost));
    CHECK(ids == expected);

    test_apart(map.view(), wanted, expected);

    for (const std::int32_t wild : {-1, 1 << 30}) {
        offsets[5] = wild;
        CHECK_THROWS(find_tokens(map.view(), tokens, ids.data()), std::out_of_range);
    }
}

void test_unjoin() {
    const std::string joined("ab\0\0c", 5);
    const auto *bytes = reinterpret_cast<const std::uint8_t *>(joined.data());
    std::uint8_t out[8];
    std::int64_t offsets[8];
    unjoin_tokens(bytes, 5, 3, out, offsets);
    CHECK(std::string(out, out + 3) == "abc");
    CHECK(offsets[0] == 0 && offsets[1] == 2 && offsets[2] == 2 && offsets[3] == 3);
    unjoin_tokens(bytes, 0, 1, out, offsets);
    CHECK(offsets[1] == 0);
    unjoin_tokens(bytes, 3, 2, out, offsets);
    CHECK(offsets[1] == 2 && offsets[2] == 2);
    CHECK_THROWS(unjoin_tokens(bytes, 5, 2, out, offsets), std::invalid_argument);
    CHECK_THROWS(unjoin_tokens(bytes, 5, 4, out, offsets), std::invalid_argument);
}

void test_in_pieces() {
    std::vector<std::string> words{"", "the", std::string(256, 'x'), std::string(1000, 'y')};
    for (int i = 0; i < 3000; ++i)
        words.push_back(std::to_string(i * i) + (i % 5 == 0 ? std::string(i % 700, 'z') : ""));
    const Map map(words);
    const InFile file(map.view());
    std::vector<std::string> asked = words;
    for (const std::string &word : words)
        asked.push_back(word + "?");
    asked.push_back(std::string(999, 'y') + "x");
    CHECK(ids_of(file.map, asked) == ids_of(map.view(), asked));
    TokenMap empty = file.map;
    empty.file = nullptr;
    if (SHARDWISE_POSIX)
        CHECK(ids_of(empty, {"the"}) == std::vector<std::int64_t>{-1});
}

/// Whatever is damaged: an answer or std::invalid_argument, and the sanitizers silent.
bool answers(const TokenMap &map) {
    try {
        ids_of(map, {"the", "of", "nothing", ""});
        return true;
    } catch (const std::invalid_argument &) {
        return false;
    }
}

void test_hostile() {
    const Map good({"the", "of", "and", "to"});
    CHECK(answers(good.view()));
    const std::size_t home = hash_of("nothing") & 7;
    const std::uint64_t tag = hash_of("nothing") & ~((std::uint64_t{1} << 48) - 1);

    Map full = good; // no empty slot, no matching tag: the walk must end
    for (std::uint64_t &slot : full.slots)
        slot = (tag ^ (std::uint64_t{1} << 63)) | 1;
    CHECK(!answers(full.view()));
    full.slots.assign(4096, full.slots[0]); // longer than what is read in pieces
    const InFile file(full.view());
    CHECK(answers(file.map) || !SHARDWISE_POSIX); // in memory the slots are empty
    Map far = good;                               // ids beyond the tokens, and the id -1
    far.slots[home] = tag | 0xffffffffffffu;
    CHECK(!answers(far.view()));
    far.slots[home] = tag;
    CHECK(!answers(far.view()) || tag == 0);

    for (const std::int64_t wild : {std::int64_t{-1}, std::int64_t{5}, std::int64_t{1} << 62,
                                    std::numeric_limits<std::int64_t>::min()}) {
        Map bad = good;
        bad.tokens.offsets[1] = wild;
        CHECK(!answers(bad.view()) || wild == 5);
        bad = good;
        bad.tokens.offsets.back() = wild;
        CHECK_THROWS(validate_token_map(bad.view()), std::invalid_argument);
        bad = good;
        bad.tokens.offsets[0] = wild;
        CHECK_THROWS(validate_token_map(bad.view()), std::invalid_argument);
    }
    for (const std::size_t slots : {std::size_t{0}, std::size_t{4}, std::size_t{7}})
        CHECK_THROWS(validate_token_map({good.tokens.view(), good.slots.data(), slots}),
                     std::invalid_argument);

    std::mt19937_64 random(1);
    for (int round = 0; round < 20000; ++round) {
        Map bad = good;
        const std::uint64_t at = random();
        if (round % 2 == 0)
            bad.slots[at % bad.slots.size()] ^= std::uint64_t{1} << (random() % 64);
        else
            bad.tokens.offsets[at % bad.tokens.offsets.size()] ^= std::int64_t{1} << (random() % 63);
        const bool answered = answers(bad.view());
        if (round % 20 == 0)
            CHECK(answers(InFile(bad.view()).map) == answered);
    }
}

} // namespace

int main() {
    test_hash();
    test_slots();
    test_find();
    test_first_wins();
    test_many();
    test_ways_to_ask();
    test_in_pieces();
    test_unjoin();
    test_hostile();
    return 0;
}

#include "core/text.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

using namespace shardwise;

namespace {

constexpr std::size_t all = std::numeric_limits<std::size_t>::max();

/// Text in memory of its exact size, so that a sanitizer sees every step beyond it.
struct Text {
    std::unique_ptr<char[]> data;
    std::size_t size;

    explicit Text(const std::string &text) : data(std::make_unique<char[]>(text.size())), size(text.size()) {
        std::copy(text.begin(), text.end(), data.get());
    }
};

float parsed(const std::string &text) {
    const Text exact(text);
    float value = -77;
    CHECK(parse_float(exact.data.get(), exact.data.get() + exact.size, value));
    return value;
}

bool refused(const std::string &text) {
    const Text exact(text);
    float value = 0;
    return !parse_float(exact.data.get(), exact.data.get() + exact.size, value);
}

bool same(float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

void check_number(const std::string &text) {
    if (!same(parsed(text), std::strtof(text.c_str(), nullptr))) {
        std::fprintf(stderr, "%s: got %a\n", text.c_str(), static_cast<double>(parsed(text)));
        std::exit(1);
    }
}

void test_numbers() {
    for (const char *text : {"0",
                             "-0",
                             "+1.5",
                             "1.",
                             ".5",
                             "-.5e-3",
                             "1e5",
                             "1E+05",
                             "0.1",
                             "16777217",
                             "16777219",
                             "8388608.5",
                             "123456789012345678901234567890",
                             "0.000000000000000000000000000000000000011754943",
                             "3.4028235e38",
                             "3.4028236e38",
                             "-1e39",
                             "1e400",
                             "-1e-400",
                             "1e99999999999999999999",
                             "1e-99999999999999999999",
                             "1.401298464324817e-45",
                             "7.006492321624085e-46",
                             "7.006492321624086e-46",
                             "1e-46",
                             "2.2250738585072014e-308",
                             "0.30000001192092896",
                             "1.00000005960464477539062500001",
                             "1.000000059604644775390625",
                             "9007199254740993",
                             "12345678.12345678",
                             "0.12345678",
                             "0.123456789",
                             "0.1234567890123456789012345",
                             "00000000000000000000001.5"})
        check_number(text);
    CHECK(std::isnan(parsed("nan")) && std::isnan(parsed("-NaN")) && std::isnan(parsed("+nan")));
    CHECK(parsed("inf") > 1e38F && parsed("-Infinity") < -1e38F && parsed("+INF") > 1e38F);
    for (const char *text :
         {"",     "+",   "-",  ".",  "e5",   "1e", "1e+", "--1",    "+-1",   "-+1",    "1.2.3",
          "0x10", "1,5", "1 ", " 1", "nano", "in", "1_0", "12:0.5", "1e5.0", "infinit"})
        CHECK(refused(text));
}

void test_random_numbers() {
    std::mt19937_64 random(2);
    char text[80];
    for (int round = 0; round < 300000; ++round) {
        const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
        if (!std::isfinite(value))
            continue;
        const int precision = static_cast<int>(random() % 20);
        const char *const formats[] = {"%.*g", "%.*e"};
        std::snprintf(text, sizeof text, formats[round % 2], precision, static_cast<double>(value));
        check_number(text);
        const double small =
            static_cast<double>(static_cast<std::int64_t>(random()) >> (random() % 40)) * 1e-18;
        std::snprintf(text, sizeof text, "%.*f", precision, small);
        check_number(text);
        // Half way between two floats, and a last digit more or less.
        const float next = std::nextafter(value, std::numeric_limits<float>::infinity());
        if (std::isfinite(next) && std::fabs(value) > 1e-5F && std::fabs(value) < 1e5F) {
            std::snprintf(text, sizeof text, "%.35f",
                          (static_cast<double>(value) + static_cast<double>(next)) / 2);
            check_number(text);
        }
    }
}

struct Row {
    std::string token;
    std::vector<float> values;
    bool operator==(const Row &) const = default;
};

std::vector<Row> rows_of(const Text &text, std::size_t dim, const RowIndex &index, bool binary = false) {
    const std::size_t count = index.token_starts.size();
    std::vector<float> values(count * dim);
    (binary ? copy_rows : parse_rows)(text.data.get(), text.size, index.value_starts.data(), count, dim,
                                      values.data(), dim);
    const PackedTokens tokens = gather_tokens(text.data.get(), text.size, index.token_starts.data(),
                                              index.value_starts.data(), count);
    std::vector<Row> rows;
    for (std::size_t i = 0; i < count; ++i) {
        const auto at = [&](std::size_t k) { return tokens.bytes.begin() + tokens.offsets[k]; };
        const auto row = values.begin() + static_cast<std::ptrdiff_t>(i * dim);
        rows.push_back({std::string(at(i), at(i + 1)), {row, row + static_cast<std::ptrdiff_t>(dim)}});
    }
    return rows;
}

RowIndex index_all(const Text &text, std::size_t dim) {
    const std::size_t end = text_end(text.data.get(), text.size);
    return index_text(text.data.get(), end, 0, end, dim, all);
}

std::vector<Row> read_text(const std::string &content, std::size_t dim) {
    const Text text(content);
    return rows_of(text, dim, index_all(text, dim));
}

std::string text_error(const std::string &content, std::size_t dim) {
    try {
        read_text(content, dim);
    } catch (const std::invalid_argument &error) {
        return error.what();
    }
    return "";
}

bool contains(const std::string &text, const char *part) {
    return text.find(part) != std::string::npos;
}

void test_text() {
    const std::vector<Row> two{{"a", {1, 2}}, {"b", {3, 4}}};
    for (const char *content : {"a 1 2\nb 3 4\n", "a 1 2\nb 3 4", "a 1 2 \nb 3 4 \n", "a 1 2\r\nb 3 4\r\n",
                                "a 1 2 \r\nb 3  4\r\n\r\n \n", "a\t1\t2\nb\t3 4\n", "a 1\t2\t\nb 3 4\n\n\n"})
        CHECK(read_text(content, 2) == two);
    CHECK((read_text("at b@c.d 1 2\n 3 4\n. . . 5 6\nx\xc2\xa0y\xc2\x85 7 8\n\xff\xc3 9 1\nNew York\t2 "
                     "3\n1.5 4 5\nx\ty 6 7",
                     2) == std::vector<Row>{{"at b@c.d", {1, 2}},
                                            {"", {3, 4}},
                                            {". . .", {5, 6}},
                                            {"x\xc2\xa0y\xc2\x85", {7, 8}},
                                            {"\xff\xc3", {9, 1}},
                                            {"New York", {2, 3}},
                                            {"1.5", {4, 5}},
                                            {"x\ty", {6, 7}}}));
    CHECK(read_text("", 3).empty() && read_text("\n \n", 3).empty());
}

void test_text_errors() {
    CHECK(contains(text_error("a 1 2\nb 3\n", 2),
                   "line 2: expected a token and 2 values, got 2 fields: 'b 3'"));
    CHECK(contains(text_error("a 1 2\n1 2\n", 2), "line 2: expected a token and 2 values, got 2 fields"));
    CHECK(contains(text_error("a 1 2\n\nb 3 4\n", 2), "line 2: expected a token and 2 values, got 0 fields"));
    CHECK(
        contains(text_error("a 1 2\nb 0.5 3 4\n", 2), "line 2: expected a token and 2 values, got 4 fields"));
    CHECK(contains(text_error("a 1 2\nb 3 4x\n", 2), "line 2, value 2 of 2: expected a number, got '4x'"));
    CHECK(contains(text_error("a 1 2\nb \xff 4\n", 2), "got '\\xff'"));
    CHECK(contains(text_error("a 1 2\r3\n", 2), "line 1, value 2 of 2") ||
          contains(text_error("a 1 2\r3\n", 2), "line 1: expected the end"));
    CHECK_THROWS(index_text("a 1", 3, 2, 1, 1, all), std::invalid_argument);
    CHECK_THROWS(index_text("a 1", 3, 0, 4, 1, all), std::invalid_argument);
    CHECK_THROWS(index_text("a 1", 3, 0, 3, 0, all), std::invalid_argument);
    float out[2];
    for (const std::int64_t start :
         {std::int64_t{-1}, std::int64_t{4}, std::numeric_limits<std::int64_t>::max()}) {
        CHECK_THROWS(parse_rows("a 1", 3, &start, 1, 1, out, 1), std::invalid_argument);
        CHECK_THROWS(copy_rows("a 1", 3, &start, 1, 1, out, 1), std::invalid_argument);
        const std::int64_t end = 2;
        CHECK_THROWS(gather_tokens("a 1", 3, &start, &end, 1), std::invalid_argument);
        CHECK_THROWS(gather_tokens("a 1", 3, &end, &start, 1), std::invalid_argument);
    }
}

/// Several chunks, lines longer than a chunk, blocks that end within a line, and a limit.
void test_chunks() {
    std::string content;
    std::vector<Row> expected;
    for (int i = 0; i < 60000; ++i) {
        const std::string token = i == 30000 ? std::string(3 << 20, 'x') : "token" + std::to_string(i);
        content += token + " " + std::to_string(i) + ".25 -7 1e-3\n";
        expected.push_back({token, {static_cast<float>(i) + 0.25F, -7, 1e-3F}});
    }
    const Text text(content);
    CHECK(rows_of(text, 3, index_all(text, 3)) == expected);

    RowIndex joined{{}, {}, 0};
    while (joined.next < text.size) {
        RowIndex part = index_text(text.data.get(), text.size, joined.next,
                                   std::min(text.size, joined.next + 50001), 3, all);
        CHECK(part.next > joined.next);
        joined.token_starts.insert(joined.token_starts.end(), part.token_starts.begin(),
                                   part.token_starts.end());
        joined.value_starts.insert(joined.value_starts.end(), part.value_starts.begin(),
                                   part.value_starts.end());
        joined.next = part.next;
    }
    CHECK(rows_of(text, 3, joined) == expected);

    const RowIndex some = index_text(text.data.get(), text.size, 0, text.size, 3, 40000);
    CHECK(some.token_starts.size() == 40000 && some.next == content.find("token40000 "));
    content += "broken\n";
    const Text broken(content);
    CHECK(index_text(broken.data.get(), broken.size, 0, broken.size, 3, 60000).token_starts.size() == 60000);
    CHECK(contains(text_error(content, 3), "line 60001: "));
}

std::string bytes_of(const std::vector<float> &values) {
    std::string bytes(values.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

void test_binary() {
    const std::vector<Row> expected{{"a", {1, 2}}, {"\xff", {3, 4}}, {"", {5, 6}}};
    for (const char *end : {"", "\n"}) {
        std::string content;
        for (const Row &row : expected)
            content += row.token + " " + bytes_of(row.values) + end;
        const Text text(content);
        const RowIndex index = index_binary(text.data.get(), text.size, 0, 2, 3, all, 1);
        CHECK(rows_of(text, 2, index, true) == expected);
        const RowIndex first = index_binary(text.data.get(), text.size, 0, 2, 3, 1, 1);
        CHECK(first.token_starts.size() == 1);
        CHECK(index_binary(text.data.get(), text.size, first.next, 2, 2, all, 2).next == index.next);
        for (std::size_t cut = 1; cut < 9 + std::strlen(end); ++cut) {
            const Text shorter(content.substr(0, content.size() - cut));
            try {
                CHECK(index_binary(shorter.data.get(), shorter.size, 0, 2, 3, all, 1).token_starts.size() <=
                      3);
            } catch (const std::invalid_argument &error) {
                CHECK(contains(error.what(), "row 3, byte "));
            }
        }
    }
    CHECK_THROWS(index_binary("a ", 2, 0, all / 2, 1, all, 1), std::invalid_argument);
    CHECK_THROWS(index_binary("a ", 2, 3, 1, 1, all, 1), std::invalid_argument);
}

/// Changed bytes give rows or std::invalid_argument, and the sanitizers stay silent.
void test_mutations() {
    const std::string good = "the 0.418 0.24968 -0.41242\nof 1e-5 -2 +3.5 \r\nat b@c 12345678.9 nan 0\n";
    const std::string pieces = " \t\r\n.eE+-0159nifx\xff";
    std::mt19937_64 random(3);
    for (int round = 0; round < 100000; ++round) {
        std::string bad = good;
        for (std::uint64_t changes = 1 + random() % 4; changes > 0; --changes)
            bad[random() % bad.size()] = pieces[random() % pieces.size()];
        bad.resize(bad.size() - random() % 4);
        (void)text_error(bad, 3);
        const Text text(bad);
        try {
            rows_of(text, 3, index_binary(text.data.get(), text.size, random() % 8, 3, all, all, 1), true);
        } catch (const std::invalid_argument &) {
        }
    }
}

} // namespace

int main() {
    test_numbers();
    test_random_numbers();
    test_text();
    test_text_errors();
    test_chunks();
    test_binary();
    test_mutations();
    return 0;
}

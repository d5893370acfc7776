#include "core/text_write.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "core/text.h"

using namespace shardwise;

namespace {

/// Tokens and values in memory of their exact size, so that a sanitizer sees every step beyond it.
struct Rows {
    std::vector<std::uint8_t> bytes;
    std::vector<std::int64_t> offsets{0};
    std::vector<float> values;

    void add(const std::string &token, const std::vector<float> &row) {
        bytes.insert(bytes.end(), token.begin(), token.end());
        offsets.push_back(static_cast<std::int64_t>(bytes.size()));
        values.insert(values.end(), row.begin(), row.end());
    }
    std::size_t count() const { return offsets.size() - 1; }
    RowTokens tokens() {
        bytes.shrink_to_fit();
        return {bytes.data(), bytes.size(), offsets.data()};
    }
};

std::string text_of(const std::vector<std::uint8_t> &bytes) {
    return {bytes.begin(), bytes.end()};
}

bool same(float a, float b) {
    return (std::isnan(a) && std::isnan(b) && std::signbit(a) == std::signbit(b)) ||
           std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

void test_layout() {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    Rows rows;
    rows.add("a", {1, -0.5F});
    rows.add("", {0.1F, -0.0F});
    rows.add("b c", {inf, -inf});
    rows.add("\xff", {nan, std::copysign(nan, -1.0F)});
    CHECK(text_of(format_rows(rows.values.data(), rows.count(), 2, rows.tokens())) ==
          "a 1 -0.5\n 0.1 -0\nb c inf -inf\n\xff nan -nan\n");
    std::string packed;
    const float *row = rows.values.data();
    for (const std::string token : {"a", "", "b c", "\xff"}) {
        char values[8];
        std::memcpy(values, row, sizeof values);
        packed += token + " " + std::string(values, sizeof values) + "\n";
        row += 2;
    }
    CHECK(text_of(pack_rows(rows.values.data(), rows.count(), 2, rows.tokens())) == packed);
    CHECK(format_rows(nullptr, 0, 2, rows.tokens()).empty());
    CHECK(pack_rows(nullptr, 0, 2, rows.tokens()).empty());
    CHECK(text_of(format_rows(nullptr, 1, 0, rows.tokens())) == "a\n");
    CHECK(text_of(pack_rows(nullptr, 1, 0, rows.tokens())) == "a \n");
}

void test_bad_offsets() {
    const std::vector<float> values(8);
    const std::vector<std::uint8_t> bytes(3);
    for (const std::vector<std::int64_t> &offsets :
         {std::vector<std::int64_t>{0, 2, 1}, std::vector<std::int64_t>{-1, 2, 3},
          std::vector<std::int64_t>{0, 2, 4}, std::vector<std::int64_t>{0, 1L << 62, 1L << 62}}) {
        const RowTokens tokens{bytes.data(), bytes.size(), offsets.data()};
        CHECK_THROWS(format_rows(values.data(), 2, 4, tokens), std::invalid_argument);
        CHECK_THROWS(pack_rows(values.data(), 2, 4, tokens), std::invalid_argument);
    }
}

/// Floats of random bits come back through the parser, and no line is longer than it needs to be.
void test_random_values() {
    constexpr std::size_t count = 5000, dim = 61;
    std::mt19937_64 random(5);
    Rows rows;
    for (std::size_t i = 0; i < count; ++i) {
        std::vector<float> row(dim);
        for (float &value : row) {
            const auto bits = static_cast<std::uint32_t>(random());
            value = i % 2 == 0 ? std::bit_cast<float>(bits)
                               : static_cast<float>(static_cast<std::int32_t>(bits)) * 1e-5F;
        }
        rows.add("token" + std::to_string(i), row);
    }
    const std::vector<std::uint8_t> text = format_rows(rows.values.data(), count, dim, rows.tokens());
    const char *const data = reinterpret_cast<const char *>(text.data());
    const RowIndex index = index_text(data, text.size(), 0, text.size(), dim, count + 1);
    CHECK(index.token_starts.size() == count);
    std::vector<float> parsed(count * dim);
    parse_rows(data, text.size(), index.value_starts.data(), count, dim, parsed.data(), dim);
    for (std::size_t i = 0; i < parsed.size(); ++i)
        CHECK(same(parsed[i], rows.values[i]));

    const std::vector<std::uint8_t> packed = pack_rows(rows.values.data(), count, dim, rows.tokens());
    const char *const bytes = reinterpret_cast<const char *>(packed.data());
    const RowIndex binary = index_binary(bytes, packed.size(), 0, dim, count, packed.size(), 1);
    CHECK(binary.token_starts.size() == count);
    copy_rows(bytes, packed.size(), binary.value_starts.data(), count, dim, parsed.data(), dim);
    CHECK(std::memcmp(parsed.data(), rows.values.data(), parsed.size() * sizeof(float)) == 0);
}

/// The longest values there are fit their places: a sanitizer watches.
void test_longest_values() {
    Rows rows;
    for (const float value : {-1.17549435e-38F, -3.4028235e38F, -1.00000075e-36F, -123456790528.0F,
                              -0.000012345678F, -16777216.0F, -1.4e-45F, -9.8765434e-10F})
        rows.add("", std::vector<float>(1000, value));
    const std::string text = text_of(format_rows(rows.values.data(), rows.count(), 1000, rows.tokens()));
    CHECK(text.size() <= rows.values.size() * 17 + rows.count());
}

} // namespace

int main() {
    test_layout();
    test_bad_offsets();
    test_random_values();
    test_longest_values();
    return 0;
}

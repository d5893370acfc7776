#include "core/text_write.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/threads.h"

namespace shardwise {

static_assert(std::endian::native == std::endian::little, "binary rows are little-endian");

namespace {

constexpr std::size_t longest_value = 16; // "-1.17549435e-38" has 15
constexpr std::size_t part_bytes = std::size_t{1} << 18;

void check_tokens(const RowTokens &tokens, std::size_t count) {
    for (std::size_t i = 0; i <= count; ++i) {
        const std::int64_t at = tokens.offsets[i];
        const std::int64_t before = i == 0 ? 0 : tokens.offsets[i - 1];
        if (at < before || static_cast<std::uint64_t>(at) > tokens.size)
            throw std::invalid_argument("expected offsets of tokens in ascending order and within their " +
                                        std::to_string(tokens.size) + " bytes, got " + std::to_string(at));
    }
}

std::size_t token_bytes(const RowTokens &tokens, std::size_t begin, std::size_t end) {
    return static_cast<std::size_t>(tokens.offsets[end] - tokens.offsets[begin]);
}

std::uint8_t *write_token(std::uint8_t *p, const RowTokens &tokens, std::size_t row) {
    const std::uint8_t *const begin = tokens.bytes + tokens.offsets[row];
    return std::copy(begin, begin + token_bytes(tokens, row, row + 1), p);
}

std::uint8_t *write_value(std::uint8_t *p, float value) {
    if (std::isfinite(value)) {
        char *const text = reinterpret_cast<char *>(p);
        return p + (std::to_chars(text, text + longest_value, value).ptr - text);
    }
    // std::to_chars may say more of a NaN than its sign.
    if (std::signbit(value))
        *p++ = '-';
    const char *const name = std::isnan(value) ? "nan" : "inf";
    return std::copy(name, name + 3, p);
}

} // namespace

std::vector<std::uint8_t> format_rows(const float *rows, std::size_t count, std::size_t dim,
                                      const RowTokens &tokens) {
    check_tokens(tokens, count);
    const std::size_t row_bytes = dim * (longest_value + 1) + 1; // beside the token
    const std::size_t step = std::max<std::size_t>(1, part_bytes / row_bytes);
    std::vector<std::vector<std::uint8_t>> parts((count + step - 1) / step);
    parallel_for(parts.size(), 1, [&](std::size_t first, std::size_t last) {
        for (std::size_t k = first; k < last; ++k) {
            const std::size_t begin = k * step, end = std::min(count, begin + step);
            std::vector<std::uint8_t> &part = parts[k];
            part.resize(token_bytes(tokens, begin, end) + (end - begin) * row_bytes);
            std::uint8_t *p = part.data();
            for (std::size_t row = begin; row < end; ++row) {
                p = write_token(p, tokens, row);
                for (std::size_t i = 0; i < dim; ++i) {
                    *p++ = ' ';
                    p = write_value(p, rows[row * dim + i]);
                }
                *p++ = '\n';
            }
            part.resize(static_cast<std::size_t>(p - part.data()));
        }
    });
    std::size_t total = 0;
    for (const auto &part : parts)
        total += part.size();
    std::vector<std::uint8_t> all;
    all.reserve(total);
    for (const auto &part : parts)
        all.insert(all.end(), part.begin(), part.end());
    return all;
}

std::vector<std::uint8_t> pack_rows(const float *rows, std::size_t count, std::size_t dim,
                                    const RowTokens &tokens) {
    check_tokens(tokens, count);
    const std::size_t value_bytes = dim * sizeof(float);
    std::vector<std::uint8_t> all(token_bytes(tokens, 0, count) + count * (value_bytes + 2));
    std::uint8_t *p = all.data();
    for (std::size_t row = 0; row < count; ++row) {
        p = write_token(p, tokens, row);
        *p++ = ' ';
        if (value_bytes > 0)
            std::memcpy(p, rows + row * dim, value_bytes);
        p += value_bytes;
        *p++ = '\n';
    }
    return all;
}

} // namespace shardwise

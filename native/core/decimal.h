#pragma once
// Decimal numbers to the nearest float32: short ones with one rounding of a double, the rest with
// std::from_chars.

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

namespace shardwise::decimal {

inline bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

inline constexpr int max_power = 22; // the powers of ten that are doubles without rounding

inline constexpr auto powers = [] {
    std::array<double, max_power + 1> table{};
    double power = 1;
    for (double &entry : table) {
        entry = power;
        power *= 10;
    }
    return table;
}();

inline constexpr std::array<std::uint64_t, 9> whole_powers{1,      10,      100,      1000,     10000,
                                                           100000, 1000000, 10000000, 100000000};

/// How many of the 8 characters in `chunk`, each xor '0', are digits before the first that is none.
inline int leading_digits(std::uint64_t chunk) {
    const std::uint64_t others = ((chunk + 0x7676767676767676u) | chunk) & 0x8080808080808080u;
    return std::countr_zero(others) >> 3;
}

/// The number with the 8 digits in `chunk`, first digit in the lowest byte: pairs, then fours, then all.
inline std::uint64_t eight_digits(std::uint64_t chunk) {
    chunk = (chunk * 10 + (chunk >> 8)) & 0x00ff00ff00ff00ffu;
    chunk = (chunk * 100 + (chunk >> 16)) & 0x0000ffff0000ffffu;
    return (chunk * 10000 + (chunk >> 32)) & 0xffffffffu;
}

/// Whether a number beyond float32's range is too large, not too small: the place of its first digit that
/// counts.
inline bool is_huge(const char *p, const char *end) {
    const char *const digits_end = std::find_if(p, end, [](char c) { return c == 'e' || c == 'E'; });
    const char *const point = std::find(p, digits_end, '.');
    const char *const first = std::find_if(p, digits_end, [](char c) { return c >= '1' && c <= '9'; });
    long exponent = 0;
    if (digits_end != end)
        exponent = std::strtol(std::string(digits_end + 1, end).c_str(), nullptr, 10);
    return std::clamp(exponent, -(1L << 30), 1L << 30) + (point - first) > 0;
}

/// Reads what is too long or too precise for the short way, up to `end`, or a name like "nan" (`end` is then
/// nullptr).
inline const char *scan_slowly(const char *begin, const char *end, const char *limit, float &out) {
    const char *const p = *begin == '+' ? begin + 1 : begin;
    if (p == limit || (p != begin && *p == '-'))
        return nullptr;
    const char *const last = end != nullptr ? end : p + std::min<std::ptrdiff_t>(limit - p, 64);
    float value = 0;
    const auto [stop, error] = std::from_chars(p, last, value);
    if (error == std::errc::invalid_argument || (end != nullptr && stop != end))
        return nullptr;
    if (error == std::errc::result_out_of_range) {
        value = is_huge(p, stop) ? std::numeric_limits<float>::infinity() : 0.0F;
        if (*p == '-')
            value = -value;
    }
    out = value;
    return stop;
}

/// Reads the number at `p`. Returns where it ends, or nullptr where there is none.
inline const char *scan_float(const char *const begin, const char *const limit, float &out) {
    const char *p = begin;
    if (p == limit)
        return nullptr;
    const bool negative = *p == '-';
    p += negative || *p == '+';
    std::uint64_t mantissa = 0;
    const char *const whole = p;
    for (; p != limit && is_digit(*p); ++p)
        mantissa = mantissa * 10 + static_cast<std::uint64_t>(*p - '0');
    std::ptrdiff_t digits = p - whole;
    std::ptrdiff_t exponent = 0;
    if (p != limit && *p == '.') {
        const char *const fraction = ++p;
        if (limit - p >= 8) {
            std::uint64_t chunk;
            std::memcpy(&chunk, p, sizeof chunk);
            chunk ^= 0x3030303030303030u;
            if (const int count = leading_digits(chunk); count > 0) {
                mantissa = mantissa * whole_powers[static_cast<std::size_t>(count)] +
                           eight_digits(chunk << (64 - 8 * count));
                p += count;
            }
        }
        for (; p != limit && is_digit(*p); ++p)
            mantissa = mantissa * 10 + static_cast<std::uint64_t>(*p - '0');
        exponent = fraction - p;
        digits -= exponent;
    }
    if (digits == 0)
        return scan_slowly(begin, nullptr, limit, out);
    if (p != limit && (*p | 0x20) == 'e') {
        const char *q = p + 1;
        const bool down = q != limit && *q == '-';
        if (q != limit && (*q == '-' || *q == '+'))
            ++q;
        if (q == limit || !is_digit(*q))
            return nullptr;
        int written = 0;
        for (; q != limit && is_digit(*q); ++q)
            written = std::min(written * 10 + (*q - '0'), 99999);
        exponent += down ? -written : written;
        p = q;
    }
    // One rounding of an exact mantissa by an exact power gives the double nearest to the number. The float
    // nearest to that double is the float nearest to the number, save where the double is half way between
    // two floats.
    if (digits > 19 || mantissa > (std::uint64_t{1} << 53) || exponent < -max_power || exponent > max_power)
        return scan_slowly(begin, p, limit, out);
    const double magnitude = static_cast<double>(mantissa);
    const double value = exponent < 0 ? magnitude / powers[static_cast<std::size_t>(-exponent)]
                                      : magnitude * powers[static_cast<std::size_t>(exponent)];
    if ((std::bit_cast<std::uint64_t>(value) & 0x1fffffffu) == 0x10000000u)
        return scan_slowly(begin, p, limit, out);
    out = static_cast<float>(negative ? -value : value);
    return p;
}

} // namespace shardwise::decimal

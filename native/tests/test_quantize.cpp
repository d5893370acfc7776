#include "core/quantize.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "core/cpu.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

/// Of float16's finite numbers, the one nearest to `value`, ties to even; by search.
std::uint16_t half_of(double value) {
    const auto number = [](int bits) {
        return bits < 1024 ? bits * 0x1p-24 : std::ldexp(1024 + bits % 1024, bits / 1024 - 25);
    };
    int low = 0;
    int high = 0x7c00; // its number is the one that would come next, from half of which on is infinity
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (number(middle) <= std::fabs(value) ? low : high) = middle;
    }
    const double below = std::fabs(value) - number(low);
    const double above = number(high) - std::fabs(value);
    const int bits = below < above || (below == above && low % 2 == 0) ? low : high;
    return static_cast<std::uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
}

float float_of(std::uint16_t half) {
    const int bits = half & 0x7fff;
    const double number = bits < 1024 ? bits * 0x1p-24 : std::ldexp(1024 + bits % 1024, bits / 1024 - 25);
    return static_cast<float>((half & 0x8000) != 0 ? -number : number);
}

/// The formulas, one value at a time.
std::vector<std::uint8_t> expected(const std::vector<float> &row, RowFormat format) {
    const float least = *std::min_element(row.begin(), row.end());
    const float most = *std::max_element(row.begin(), row.end());
    std::vector<std::uint8_t> bytes(row_bytes_of(format, row.size()));
    if (format == RowFormat::int8) {
        const float ends[] = {(most - least) / 255.0F, least};
        const float inverse = 255.0F / ((most - least) + 1e-8F);
        for (std::size_t i = 0; i < row.size(); ++i)
            bytes[i] = static_cast<std::uint8_t>(std::nearbyint((row[i] - least) * inverse));
        std::memcpy(bytes.data() + row.size(), ends, 8);
        return bytes;
    }
    const std::uint16_t bias = half_of(least);
    const float width = most - float_of(bias);
    std::uint16_t scale = half_of(width == 0 ? 1.0F : width / 15.0F);
    if ((scale & 0x7fff) == 0)
        scale = 0x3c00;
    const float inverse = 1.0F / float_of(scale);
    for (std::size_t i = 0; i < row.size(); ++i) {
        const float step = std::nearbyint((row[i] - float_of(bias)) * inverse);
        const int number = static_cast<int>(std::clamp(step, 0.0F, 15.0F));
        bytes[i / 2] = static_cast<std::uint8_t>(bytes[i / 2] | (number << (i % 2 * 4)));
    }
    std::memcpy(bytes.data() + bytes.size() - 4, &scale, 2);
    std::memcpy(bytes.data() + bytes.size() - 2, &bias, 2);
    return bytes;
}

std::vector<float> decoded(const std::vector<std::uint8_t> &bytes, RowFormat format, std::size_t dim) {
    float ends[2];
    if (format == RowFormat::int8) {
        std::memcpy(ends, bytes.data() + dim, 8);
    } else {
        std::uint16_t halves[2];
        std::memcpy(halves, bytes.data() + bytes.size() - 4, 4);
        ends[0] = float_of(halves[0]);
        ends[1] = float_of(halves[1]);
    }
    std::vector<float> row(dim);
    for (std::size_t i = 0; i < dim; ++i) {
        const int step = format == RowFormat::int8 ? bytes[i] : (bytes[i / 2] >> (i % 2 * 4)) & 15;
        row[i] = std::fma(static_cast<float>(step), ends[0], ends[1]);
    }
    return row;
}

std::size_t pack(std::size_t at_level, const std::vector<float> &row, RowFormat format,
                 std::vector<std::uint8_t> &out) {
    Quantize task;
    task.rows = reinterpret_cast<const std::byte *>(row.data());
    task.dim = row.size();
    task.format = format;
    out.assign(row_bytes_of(format, row.size()), 0xee);
    task.out = out.data();
    return quantize_kernels(at_level).quantize(task, 0, 1);
}

std::vector<float> unpack(std::size_t at_level, const std::vector<std::uint8_t> &bytes, RowFormat format,
                          std::size_t dim) {
    std::vector<float> row(dim);
    Dequantize task;
    task.rows = bytes.data();
    task.dim = dim;
    task.format = format;
    task.out = row.data();
    quantize_kernels(at_level).dequantize(task, 0, 1);
    return row;
}

void check_row(const std::vector<float> &row) {
    for (std::size_t at_level = 0; at_level < supported_levels(); ++at_level) {
        for (const RowFormat format : {RowFormat::int8, RowFormat::int4}) {
            std::vector<std::uint8_t> bytes;
            CHECK(pack(at_level, row, format, bytes) == 1);
            CHECK(bytes == expected(row, format));
            const std::vector<float> values = unpack(at_level, bytes, format, row.size());
            const std::vector<float> wanted = decoded(bytes, format, row.size());
            CHECK(std::memcmp(values.data(), wanted.data(), row.size() * sizeof(float)) == 0);
        }
    }
}

void check_values() {
    std::mt19937_64 random(5);
    std::normal_distribution<float> normal;
    for (const std::size_t dim : {1, 2, 3, 7, 8, 15, 31, 32, 33, 63, 64, 100, 255, 256, 257, 300, 513}) {
        for (int repeat = 0; repeat < 60; ++repeat) {
            const float scale = std::ldexp(1.0F, static_cast<int>(random() % 40) - 28);
            const float shift = repeat % 3 == 0 ? 0.0F : normal(random) * (repeat % 3 == 1 ? 1.0F : 900.0F);
            std::vector<float> row(dim);
            for (float &x : row) // now and then all are equal
                x = (repeat % 10 == 9 ? 0.0F : normal(random) * scale) + shift;
            check_row(row);
        }
    }
    check_row({0.0F, 1e-45F});
    check_row({FLT_MIN, -FLT_MIN, 3e-8F, 1e-8F, 5.9e-8F});
    check_row({65000.0F, -65000.0F, 1e5F, 9e5F});
}

void check_refusals() {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<std::uint8_t> bytes;
    for (std::size_t at_level = 0; at_level < supported_levels(); ++at_level) {
        for (const std::size_t dim : {1, 9, 40, 300}) {
            for (const float odd : {infinity, -infinity, nan}) {
                std::vector<float> row(dim, 1.5F);
                row[dim * 2 / 3] = odd;
                CHECK(pack(at_level, row, RowFormat::int8, bytes) == 0);
                CHECK(pack(at_level, row, RowFormat::int4, bytes) == 0);
            }
        }
        CHECK(pack(at_level, {3e38F, -3e38F}, RowFormat::int8, bytes) == 0);
        CHECK(pack(at_level, {FLT_MAX, 0.0F}, RowFormat::int8, bytes) == 1);
        CHECK(pack(at_level, {-65519.0F, 0.0F}, RowFormat::int4, bytes) == 1);
        CHECK(pack(at_level, {-65520.0F, 0.0F}, RowFormat::int4, bytes) == 0);
        CHECK(pack(at_level, {65520.0F, 65520.0F}, RowFormat::int4, bytes) == 0);
        CHECK(pack(at_level, {0.0F, 982799.0F}, RowFormat::int4, bytes) == 1);
        CHECK(pack(at_level, {0.0F, 982800.0F}, RowFormat::int4, bytes) == 0);
        // Bytes of any origin: the same NaN at every level.
        const std::vector<std::uint8_t> odd = {0, 3, 0, 0, 0x80, 0x7f, 0, 0, 0, 0}; // an infinite scale
        const std::vector<float> values = unpack(at_level, odd, RowFormat::int8, 2);
        CHECK(std::bit_cast<std::uint32_t>(values[0]) == 0x7fc00000U);
        CHECK(values[1] == infinity);
    }
}

/// Rows a stride apart, float16 among them, on many threads; and the first row that is refused.
void check_rows() {
    constexpr std::size_t count = 9000;
    constexpr std::size_t dim = 50;
    constexpr std::size_t gap = 7;
    std::mt19937_64 random(6);
    std::vector<std::uint16_t> halves(count * (dim + gap), 0x7c00); // infinity where no row is
    for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t j = 0; j < dim; ++j)
            halves[i * (dim + gap) + j] = static_cast<std::uint16_t>(random() & 0xbfffU);
    }
    for (const RowFormat format : {RowFormat::int8, RowFormat::int4}) {
        const std::size_t bytes = row_bytes_of(format, dim);
        Quantize task;
        task.rows = reinterpret_cast<const std::byte *>(halves.data());
        task.stride = static_cast<std::ptrdiff_t>((dim + gap) * sizeof(std::uint16_t));
        task.half = true;
        task.dim = dim;
        task.format = format;
        for (const int threads : {1, 2, 7}) {
            set_num_threads(threads);
            std::vector<std::uint8_t> out(count * bytes);
            task.out = out.data();
            CHECK(quantize(task, count) == count);
            for (std::size_t i = 0; i < count; i += 61) {
                std::vector<float> row(dim);
                for (std::size_t j = 0; j < dim; ++j)
                    row[j] = float_of(halves[i * (dim + gap) + j]);
                const std::vector<std::uint8_t> wanted = expected(row, format);
                CHECK(std::memcmp(out.data() + i * bytes, wanted.data(), bytes) == 0);
            }
            std::vector<float> values(count * dim);
            Dequantize back;
            back.rows = out.data();
            back.stride = static_cast<std::ptrdiff_t>(bytes);
            back.dim = dim;
            back.format = format;
            back.out = values.data();
            dequantize(back, count);
            const std::vector<float> last =
                decoded({out.end() - static_cast<std::ptrdiff_t>(bytes), out.end()}, format, dim);
            CHECK(std::memcmp(values.data() + (count - 1) * dim, last.data(), dim * sizeof(float)) == 0);
            for (const std::size_t bad : {std::size_t{8998}, std::size_t{4321}}) {
                std::uint16_t &value = halves[bad * (dim + gap) + 49];
                const std::uint16_t kept = value;
                value = 0x7e00; // NaN
                CHECK(quantize(task, count) == bad);
                if (bad == 4321)
                    value = kept;
            }
            halves[8998 * (dim + gap) + 49] = 0;
        }
        CHECK(quantize(task, 0) == 0);
    }
}

} // namespace

int main() {
    check_values();
    check_refusals();
    check_rows();
    return 0;
}

#include "core/pool.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

float half_to_float(std::uint16_t bits) {
    const int exponent = (bits >> 10) & 31;
    const double fraction = bits & 1023;
    double value = 0;
    if (exponent == 31)
        value = fraction != 0 ? std::nan("") : HUGE_VAL;
    else if (exponent == 0)
        value = std::ldexp(fraction, -24);
    else
        value = std::ldexp(1024 + fraction, exponent - 25);
    return static_cast<float>((bits & 0x8000) != 0 ? -value : value);
}

/// A row as numbers, by the plainest arithmetic.
std::vector<double> numbers_of(const std::byte *row, RowFormat format, std::size_t dim) {
    std::vector<double> values(dim);
    const auto at = [&](std::size_t offset, auto zero) {
        std::memcpy(&zero, row + offset, sizeof zero);
        return zero;
    };
    for (std::size_t k = 0; k < dim; ++k) {
        switch (format) {
        case RowFormat::float16:
            values[k] = half_to_float(at(2 * k, std::uint16_t{}));
            break;
        case RowFormat::bfloat16: {
            const std::uint32_t bits = static_cast<std::uint32_t>(at(2 * k, std::uint16_t{})) << 16;
            float value;
            std::memcpy(&value, &bits, sizeof value);
            values[k] = value;
            break;
        }
        case RowFormat::float32:
            values[k] = at(4 * k, float{});
            break;
        case RowFormat::float64:
            values[k] = at(8 * k, double{});
            break;
        case RowFormat::int8: {
            values[k] =
                std::fma(static_cast<float>(at(k, std::uint8_t{})), at(dim, float{}), at(dim + 4, float{}));
            break;
        }
        case RowFormat::int4: {
            const unsigned pair = at(k / 2, std::uint8_t{});
            const float product = static_cast<float>((pair >> (k % 2 * 4)) & 15) *
                                  half_to_float(at((dim + 1) / 2, std::uint16_t{}));
            values[k] = product + half_to_float(at((dim + 1) / 2 + 2, std::uint16_t{}));
            break;
        }
        case RowFormat::opaque:
            break;
        }
    }
    return values;
}

/// Rows that any format can hold: no NaN.
std::vector<std::byte> random_rows(std::mt19937_64 &random, RowFormat format, std::size_t count,
                                   std::size_t dim) {
    const std::size_t bytes = row_bytes_of(format, dim);
    std::vector<std::byte> rows(count * bytes);
    std::uniform_real_distribution<double> uniform(-2, 2);
    for (std::size_t i = 0; i < count; ++i) {
        std::byte *const row = rows.data() + i * bytes;
        const auto put = [&](std::size_t offset, auto value) {
            std::memcpy(row + offset, &value, sizeof value);
        };
        for (std::size_t k = 0; k < dim; ++k) {
            if (format == RowFormat::float32)
                put(4 * k, static_cast<float>(uniform(random)));
            else if (format == RowFormat::float64)
                put(8 * k, uniform(random));
            else if (format == RowFormat::float16) // subnormal ones among them, of either sign
                put(2 * k, static_cast<std::uint16_t>(random() % 0x4400 | (random() % 2) << 15));
            else if (format == RowFormat::bfloat16)
                put(2 * k, static_cast<std::uint16_t>(0x3f00 + random() % 256));
            else if (format == RowFormat::int8)
                put(k, static_cast<std::uint8_t>(random()));
            else if (k % 2 == 0)
                put(k / 2, static_cast<std::uint8_t>(random()));
        }
        if (format == RowFormat::int8) {
            put(dim, static_cast<float>(uniform(random)) / 100);
            put(dim + 4, static_cast<float>(uniform(random)));
        } else if (format == RowFormat::int4) {
            put((dim + 1) / 2, static_cast<std::uint16_t>(0x2c00 + random() % 1024));
            put((dim + 1) / 2 + 2, static_cast<std::uint16_t>(0xb800 + random() % 1024));
        }
    }
    return rows;
}

struct Bags {
    std::vector<std::int64_t> ids;
    std::vector<std::int64_t> offsets{0};
    std::vector<float> weights;
    std::vector<double> wide;
};

Bags random_bags(std::mt19937_64 &random, std::size_t rows, const std::vector<std::size_t> &lengths) {
    Bags bags;
    std::uniform_real_distribution<float> uniform(-1, 2);
    for (const std::size_t length : lengths) {
        for (std::size_t k = 0; k < length; ++k) {
            bags.ids.push_back(static_cast<std::int64_t>(random() % rows));
            bags.weights.push_back(uniform(random));
            bags.wide.push_back(bags.weights.back());
        }
        bags.offsets.push_back(static_cast<std::int64_t>(bags.ids.size()));
    }
    return bags;
}

/// What the task asks for, one element after the other, in float or double as the kernels.
template <class Acc> std::vector<Acc> expected(const Pool &task, const std::vector<std::byte> &rows) {
    std::vector<Acc> result;
    const auto *const ids = static_cast<const std::int64_t *>(task.rows.ids);
    const auto *const weights = static_cast<const Acc *>(task.weights);
    const bool is_max = task.combiner == Combiner::max;
    for (std::size_t bag = 0; bag < task.num_bags; ++bag) {
        std::vector<Acc> sums(task.rows.dim, is_max ? static_cast<Acc>(-HUGE_VAL) : static_cast<Acc>(-0.0));
        Acc total = 0, squares = 0;
        std::size_t members = 0;
        const auto add = [&](std::int64_t id, Acc weight, bool weighted) {
            const auto row = numbers_of(rows.data() + static_cast<std::size_t>(id) * task.rows.row_bytes,
                                        task.rows.format, task.rows.dim);
            for (std::size_t k = 0; k < task.rows.dim; ++k) {
                const Acc x = static_cast<Acc>(row[k]);
                const Acc scaled = weighted ? x * weight : x;
                if (is_max)
                    sums[k] = scaled > sums[k] ? scaled : sums[k];
                else
                    sums[k] = weighted ? std::fma(x, weight, sums[k]) : sums[k] + x;
            }
        };
        for (std::int64_t at = task.offsets[bag]; at < task.offsets[bag + 1]; ++at) {
            if ((task.has_padding && ids[at] == task.padding) || (task.skip_negative && ids[at] < 0) ||
                (task.skip_weightless && weights != nullptr && !(weights[at] > 0)))
                continue;
            const Acc weight = weights == nullptr ? 1 : weights[at];
            add(ids[at], weight, weights != nullptr);
            total += weight;
            squares += weight * weight;
            ++members;
        }
        Acc divisor = 1;
        if (task.combiner == Combiner::mean)
            divisor = total;
        else if (task.combiner == Combiner::sqrtn)
            divisor = std::sqrt(squares);
        if (members == 0) {
            std::fill(sums.begin(), sums.end(), Acc{0});
            if (task.has_default) {
                const auto row = numbers_of(rows.data() + task.default_row * task.rows.row_bytes,
                                            task.rows.format, task.rows.dim);
                for (std::size_t k = 0; k < task.rows.dim; ++k)
                    sums[k] = static_cast<Acc>(row[k]);
            }
            divisor = 1;
        }
        for (const Acc sum : sums)
            result.push_back(divisor == 0 ? 0 : sum / divisor);
    }
    return result;
}

std::size_t pool_one(const Pool &task) {
    return pool({&task, 1}).position;
}

template <class Acc>
void compare(Pool task, const std::vector<std::byte> &rows, int threads, std::size_t num_shards) {
    const std::size_t count = rows.size() / task.rows.row_bytes;
    const Partition partition =
        Partition::div(static_cast<std::int64_t>(count), static_cast<std::int64_t>(num_shards));
    std::vector<Shard> shards;
    for (std::size_t k = 0, first = 0; k < num_shards; ++k) {
        shards.push_back(
            {rows.data() + first * task.rows.row_bytes, static_cast<std::ptrdiff_t>(task.rows.row_bytes)});
        first += static_cast<std::size_t>(partition.shard_size(static_cast<std::int64_t>(k)));
    }
    task.rows.partition = partition.view();
    task.rows.shards = shards.data();
    std::vector<Acc> out(task.num_bags * task.rows.dim + 1, Acc{77});
    task.out = reinterpret_cast<std::byte *>(out.data());
    task.out_format = sizeof(Acc) == 8 ? RowFormat::float64 : RowFormat::float32;
    task.out_stride = static_cast<std::ptrdiff_t>(task.rows.dim * sizeof(Acc));
    set_num_threads(threads);
    CHECK(pool_one(task) == all_in_range);
    const std::vector<Acc> wanted = expected<Acc>(task, rows);
    CHECK(std::memcmp(out.data(), wanted.data(), wanted.size() * sizeof(Acc)) == 0);
    CHECK(out.back() == 77);
}

Pool task_of(RowFormat format, std::size_t dim, const Bags &bags) {
    Pool task;
    task.rows.format = format;
    task.rows.dim = dim;
    task.rows.row_bytes = row_bytes_of(format, dim);
    task.rows.ids = bags.ids.data();
    task.rows.count = bags.ids.size();
    task.offsets = bags.offsets.data();
    task.num_bags = bags.offsets.size() - 1;
    return task;
}

void check(const Pool &task, const std::vector<std::byte> &rows, int threads, std::size_t shards) {
    if (task.rows.format == RowFormat::float64)
        compare<double>(task, rows, threads, shards);
    else
        compare<float>(task, rows, threads, shards);
}

constexpr RowFormat formats[] = {RowFormat::float16, RowFormat::bfloat16, RowFormat::float32,
                                 RowFormat::float64, RowFormat::int8,     RowFormat::int4};
constexpr Combiner combiners[] = {Combiner::sum, Combiner::mean, Combiner::sqrtn, Combiner::max};

void every_way() {
    std::mt19937_64 random(1);
    const std::vector<std::size_t> lengths = {0, 1, 2, 63, 64, 65, 0, 200, 3, 0};
    for (const RowFormat format : formats) {
        for (const std::size_t dim : {1, 3, 4, 7, 16, 17, 31, 64, 100, 130, 257}) {
            const auto rows = random_rows(random, format, 50, dim);
            const Bags bags = random_bags(random, 50, lengths);
            for (const Combiner combiner : combiners) {
                for (const bool weighted : {false, true}) {
                    Pool task = task_of(format, dim, bags);
                    task.combiner = combiner;
                    if (weighted && format == RowFormat::float64)
                        task.weights = bags.wide.data();
                    else if (weighted)
                        task.weights = bags.weights.data();
                    check(task, rows, 1, 1);
                    task.has_padding = true;
                    task.padding = bags.ids[5];
                    task.skip_weightless = true;
                    task.has_default = true;
                    task.default_row = 7;
                    check(task, rows, 1, 3);
                }
            }
        }
    }
}

void threads_and_giant_bags() {
    std::mt19937_64 random(2);
    for (const RowFormat format : formats) {
        for (const std::size_t dim : {8, 100, 200}) {
            const auto rows = random_rows(random, format, 1000, dim);
            std::vector<std::size_t> lengths(300);
            for (std::size_t &length : lengths)
                length = random() % 60;
            lengths[0] = 9000; // bags that are cut by columns, first, last and side by side
            lengths[150] = lengths[151] = 8000;
            lengths[299] = 9000;
            const Bags bags = random_bags(random, 1000, lengths);
            Pool task = task_of(format, dim, bags);
            task.combiner = Combiner::mean;
            for (const int threads : {1, 2, 4})
                check(task, rows, threads, 17);
        }
    }
    set_num_threads(2);
}

void negative_ids() {
    std::mt19937_64 random(3);
    const auto rows = random_rows(random, RowFormat::float32, 20, 5);
    Bags bags = random_bags(random, 20, {4, 0, 6, 70});
    bags.ids[0] = bags.ids[9] = bags.ids[30] = -1;
    Pool task = task_of(RowFormat::float32, 5, bags);
    task.skip_negative = true;
    check(task, rows, 1, 2);
}

void refused_ids() {
    std::mt19937_64 random(4);
    const auto rows = random_rows(random, RowFormat::float32, 20, 5);
    for (const std::size_t bad : {std::size_t{0}, std::size_t{66}, std::size_t{9000}, std::size_t{20099}}) {
        Bags bags = random_bags(random, 20, {100, 0, 20000});
        bags.ids[bad] = 20;
        Pool task = task_of(RowFormat::float32, 5, bags);
        const Partition partition = Partition::mod(20, 1);
        const Shard shard{rows.data(), 20};
        std::vector<float> out(15);
        task.rows.partition = partition.view();
        task.rows.shards = &shard;
        task.out = reinterpret_cast<std::byte *>(out.data());
        task.out_stride = 20;
        for (const int threads : {1, 2}) {
            set_num_threads(threads);
            CHECK(pool_one(task) == bad);
        }
    }
}

void norms() {
    const std::vector<float> rows = {3, 4, 0.3F, 0.4F};
    const std::int64_t ids[] = {0, 1, 0};
    const std::int64_t offsets[] = {0, 2, 3, 3};
    const Partition partition = Partition::mod(2, 1);
    const Shard shard{reinterpret_cast<const std::byte *>(rows.data()), 8};
    Pool task;
    task.rows.partition = partition.view();
    task.rows.shards = &shard;
    task.rows.row_bytes = 8;
    task.rows.ids = ids;
    task.rows.count = 3;
    task.rows.format = RowFormat::float32;
    task.rows.max_norm = 1;
    task.rows.dim = 2;
    task.offsets = offsets;
    task.num_bags = 3;
    task.has_default = true;
    std::vector<float> out(6);
    task.out = reinterpret_cast<std::byte *>(out.data());
    task.out_stride = 8;
    CHECK(pool_one(task) == all_in_range);
    const float x = static_cast<float>(3.0 * 0.2), y = static_cast<float>(4.0 * 0.2);
    const float wanted[] = {x + 0.3F, y + 0.4F, x, y, x, y};
    CHECK(std::memcmp(out.data(), wanted, sizeof wanted) == 0);
    CHECK(rows[0] == 3);
}

/// Tables of every format, widths and lengths side by side: each gets what it gets alone.
void several_tables() {
    std::mt19937_64 random(5);
    constexpr std::size_t count = 24;
    constexpr std::size_t num_bags = 400;
    std::vector<std::vector<std::byte>> rows;
    std::vector<Bags> bags(count);
    std::vector<Shard> shards(count);
    std::vector<std::vector<float>> alone(count);
    std::vector<Pool> tasks;
    std::size_t width = 0;
    const Partition partition = Partition::mod(300, 1);
    for (std::size_t k = 0; k < count; ++k) {
        const RowFormat format = formats[k % 6];
        const std::size_t dim = k % 2 == 0 ? 64 : 1 + random() % 150; // some are alike
        rows.push_back(random_rows(random, format, 300, dim));
        std::vector<std::size_t> lengths(num_bags);
        for (std::size_t &length : lengths)
            length = random() % (k % 5 * 4 + 2);
        if (k == 7) // a bag that is most of all work
            lengths[3] = 90000;
        bags[k] = random_bags(random, 300, lengths);
        tasks.push_back(task_of(format, dim, bags[k]));
        width += dim;
    }
    std::vector<float> out(num_bags * width, 77);
    for (std::size_t k = 0, column = 0; k < count; column += tasks[k++].rows.dim) {
        Pool &task = tasks[k];
        shards[k] = {rows[k].data(), static_cast<std::ptrdiff_t>(task.rows.row_bytes)};
        task.rows.partition = partition.view();
        task.rows.shards = &shards[k];
        task.combiner = combiners[k % 4];
        alone[k].resize(num_bags * task.rows.dim);
        Pool one = task;
        one.out = reinterpret_cast<std::byte *>(alone[k].data());
        one.out_stride = static_cast<std::ptrdiff_t>(task.rows.dim * sizeof(float));
        CHECK(pool_one(one) == all_in_range);
        task.out = reinterpret_cast<std::byte *>(out.data() + column); // concatenated: a row a bag
        task.out_stride = static_cast<std::ptrdiff_t>(width * sizeof(float));
    }
    for (const int threads : {1, 2, 3}) {
        set_num_threads(threads);
        std::fill(out.begin(), out.end(), 77.0F);
        CHECK(pool(tasks).position == all_in_range);
        for (std::size_t k = 0, column = 0; k < count; column += tasks[k++].rows.dim)
            for (std::size_t bag = 0; bag < num_bags; ++bag)
                CHECK(std::memcmp(out.data() + bag * width + column,
                                  alone[k].data() + bag * tasks[k].rows.dim,
                                  tasks[k].rows.dim * sizeof(float)) == 0);
        for (const std::size_t k : {std::size_t{0}, std::size_t{7}, count - 1}) {
            const std::size_t last = bags[k].ids.size() - 1;
            const std::int64_t id = bags[k].ids[last];
            bags[k].ids[last] = 300;
            const RefusedId refused = pool(tasks);
            CHECK(refused.task == k && refused.position == last);
            bags[k].ids[last] = id;
        }
    }
    CHECK(pool({}).position == all_in_range);
    set_num_threads(2);
}

/// A large result, written past the caches and not: the same.
void large_results() {
    std::mt19937_64 random(6);
    for (const RowFormat format : {RowFormat::float32, RowFormat::float64, RowFormat::int8}) {
        constexpr std::size_t dim = 80, num_bags = 14000;
        const auto rows = random_rows(random, format, 300, dim);
        std::vector<std::size_t> lengths(num_bags);
        for (std::size_t &length : lengths)
            length = random() % 5;
        const Bags bags = random_bags(random, 300, lengths);
        Pool task = task_of(format, dim, bags);
        const Partition partition = Partition::mod(300, 1);
        const Shard shard{rows.data(), static_cast<std::ptrdiff_t>(task.rows.row_bytes)};
        task.rows.partition = partition.view();
        task.rows.shards = &shard;
        task.combiner = Combiner::mean;
        task.out_format = format == RowFormat::float64 ? RowFormat::float64 : RowFormat::float32;
        const std::size_t bytes = num_bags * row_bytes_of(task.out_format, dim);
        task.out_stride = static_cast<std::ptrdiff_t>(bytes / num_bags);
        std::vector<std::byte> memory[2] = {std::vector<std::byte>(bytes + 192, std::byte{0x5a}),
                                            std::vector<std::byte>(bytes + 192, std::byte{0x5a})};
        std::size_t begin[2];
        for (const int fresh : {0, 1}) {
            begin[fresh] = 64 + (64 - reinterpret_cast<std::uintptr_t>(memory[fresh].data()) % 64) % 64;
            task.out = memory[fresh].data() + begin[fresh];
            task.out_is_fresh = fresh == 1;
            CHECK(pool_one(task) == all_in_range);
            CHECK(memory[fresh][begin[fresh] - 1] == std::byte{0x5a});
            CHECK(memory[fresh][begin[fresh] + bytes] == std::byte{0x5a});
        }
        CHECK(std::memcmp(memory[0].data() + begin[0], memory[1].data() + begin[1], bytes) == 0);
    }
}

} // namespace

int main() {
    large_results();
    several_tables();
    every_way();
    threads_and_giant_bags();
    negative_ids();
    refused_ids();
    norms();
}

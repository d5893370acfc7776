#include "core/gather.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "core/cpu.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

std::mt19937_64 random_bits(1);

std::size_t below(std::size_t bound) {
    return static_cast<std::size_t>(random_bits() % bound);
}

std::vector<GatherKernel> all_kernels() {
    std::vector<GatherKernel> kernels;
    for (std::size_t k = 0; k < supported_levels(); ++k)
        kernels.push_back(gather_kernel(k));
    return kernels;
}

void fill(std::byte *bytes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
        bytes[i] = static_cast<std::byte>(random_bits() >> 56);
}

enum class Layout { packed, odd_stride, reversed, repeated };
constexpr Layout layouts[] = {Layout::packed, Layout::odd_stride, Layout::reversed, Layout::repeated};

Partition make_partition(Strategy strategy, std::size_t num_rows, std::size_t num_shards) {
    const auto rows = static_cast<std::int64_t>(num_rows);
    const auto shards = static_cast<std::int64_t>(num_shards);
    switch (strategy) {
    case Strategy::whole:
        return Partition::mod(rows, 1);
    case Strategy::mod:
        return Partition::mod(rows, shards);
    case Strategy::div:
        return Partition::div(rows, shards);
    case Strategy::ranges:
        break;
    }
    // Unequal shards, the first and the last of them with no rows.
    std::vector<std::int64_t> boundaries{0, 0};
    while (boundaries.size() < num_shards)
        boundaries.push_back(static_cast<std::int64_t>(below(num_rows + 1)));
    boundaries.push_back(rows);
    if (num_shards == 1)
        boundaries = {0, rows};
    std::sort(boundaries.begin(), boundaries.end());
    return Partition::ranges(boundaries);
}

constexpr Strategy strategies[] = {Strategy::whole, Strategy::mod, Strategy::div, Strategy::ranges};

/// Shards of random bytes. Each lies in an allocation of its exact size, so that a sanitizer sees a step
/// outside, and one with no rows lies nowhere.
struct Shards {
    Partition partition;
    std::size_t row_bytes;
    std::vector<std::unique_ptr<std::byte[]>> memory;
    std::vector<Shard> shards;
    std::vector<const std::byte *> rows; // by id

    Shards(Partition cut, std::size_t bytes, Layout layout) : partition(std::move(cut)), row_bytes(bytes) {
        const std::size_t step = layout == Layout::odd_stride ? bytes + 13
                                 : layout == Layout::repeated ? 0
                                                              : bytes;
        for (std::int64_t k = 0; k < partition.num_shards(); ++k) {
            const auto size = static_cast<std::size_t>(partition.shard_size(k));
            if (size == 0) {
                memory.emplace_back();
                shards.push_back({nullptr, static_cast<std::ptrdiff_t>(step)});
                continue;
            }
            const std::size_t total = (size - 1) * step + bytes;
            std::byte *const data = memory.emplace_back(new std::byte[total]).get();
            fill(data, total);
            if (layout == Layout::reversed) {
                shards.push_back({data + (size - 1) * step, -static_cast<std::ptrdiff_t>(step)});
            } else {
                shards.push_back({data, static_cast<std::ptrdiff_t>(step)});
            }
        }
        for (std::int64_t id = 0; id < partition.num_rows(); ++id) {
            std::int64_t shard = 0;
            std::int64_t row = 0;
            CHECK(partition.locate(&id, 1, &shard, &row) ==
                  1); // test_partition.cpp shows that these are right
            const Shard &found = shards[static_cast<std::size_t>(shard)];
            rows.push_back(found.data + row * found.stride);
        }
    }

    Gather task() const {
        Gather gather;
        gather.partition = partition.view();
        gather.shards = shards.data();
        gather.row_bytes = row_bytes;
        return gather;
    }
};

/// A result with a fence on either side: what writes past the caches is not seen by every sanitizer.
struct Result {
    static constexpr std::size_t fence = 128;
    std::size_t bytes;
    std::size_t offset;
    std::unique_ptr<std::byte[]> memory;

    Result(std::size_t size, std::size_t misalignment)
        : bytes(size), memory(new std::byte[size + 2 * fence + 64]) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory.get()) + fence;
        offset = fence + (64 - address % 64) % 64 + misalignment;
        CHECK(misalignment < 64 && offset + bytes + fence <= size + 2 * fence + 64 + misalignment);
        std::memset(memory.get(), 0x5a, size + 2 * fence + 64);
    }
    std::byte *data() const { return memory.get() + offset; }
    bool untouched(std::size_t begin, std::size_t end) const {
        return std::all_of(memory.get() + begin, memory.get() + end,
                           [](std::byte b) { return b == std::byte{0x5a}; });
    }
    void check_fence() const {
        CHECK(untouched(0, offset));
        CHECK(untouched(offset + bytes, bytes + 2 * fence + 64));
    }
};

std::vector<std::int64_t> random_ids(std::size_t count, std::size_t num_rows) {
    std::vector<std::int64_t> ids(count);
    for (std::int64_t &id : ids)
        id = static_cast<std::int64_t>(below(num_rows));
    return ids;
}

void check_rows(const Shards &table, const std::vector<std::int64_t> &ids, const Result &result) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
        CHECK(std::memcmp(result.data() + i * table.row_bytes, table.rows[static_cast<std::size_t>(ids[i])],
                          table.row_bytes) == 0);
    }
    result.check_fence();
}

std::vector<std::size_t> row_sizes() {
    std::vector<std::size_t> sizes;
    for (std::size_t bytes = 0; bytes <= 130; ++bytes)
        sizes.push_back(bytes);
    sizes.insert(sizes.end(), {191, 192, 193, 256, 400, 512, 600, 1000, 1023, 1024, 1025, 1200, 4096, 5000});
    return sizes;
}

/// Every row size, strategy, layout, instruction level and way to memory.
void test_every_kernel() {
    const std::vector<GatherKernel> levels = all_kernels();
    for (const std::size_t bytes : row_sizes()) {
        for (const Strategy strategy : strategies) {
            for (const Layout layout : layouts) {
                const Shards table(make_partition(strategy, 23, 5), bytes, layout);
                const std::vector<std::int64_t> ids = random_ids(150, 23);
                for (const GatherKernel kernel : levels) {
                    for (const Traffic traffic : {Traffic::cached, Traffic::stream}) {
                        const Result result(ids.size() * bytes, below(2) == 0 ? 16 * below(4) : below(64));
                        Gather task = table.task();
                        task.ids = ids.data();
                        task.count = ids.size();
                        task.out = result.data();
                        CHECK(kernel(task, 0, ids.size(), traffic) == all_in_range);
                        check_rows(table, ids, result);
                    }
                }
            }
        }
    }
}

/// Every number of ids around what is resolved and prefetched at a time, and ranges that begin inside the
/// task.
void test_every_count() {
    for (const std::size_t bytes : {std::size_t{3}, std::size_t{64}, std::size_t{80}, std::size_t{256}}) {
        const Shards table(make_partition(Strategy::mod, 19, 4), bytes, Layout::packed);
        for (const GatherKernel kernel : all_kernels()) {
            for (const Traffic traffic : {Traffic::cached, Traffic::stream}) {
                for (std::size_t count = 0; count <= 300; ++count) {
                    const std::vector<std::int64_t> ids = random_ids(count, 19);
                    const std::size_t begin = below(count + 1);
                    const std::size_t end = begin + below(count - begin + 1);
                    const Result result(count * bytes, below(2) == 0 ? 16 * below(4) : below(64));
                    Gather task = table.task();
                    task.ids = ids.data();
                    task.count = count;
                    task.out = result.data();
                    CHECK(kernel(task, begin, end, traffic) == all_in_range);
                    CHECK(result.untouched(0, result.offset + begin * bytes));
                    CHECK(result.untouched(result.offset + end * bytes,
                                           count * bytes + 2 * Result::fence + 64));
                    CHECK(kernel(task, 0, begin, traffic) == all_in_range);
                    CHECK(kernel(task, end, count, traffic) == all_in_range);
                    check_rows(table, ids, result);
                }
            }
        }
    }
}

/// Results of more than 4 MB through the front door: written past the caches where they can be.
void test_large_results() {
    for (const std::size_t bytes : {16U, 48U, 64U, 100U, 128U, 255U, 256U, 400U, 1200U, 4096U, 5000U}) {
        for (const Strategy strategy : {Strategy::whole, Strategy::mod, Strategy::ranges}) {
            const Shards table(make_partition(strategy, 1000, 7), bytes, Layout::packed);
            const std::vector<std::int64_t> ids = random_ids((std::size_t{9} << 19) / bytes, 1000);
            for (const std::size_t misalignment : {0U, 16U, 8U, 1U}) {
                for (const bool fresh : {false, true}) {
                    set_num_threads(static_cast<int>(1 + below(3)));
                    const Result result(ids.size() * bytes, misalignment);
                    Gather task = table.task();
                    task.ids = ids.data();
                    task.count = ids.size();
                    task.out = result.data();
                    task.out_is_fresh = fresh;
                    CHECK(gather(task) == all_in_range);
                    check_rows(table, ids, result);
                }
            }
        }
    }
}

template <class T> constexpr IdType type_of() {
    if constexpr (std::numeric_limits<T>::is_signed) {
        return sizeof(T) == 1   ? IdType::i8
               : sizeof(T) == 2 ? IdType::i16
               : sizeof(T) == 4 ? IdType::i32
                                : IdType::i64;
    } else {
        return sizeof(T) == 1   ? IdType::u8
               : sizeof(T) == 2 ? IdType::u16
               : sizeof(T) == 4 ? IdType::u32
                                : IdType::u64;
    }
}

template <class T> bool inside(T id, std::uint64_t num_rows) {
    return !(id < 0) && static_cast<std::uint64_t>(id) < num_rows;
}

/// The row that stands in for an id, in plain words; -1 for a row of zeros.
template <class T>
std::int64_t stand_in(T id, std::uint64_t num_rows, OutOfRange policy, std::uint64_t default_row) {
    const bool negative = id < 0;
    if (inside(id, num_rows))
        return static_cast<std::int64_t>(id);
    switch (policy) {
    case OutOfRange::clamp:
        return negative ? 0 : static_cast<std::int64_t>(num_rows) - 1;
    case OutOfRange::wrap: {
        if (!negative)
            return static_cast<std::int64_t>(static_cast<std::uint64_t>(id) % num_rows);
        const std::int64_t rows = static_cast<std::int64_t>(num_rows);
        return (static_cast<std::int64_t>(id) % rows + rows) % rows;
    }
    case OutOfRange::row:
        return static_cast<std::int64_t>(default_row);
    default:
        return -1;
    }
}

template <class T> void test_ids_of_type() {
    const std::uint64_t num_rows = 29;
    constexpr T least = std::numeric_limits<T>::min();
    constexpr T greatest = std::numeric_limits<T>::max();
    std::vector<T> ids;
    for (int k = 0; k < 150; ++k) {
        const auto id = static_cast<T>(random_bits());
        ids.push_back(k % 3 == 0 ? id : static_cast<T>(below(num_rows)));
    }
    const T edges[] = {0,
                       1,
                       28,
                       29,
                       30,
                       57,
                       58,
                       59,
                       least,
                       greatest,
                       static_cast<T>(least + 1),
                       static_cast<T>(greatest - 1),
                       static_cast<T>(-1),
                       static_cast<T>(-28),
                       static_cast<T>(-29),
                       static_cast<T>(-30)};
    ids.insert(ids.begin() + 40, std::begin(edges), std::end(edges));

    const auto first_bad = static_cast<std::size_t>(
        std::find_if(ids.begin(), ids.end(), [&](T id) { return !inside(id, num_rows); }) - ids.begin());
    CHECK(find_out_of_range(ids.data(), type_of<T>(), ids.size(), num_rows) == first_bad);
    CHECK(find_out_of_range(ids.data(), type_of<T>(), first_bad, num_rows) == all_in_range);
    CHECK(find_out_of_range(ids.data(), type_of<T>(), ids.size(), 0) == 0);
    CHECK(find_out_of_range(ids.data(), type_of<T>(), 0, 0) == all_in_range);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const bool within = inside(ids[i], num_rows);
        CHECK(find_out_of_range(&ids[i], type_of<T>(), 1, num_rows) == (within ? all_in_range : 0));
        const Id id = id_at(ids.data(), type_of<T>(), i);
        CHECK(id.negative == (ids[i] < 0));
        CHECK(static_cast<T>(id.bits) == ids[i]);
        if (!id.negative)
            CHECK(id.bits == static_cast<std::uint64_t>(ids[i]));
    }

    const std::vector<std::byte> zeros(24);
    for (const Strategy strategy : strategies) {
        const Shards table(make_partition(strategy, num_rows, 6), 24, Layout::odd_stride);
        for (const GatherKernel kernel : all_kernels()) {
            for (const OutOfRange policy : {OutOfRange::error, OutOfRange::zeros, OutOfRange::clamp,
                                            OutOfRange::wrap, OutOfRange::row}) {
                const Result result(ids.size() * 24, 0);
                Gather task = table.task();
                task.ids = ids.data();
                task.id_type = type_of<T>();
                task.count = ids.size();
                task.out = result.data();
                task.out_of_range = policy;
                task.default_row = 17;
                task.zero_row = zeros.data();
                const std::size_t bad = kernel(task, 0, ids.size(), Traffic::cached);
                CHECK(bad == (policy == OutOfRange::error ? first_bad : all_in_range));
                for (std::size_t i = 0; i < std::min(bad, ids.size()); ++i) {
                    const std::int64_t row = stand_in(ids[i], num_rows, policy, 17);
                    const std::byte *expected =
                        row < 0 ? zeros.data() : table.rows[static_cast<std::size_t>(row)];
                    CHECK(std::memcmp(result.data() + i * 24, expected, 24) == 0);
                }
                result.check_fence();
            }
        }
    }
}

/// An id that would be in range after it is cut to fewer bits must not be.
void test_ids_are_not_cut() {
    const Shards table(make_partition(Strategy::whole, 10, 1), 8, Layout::packed);
    const Result result(8, 0);
    Gather task = table.task();
    task.count = 1;
    task.out = result.data();
    for (const std::uint64_t id :
         {std::uint64_t{1} << 32, std::uint64_t{1} << 63, ~std::uint64_t{0}, (std::uint64_t{1} << 40) + 3}) {
        for (const IdType type : {IdType::i64, IdType::u64}) {
            task.ids = &id;
            task.id_type = type;
            CHECK(gather(task) == 0);
        }
    }
}

/// The first bad id is the one that is told, however many threads look for one.
void test_first_bad_id() {
    const std::size_t count = 60000;
    const Shards table(make_partition(Strategy::div, 1000, 3), 8, Layout::packed);
    const Result result(count * 8, 0);
    for (const int threads : {1, 2, 3, 8}) {
        set_num_threads(threads);
        for (int round = 0; round < 40; ++round) {
            std::vector<std::int64_t> ids = random_ids(count, 1000);
            std::size_t first = all_in_range;
            for (std::size_t bad = below(6); bad > 0; --bad) {
                const std::size_t position = round % 2 == 0 ? below(count) : count - 1 - below(200);
                ids[position] = bad % 2 == 0 ? -1 : 1000;
                first = std::min(first, position);
            }
            Gather task = table.task();
            task.ids = ids.data();
            task.count = count;
            task.out = result.data();
            CHECK(gather(task) == first);
        }
    }
    result.check_fence();
}

void test_no_rows_and_no_ids() {
    for (const Strategy strategy : strategies) {
        const Shards table(make_partition(strategy, 0, 3), 12, Layout::packed);
        Gather task = table.task();
        CHECK(gather(task) == all_in_range);
        const std::int64_t id = 0;
        const std::vector<std::byte> zeros(12);
        const Result result(12, 0);
        task.ids = &id;
        task.count = 1;
        task.out = result.data();
        CHECK(gather(task) == 0);
        CHECK(result.untouched(0, 12 + 2 * Result::fence + 64));
        task.out_of_range = OutOfRange::zeros;
        task.zero_row = zeros.data();
        CHECK(gather(task) == all_in_range);
        CHECK(std::memcmp(result.data(), zeros.data(), 12) == 0);
        result.check_fence();
    }
}

struct Format {
    RowFormat element;
    std::size_t bytes;
    int digits;       // bits of the significand, the hidden one included
    int least;        // the smallest positive number is 2^least
    int max_exponent; // numbers are below 2^max_exponent
};

constexpr Format formats[] = {{RowFormat::float16, 2, 11, -24, 16},
                              {RowFormat::bfloat16, 2, 8, -133, 128},
                              {RowFormat::float32, 4, 24, -149, 128},
                              {RowFormat::float64, 8, 53, -1074, 1024}};

/// A number from its bits by the definition of the format, not by a conversion.
long double decode(const Format &format, std::uint64_t bits) {
    const int fraction_bits = format.digits - 1;
    const int width = static_cast<int>(format.bytes) * 8;
    const int exponent_bits = width - 1 - fraction_bits;
    const std::uint64_t fraction = bits & ((std::uint64_t{1} << fraction_bits) - 1);
    const auto exponent =
        static_cast<int>((bits >> fraction_bits) & ((std::uint64_t{1} << exponent_bits) - 1));
    const long double sign = (bits >> (width - 1)) & 1 ? -1.0L : 1.0L;
    if (exponent == (1 << exponent_bits) - 1)
        return fraction == 0 ? sign * std::numeric_limits<long double>::infinity()
                             : std::numeric_limits<long double>::quiet_NaN();
    if (exponent == 0)
        return sign * std::ldexp(static_cast<long double>(fraction), format.least);
    return sign * std::ldexp(static_cast<long double>(fraction | (std::uint64_t{1} << fraction_bits)),
                             format.least + exponent - 1);
}

std::uint64_t read(const Format &format, const std::byte *at) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, at, format.bytes); // little endian, as are all levels that are built
    return bits;
}

/// The distance of neighbours around a value.
long double unit(const Format &format, long double value) {
    if (value == 0)
        return std::ldexp(1.0L, format.least);
    return std::ldexp(1.0L, std::max(std::ilogb(value) - format.digits + 1, format.least));
}

void clip(const Shards &table, const std::vector<std::int64_t> &ids, RowFormat element, double max_norm,
          GatherKernel kernel, const Result &result) {
    Gather task = table.task();
    task.ids = ids.data();
    task.count = ids.size();
    task.out = result.data();
    task.format = element;
    task.dim = task.row_bytes / row_bytes_of(element, 1);
    task.max_norm = max_norm;
    CHECK(kernel(task, 0, ids.size(), Traffic::cached) == all_in_range);
    result.check_fence();
}

/// Random bits are random numbers of every size, subnormal and infinite ones and NaNs among them.
void test_clip_random() {
    for (const Format &format : formats) {
        for (const std::size_t elements : {1U, 3U, 7U, 8U, 9U, 16U, 33U, 100U}) {
            for (int round = 0; round < 12; ++round) {
                const std::size_t num_rows = 40;
                Shards table(make_partition(Strategy::mod, num_rows, 3), elements * format.bytes,
                             Layout::odd_stride);
                // Exponents near one another, of rows too: else one number of a row outweighs all others.
                for (std::size_t id = 0; id < num_rows; ++id) {
                    auto *const row = const_cast<std::byte *>(table.rows[id]);
                    const int fraction_bits = format.digits - 1;
                    const std::uint64_t exponents =
                        (std::uint64_t{1} << (static_cast<int>(format.bytes) * 8 - format.digits)) - 1;
                    std::uint64_t base = round < 2 ? 0 : below(exponents);
                    if (round == 2)
                        base = exponents - 2;
                    for (std::size_t i = 0; i < elements; ++i) {
                        std::uint64_t bits = random_bits();
                        std::uint64_t exponent = std::min(base + below(3), exponents - 1);
                        if (round == 3 && below(elements * 4) == 0)
                            exponent = exponents; // an infinity or a NaN
                        bits &= ~(exponents << fraction_bits);
                        bits |= exponent << fraction_bits;
                        if (exponent == exponents && below(2) == 0)
                            bits &= ~((std::uint64_t{1} << fraction_bits) - 1);
                        std::memcpy(row + i * format.bytes, &bits, format.bytes);
                    }
                }
                const std::vector<std::int64_t> ids = random_ids(60, num_rows);
                const long double scale =
                    std::fabs(decode(format, read(format, table.rows[below(num_rows)])));
                double max_norm =
                    std::isfinite(scale)
                        ? static_cast<double>(scale * std::sqrt(static_cast<long double>(elements)))
                        : 1.0;
                if (round % 4 == 3 || !std::isfinite(max_norm))
                    max_norm = 0.75;
                const Result result(ids.size() * table.row_bytes, 0);
                std::vector<std::byte> first_level;
                for (const GatherKernel kernel : all_kernels()) {
                    clip(table, ids, format.element, max_norm, kernel, result);
                    // Every level gives the same bits.
                    const std::vector<std::byte> bytes(result.data(), result.data() + result.bytes);
                    if (first_level.empty())
                        first_level = bytes;
                    CHECK(bytes == first_level);
                }
                // Rounded once, from doubles: but doubles themselves gather the errors of the sum.
                const long double tolerance =
                    format.element == RowFormat::float64 ? 4 + static_cast<long double>(elements) / 8 : 0.51L;
                for (std::size_t k = 0; k < ids.size(); ++k) {
                    const std::byte *const row = table.rows[static_cast<std::size_t>(ids[k])];
                    const std::byte *const got = result.data() + k * table.row_bytes;
                    const bool same = std::memcmp(row, got, table.row_bytes) == 0;
                    long double squares = 0;
                    for (std::size_t i = 0; i < elements; ++i) {
                        const long double x = decode(format, read(format, row + i * format.bytes));
                        squares += x * x;
                    }
                    const long double norm = std::sqrt(squares);
                    const long double limit = max_norm;
                    // Within, or not a number: the very same bits. On the edge, rounding may decide.
                    if (std::isnan(norm) || norm <= limit * (1 - 1e-14L))
                        CHECK(same);
                    if (std::isnan(norm) || norm <= limit * (1 + 1e-14L))
                        continue;
                    if (limit < norm * 0x1p-1000L) // limit / norm is no number of full precision
                        continue;
                    for (std::size_t i = 0; i < elements; ++i) {
                        const long double x = decode(format, read(format, row + i * format.bytes));
                        const long double y = decode(format, read(format, got + i * format.bytes));
                        if (std::isinf(norm)) {
                            CHECK(std::isinf(x) ? std::isnan(y) : y == 0);
                            continue;
                        }
                        const long double expected = x * (limit / norm);
                        CHECK(std::fabs(y - expected) <= tolerance * unit(format, expected));
                        CHECK(std::signbit(y) == std::signbit(x));
                    }
                }
            }
        }
    }
}

template <class T>
std::vector<T> clip_values(const std::vector<T> &row, double max_norm, GatherKernel kernel,
                           RowFormat halves = RowFormat::float16) {
    const std::int64_t id = 0;
    const Partition partition = Partition::mod(1, 1);
    const Shard shard{reinterpret_cast<const std::byte *>(row.data()), 0};
    std::vector<T> out(row.size());
    Gather task;
    task.partition = partition.view();
    task.shards = &shard;
    task.row_bytes = row.size() * sizeof(T);
    task.ids = &id;
    task.count = 1;
    task.out = reinterpret_cast<std::byte *>(out.data());
    task.format = sizeof(T) == 4 ? RowFormat::float32 : sizeof(T) == 8 ? RowFormat::float64 : halves;
    task.dim = row.size();
    task.max_norm = max_norm;
    CHECK(kernel(task, 0, 1, Traffic::cached) == all_in_range);
    return out;
}

void test_clip_by_hand() {
    for (const GatherKernel kernel : all_kernels()) {
        using Floats = std::vector<float>;
        CHECK((clip_values<float>({3, 4}, 5, kernel) == Floats{3, 4})); // at the norm: within it
        CHECK((clip_values<float>({3, 4}, 10, kernel) == Floats{3, 4}));
        CHECK((clip_values<float>({6, -8}, 5, kernel) == Floats{3, -4}));
        CHECK((clip_values<float>({3, 4}, 0, kernel) == Floats{0, 0}));
        CHECK((clip_values<float>({0, 0}, 0, kernel) == Floats{0, 0})); // not 0 / 0
        CHECK((clip_values<double>({6, -8}, 5, kernel) == std::vector<double>{3, -4}));
        // Squares that overflow or vanish in the row's own type.
        CHECK((clip_values<float>({0x3p100F, 0x4p100F}, 0x5p80, kernel) == Floats{0x3p80F, 0x4p80F}));
        CHECK((clip_values<float>({0x3p-100F, 0x4p-100F}, 0x5p-120, kernel) == Floats{0x3p-120F, 0x4p-120F}));
        const std::vector<double> huge = clip_values<double>({3e200, -4e200}, 5, kernel);
        CHECK(std::fabs(huge[0] - 3) < 1e-15 && std::fabs(huge[1] + 4) < 1e-15);
        const std::vector<double> tiny = clip_values<double>({3e-200, -4e-200}, 5e-210, kernel);
        CHECK(std::fabs(tiny[0] / 3e-210 - 1) < 1e-14 && std::fabs(tiny[1] / -4e-210 - 1) < 1e-14);
        const std::vector<double> least = clip_values<double>({0x1p-1074, 0}, 1.0, kernel);
        CHECK(least[0] == 0x1p-1074);
        // Half precision: 6 and -8 are 0x4600 and 0xc800; 65504, the largest, twice.
        CHECK((clip_values<std::uint16_t>({0x4600, 0xc800}, 5, kernel) ==
               std::vector<std::uint16_t>{0x4200, 0xc400}));
        CHECK((clip_values<std::uint16_t>({0x7bff, 0x7bff}, 65504 * std::sqrt(0.5), kernel) ==
               std::vector<std::uint16_t>{0x77ff, 0x77ff}));
        // Halfway between two numbers, to the even one: a row of 2 becomes the norm itself.
        using Halves = std::vector<std::uint16_t>;
        CHECK((clip_values<std::uint16_t>({0x4000}, 1 + 0x1p-11, kernel) == Halves{0x3c00}));
        CHECK((clip_values<std::uint16_t>({0x4000}, 1 + 0x3p-11, kernel) == Halves{0x3c02}));
        CHECK((clip_values<std::uint16_t>({0x4000}, 1 + 0x1p-8, kernel, RowFormat::bfloat16) ==
               Halves{0x3f80}));
        CHECK((clip_values<std::uint16_t>({0xc000}, 1 + 0x3p-8, kernel, RowFormat::bfloat16) ==
               Halves{0xbf82}));
        // To subnormal numbers: 2^-14 becomes 2^-15 and 2^-24 becomes half of itself, to even: 0.
        CHECK((clip_values<std::uint16_t>({0x0400}, 0x1p-15, kernel) == std::vector<std::uint16_t>{0x0200}));
        CHECK((clip_values<std::uint16_t>({0x0001}, 0x1p-25, kernel) == std::vector<std::uint16_t>{0x0000}));
        CHECK(
            (clip_values<std::uint16_t>({0x8003}, 0x1.8p-24, kernel) == std::vector<std::uint16_t>{0x8002}));
    }
}

/// From every format to every one of floats, against a conversion by definition: the nearest of the numbers
/// around, ties to the even one.
void test_convert() {
    for (const Format &from : formats) {
        for (const Format &to : formats) {
            for (const std::size_t dim : {1U, 3U, 15U, 16U, 17U, 40U, 100U}) {
                const Shards table(make_partition(Strategy::mod, 60, 3), dim * from.bytes, Layout::packed);
                const std::vector<std::int64_t> ids = random_ids(200, 60);
                Gather task = table.task();
                task.format = from.element;
                task.dim = dim;
                task.out_format = to.element;
                task.ids = ids.data();
                task.count = ids.size();
                for (const GatherKernel kernel : all_kernels()) {
                    const Result result(ids.size() * dim * to.bytes, 0);
                    task.out = result.data();
                    CHECK(kernel(task, 0, ids.size(), Traffic::cached) == all_in_range);
                    result.check_fence();
                    for (std::size_t i = 0; i < ids.size(); ++i)
                        for (std::size_t k = 0; k < dim; ++k) {
                            const long double exact =
                                decode(from, read(from, table.rows[static_cast<std::size_t>(ids[i])] +
                                                            k * from.bytes));
                            const std::uint64_t bits = read(to, result.data() + (i * dim + k) * to.bytes);
                            const long double got = decode(to, bits);
                            if (std::isnan(exact)) {
                                CHECK(std::isnan(got));
                                continue;
                            }
                            const long double limit =
                                std::ldexp(2.0L - std::ldexp(1.0L, -to.digits), to.max_exponent - 1);
                            if (std::fabs(exact) >= limit) {
                                CHECK(std::isinf(got) && std::signbit(got) == std::signbit(exact));
                                continue;
                            }
                            const long double step = unit(to, exact);
                            const long double wanted = std::nearbyint(exact / step) * step;
                            CHECK(got == wanted && std::signbit(got) == std::signbit(exact));
                        }
                }
            }
        }
    }
}

} // namespace

int main() {
    test_every_kernel();
    test_every_count();
    test_large_results();
    test_ids_of_type<std::int8_t>();
    test_ids_of_type<std::int16_t>();
    test_ids_of_type<std::int32_t>();
    test_ids_of_type<std::int64_t>();
    test_ids_of_type<std::uint8_t>();
    test_ids_of_type<std::uint16_t>();
    test_ids_of_type<std::uint32_t>();
    test_ids_of_type<std::uint64_t>();
    test_ids_are_not_cut();
    test_first_bad_id();
    test_no_rows_and_no_ids();
    test_clip_random();
    test_convert();
    test_clip_by_hand();
    return 0;
}

#include "core/nearest.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/threads.h"

namespace shardwise {

#define SHARDWISE_FLOATS(level)                                                                              \
    namespace level {                                                                                        \
    void find_nearest(const Nearest &, std::size_t, std::size_t, float *);                                   \
    }
#define SHARDWISE_BYTES(level)                                                                               \
    namespace level {                                                                                        \
    void to_bytes(const Nearest &, const ByteRows &, std::size_t, std::size_t);                              \
    std::size_t find_by_bytes(const Nearest &, const ByteRows &, std::size_t, std::size_t, float *,          \
                              std::uint8_t *);                                                               \
    }
#if defined(__x86_64__) || defined(_M_X64)
SHARDWISE_FLOATS(x86_64)
SHARDWISE_FLOATS(x86_64_v3)
SHARDWISE_FLOATS(x86_64_v4)
SHARDWISE_BYTES(x86_64_v3)
SHARDWISE_BYTES(x86_64_v4)
static constexpr NearestKernels kernels[] = {
    {x86_64::find_nearest, nullptr, nullptr},
    {x86_64_v3::find_nearest, x86_64_v3::to_bytes, x86_64_v3::find_by_bytes},
    {x86_64_v4::find_nearest, x86_64_v4::to_bytes, x86_64_v4::find_by_bytes}};
#else
SHARDWISE_FLOATS(baseline)
static constexpr NearestKernels kernels[] = {{baseline::find_nearest, nullptr, nullptr}};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);
#undef SHARDWISE_FLOATS
#undef SHARDWISE_BYTES

NearestKernels nearest_kernels(std::size_t level) {
    NearestKernels found = kernels[level];
    if (!multiplies_bytes(level))
        found.to_bytes = nullptr, found.by_bytes = nullptr;
    return found;
}

namespace {

// Multiplications that are worth a thread: one takes some 20 us to wake.
constexpr std::size_t thread_products = std::size_t{1} << 21;

// Values to be rounded that are worth one.
constexpr std::size_t thread_values = std::size_t{1} << 17;

// Threads share the queries by so many: fewer would leave lanes of a tile without one.
constexpr std::size_t share = 16;

bool by_bytes(const Nearest &task, Products products) {
    if (products == Products::floats || task.dim == 0 || task.dim > most_byte_dim ||
        nearest_kernels(level()).by_bytes == nullptr)
        return false;
    if (products == Products::bytes)
        return true;
    // To round a row takes as long as its products with some queries. Of few rows, many are among the best:
    // as many as these pay even while there are none yet.
    return task.num_queries >= 64 && task.num_queries * task.dim >= 4096 &&
           (task.num_rows >= 2000 || task.scores[0] != -std::numeric_limits<float>::infinity());
}

} // namespace

bool find_nearest(const Nearest &task, Products products) {
    if (task.num_queries == 0 || task.num_rows == 0)
        return true;
    const NearestKernels &run = nearest_kernels(level());
    const std::size_t shares = (task.num_queries + share - 1) / share;
    const std::size_t columns = std::max<std::size_t>(task.dim, 1);
    const std::size_t floats = columns * nearest_queries * sizeof(float);
    const std::size_t grain = thread_products / (share * task.num_rows * columns) + 1;
    if (!by_bytes(task, products)) {
        parallel_for(shares, grain, [&](std::size_t from, std::size_t to) {
            const Room<std::byte> room(floats);
            run.by_floats(task, from * share, std::min(to * share, task.num_queries),
                          reinterpret_cast<float *>(room.data()));
        });
        return true;
    }
    ByteRows rows;
    rows.num_groups = (task.num_rows + byte_group - 1) / byte_group;
    rows.stride = (task.dim + 3) / 4 * 4;
    const std::size_t count = rows.num_groups * byte_group;
    const std::size_t of_row = rows.stride + sizeof(float) + sizeof(std::int32_t);
    const Room<std::byte> room(count * of_row + rows.num_groups * sizeof(ByteRows::Bound));
    rows.bytes = reinterpret_cast<std::int8_t *>(room.data());
    rows.scales = reinterpret_cast<float *>(room.data() + count * rows.stride);
    rows.starts = reinterpret_cast<std::int32_t *>(rows.scales + count);
    rows.bounds = reinterpret_cast<ByteRows::Bound *>(rows.starts + count);
    parallel_for(rows.num_groups, thread_values / (byte_group * task.dim) + 1,
                 [&](std::size_t from, std::size_t to) { run.to_bytes(task, rows, from, to); });
    std::atomic<std::size_t> by_floats = 0;
    parallel_for(shares, grain, [&](std::size_t from, std::size_t to) {
        const Room<std::byte> mine(floats + rows.stride * (nearest_queries + 1));
        by_floats += run.by_bytes(task, rows, from * share, std::min(to * share, task.num_queries),
                                  reinterpret_cast<float *>(mine.data()),
                                  reinterpret_cast<std::uint8_t *>(mine.data() + floats));
    });
    return by_floats <= rows.num_groups * task.num_queries / 2;
}

} // namespace shardwise

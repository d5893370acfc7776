#include "core/gather.h"

#include <algorithm>
#include <atomic>

#include "core/cpu.h"
#include "core/threads.h"

namespace shardwise {

#if defined(__x86_64__) || defined(_M_X64)
namespace x86_64 {
std::size_t gather(const Gather &, std::size_t, std::size_t, Traffic);
}
namespace x86_64_v3 {
std::size_t gather(const Gather &, std::size_t, std::size_t, Traffic);
}
namespace x86_64_v4 {
std::size_t gather(const Gather &, std::size_t, std::size_t, Traffic);
}
static constexpr GatherKernel kernels[] = {x86_64::gather, x86_64_v3::gather, x86_64_v4::gather};
#else
namespace baseline {
std::size_t gather(const Gather &, std::size_t, std::size_t, Traffic);
}
static constexpr GatherKernel kernels[] = {baseline::gather};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

namespace {

// Below this a result fits the caches beside what the caller does next.
constexpr std::size_t large_bytes = std::size_t{4} << 20;

// A second thread takes some 20 us to wake here: worth it when it saves more than that.
constexpr std::size_t thread_bytes = std::size_t{512} << 10;
constexpr std::size_t thread_ids = 4096;

template <class T>
std::size_t find(const void *ids, std::size_t begin, std::size_t end, std::uint64_t num_rows) {
    const T *const typed = static_cast<const T *>(ids);
    for (std::size_t i = begin; i < end; ++i) {
        // A negative id becomes a number that no table reaches.
        if (static_cast<std::uint64_t>(static_cast<std::int64_t>(typed[i])) >= num_rows)
            return i;
    }
    return all_in_range;
}

template <class F> decltype(auto) with_type(IdType type, F &&f) {
    switch (type) {
    case IdType::i8:
        return f(std::int8_t{});
    case IdType::i16:
        return f(std::int16_t{});
    case IdType::i32:
        return f(std::int32_t{});
    case IdType::u8:
        return f(std::uint8_t{});
    case IdType::u16:
        return f(std::uint16_t{});
    case IdType::u32:
        return f(std::uint32_t{});
    case IdType::u64:
        return f(std::uint64_t{});
    case IdType::i64:
        break;
    }
    return f(std::int64_t{});
}

} // namespace

std::size_t find_out_of_range(const void *ids, IdType type, std::size_t count, std::uint64_t num_rows) {
    return with_type(type, [&](auto zero) { return find<decltype(zero)>(ids, 0, count, num_rows); });
}

Id id_at(const void *ids, IdType type, std::size_t position) {
    return with_type(type, [&](auto zero) {
        const auto id = static_cast<const decltype(zero) *>(ids)[position];
        return Id{static_cast<std::uint64_t>(static_cast<std::int64_t>(id)), id < zero};
    });
}

GatherKernel gather_kernel(std::size_t level) {
    return kernels[level];
}

std::size_t gather(const Gather &task) {
    const GatherKernel kernel = gather_kernel(level());
    const std::size_t row_bytes = std::max<std::size_t>(task.out_row_bytes(), 1);
    // A plain store reads the line that it overwrites: a third of the traffic of a large lookup. Pages that
    // the system clears just before are in the caches, though, and writing past them would be slower.
    const bool stream = task.count > large_bytes / row_bytes && !task.out_is_fresh && !task.clips() &&
                        !task.converts(); // else the rows are read again at once
    const Traffic traffic = stream ? Traffic::stream : Traffic::cached;
    const std::size_t grain = std::clamp(thread_bytes / row_bytes, thread_ids / 8, thread_ids);
    std::atomic<std::size_t> first_bad{all_in_range};
    parallel_for(task.count, grain, [&](std::size_t begin, std::size_t end) {
        const std::size_t bad = kernel(task, begin, end, traffic);
        std::size_t known = first_bad.load(std::memory_order_relaxed);
        while (bad < known && !first_bad.compare_exchange_weak(known, bad, std::memory_order_relaxed)) {
        }
    });
    return first_bad.load();
}

} // namespace shardwise

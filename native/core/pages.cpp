#include "core/pages.h"

#include <algorithm>
#include <utility>

#include "core/huge_pages.h"
#include "core/threads.h"

namespace shardwise {
namespace {

constexpr std::size_t window_bytes = std::size_t{64} << 20; // deep enough for any disk's queue

Place place_of(const PartitionView &p, std::uint64_t id) {
    switch (p.strategy) {
    case Strategy::mod:
        return locate<Strategy::mod>(p, id);
    case Strategy::div:
        return locate<Strategy::div>(p, id);
    case Strategy::ranges:
        return locate<Strategy::ranges>(p, id);
    case Strategy::whole:
        break;
    }
    return locate<Strategy::whole>(p, id);
}

/// The row at a position, or nullptr where the id is outside the table.
const std::byte *row_at(const Gather &task, std::size_t position) {
    const Id id = id_at(task.ids, task.id_type, position);
    if (id.negative || id.bits >= task.partition.num_rows)
        return nullptr;
    const Place place = place_of(task.partition, id.bits);
    const Shard &shard = task.shards[place.shard];
    return shard.data + static_cast<std::ptrdiff_t>(place.row) * shard.stride;
}

/// Part of a task: ids [begin, end).
Gather part_of(const Gather &task, std::size_t begin, std::size_t end) {
    Gather part = task;
    part.ids = static_cast<const std::byte *>(task.ids) + begin * size_of(task.id_type);
    part.count = end - begin;
    part.out = task.out + begin * task.out_row_bytes();
    return part;
}

} // namespace

void join(std::vector<PageRange> &ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const PageRange &a, const PageRange &b) { return a.begin < b.begin; });
    std::size_t kept = 0;
    for (const PageRange &range : ranges) {
        if (kept > 0 && range.begin <= ranges[kept - 1].end)
            ranges[kept - 1].end = std::max(ranges[kept - 1].end, range.end);
        else
            ranges[kept++] = range;
    }
    ranges.resize(kept);
}

std::vector<PageRange> pages_of(const Gather &task, std::size_t begin, std::size_t end) {
    std::vector<PageRange> ranges;
    if (task.row_bytes == 0)
        return ranges;
    ranges.reserve(end - begin);
    const std::uintptr_t mask = small_page_bytes() - 1;
    for (std::size_t i = begin; i < end; ++i) {
        const auto row = reinterpret_cast<std::uintptr_t>(row_at(task, i));
        if (row != 0)
            ranges.push_back({row & ~mask, (row + task.row_bytes + mask) & ~mask});
    }
    join(ranges);
    return ranges;
}

void read_ahead(const std::vector<PageRange> &ranges) {
    for (const PageRange &range : ranges)
        will_need(range.begin, range.end);
}

/// The memory of the machine; of one that does not tell, a usual one.
static std::size_t memory_bytes() {
    return physical_bytes() == 0 ? std::size_t{8} << 30 : physical_bytes();
}

std::size_t read_ahead_bound() {
    return std::min(std::size_t{1} << 30, memory_bytes() / 8);
}

std::size_t read_ahead_rows(std::size_t row_bytes) {
    return std::max<std::size_t>(1, window_bytes / std::max<std::size_t>(row_bytes, small_page_bytes()));
}

void prefetch(const Gather &task) {
    const std::size_t window = read_ahead_rows(task.row_bytes);
    for (std::size_t begin = 0; begin < task.count; begin += window) {
        std::vector<PageRange> ranges = pages_of(task, begin, std::min(task.count, begin + window));
        std::size_t bytes = 0;
        for (const PageRange &range : ranges)
            bytes += range.end - range.begin;
        // What is beyond the bound would push out what is needed sooner.
        if (!run_in_background([ranges = std::move(ranges)] { read_ahead(ranges); }, bytes,
                               read_ahead_bound()))
            return;
    }
}

void advise_random(const Shard *shards, const std::size_t *rows, std::size_t count, std::size_t row_bytes) {
    std::size_t bytes = 0;
    for (std::size_t k = 0; k < count; ++k)
        bytes += rows[k] * row_bytes;
    if (bytes < memory_bytes() / 2)
        return;
    const std::uintptr_t mask = small_page_bytes() - 1;
    for (std::size_t k = 0; k < count; ++k) {
        const auto begin = reinterpret_cast<std::uintptr_t>(shards[k].data);
        will_be_random(begin & ~mask, (begin + rows[k] * row_bytes + mask) & ~mask);
    }
}

bool Watch::finds_cold(const Gather &task) {
    constexpr std::size_t many = 4096; // rows whose lookup takes far longer than to ask for one page
    constexpr std::size_t most_samples = 32;
    constexpr std::uint32_t rarely = 16;
    constexpr std::uint32_t wary_calls = 64;
    if (task.count == 0 || task.row_bytes == 0)
        return false;
    const std::uint32_t wary = wary_.load(std::memory_order_relaxed);
    std::size_t samples = std::min(task.count, most_samples);
    if (wary == 0) {
        if (task.count < many && calls_.fetch_add(1, std::memory_order_relaxed) % rarely != 0)
            return false;
        samples = std::clamp<std::size_t>(task.count / many, 1, samples);
    }
    for (std::size_t k = 0; k < samples; ++k) {
        const std::byte *const row = row_at(task, k * task.count / samples);
        if (row != nullptr && !is_resident(row)) {
            wary_.store(wary_calls, std::memory_order_relaxed);
            return true;
        }
    }
    if (wary > 0)
        wary_.store(wary - 1, std::memory_order_relaxed);
    return false;
}

std::size_t gather_mapped(const Gather &task, Watch &watch) {
    if (!watch.finds_cold(task))
        return gather(task);
    // While one window is copied, the next is on its way from the disk.
    const std::size_t window = read_ahead_rows(task.row_bytes);
    read_ahead(pages_of(task, 0, std::min(task.count, window)));
    for (std::size_t begin = 0; begin < task.count; begin += window) {
        const std::size_t end = std::min(task.count, begin + window);
        if (end < task.count)
            read_ahead(pages_of(task, end, std::min(task.count, end + window)));
        const std::size_t bad = gather(part_of(task, begin, end));
        if (bad != all_in_range)
            return begin + bad;
    }
    return all_in_range;
}

} // namespace shardwise

#include "core/pool.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "core/cpu.h"
#include "core/pages.h"
#include "core/threads.h"

namespace shardwise {

#if defined(__x86_64__) || defined(_M_X64)
namespace x86_64 {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, std::byte *);
}
namespace x86_64_v3 {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, std::byte *);
}
namespace x86_64_v4 {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, std::byte *);
}
static constexpr PoolKernel kernels[] = {x86_64::pool, x86_64_v3::pool, x86_64_v4::pool};
#else
namespace baseline {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, std::byte *);
}
static constexpr PoolKernel kernels[] = {baseline::pool};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

namespace {

constexpr std::size_t columns_at_once = 64; // what a kernel keeps in registers
// A second thread is worth it for this many bytes of rows, or ids.
constexpr std::size_t thread_bytes = std::size_t{512} << 10;
constexpr std::size_t thread_ids = 4096;
constexpr std::size_t segment_rows = 64; // of the kernels

std::size_t scratch_bytes(const Pool &task) {
    const std::size_t acc = (task.dim * (task.format == RowFormat::float64 ? 8 : 4) + 63) / 64 * 64;
    if (task.rows.element == Element::opaque)
        return acc;
    return acc + segment_rows * std::max(task.rows.row_bytes, task.dim * 4);
}

/// The bags [first_bag, last_bag).
std::size_t pool_bags(const Pool &task, std::size_t first_bag, std::size_t last_bag) {
    const PoolKernel kernel = kernels[level()];
    const auto id_of = [&](std::size_t bag) { return static_cast<std::size_t>(task.offsets[bag]); };
    const std::size_t count = id_of(last_bag) - id_of(first_bag);
    const auto bag_of = [&](std::size_t id) { // the first bag that begins at `id` or behind it
        return static_cast<std::size_t>(std::lower_bound(task.offsets + first_bag, task.offsets + last_bag,
                                                         static_cast<std::int64_t>(id)) -
                                        task.offsets);
    };
    std::atomic<std::size_t> first_bad{all_in_range};
    const auto run = [&](std::size_t begin, std::size_t end, std::size_t first, std::size_t last) {
        const auto scratch = std::make_unique_for_overwrite<std::byte[]>(scratch_bytes(task) + 64);
        std::byte *const aligned =
            scratch.get() + (64 - reinterpret_cast<std::uintptr_t>(scratch.get()) % 64);
        const std::size_t bad = kernel(task, begin, end, first, last, aligned);
        std::size_t known = first_bad.load(std::memory_order_relaxed);
        while (bad < known && !first_bad.compare_exchange_weak(known, bad, std::memory_order_relaxed)) {
        }
    };
    const std::size_t grain =
        std::clamp(thread_bytes / std::max<std::size_t>(task.rows.row_bytes, 1), thread_ids / 8, thread_ids);
    // A bag that is most of the work of a thread is cut by columns: each sum is still made in the ids' order.
    const std::size_t giant = std::max(grain, count / (2 * static_cast<std::size_t>(num_threads())));
    std::vector<std::size_t> giants;
    if (num_threads() > 1 && count >= 2 * grain && task.dim > columns_at_once)
        for (std::size_t bag = first_bag; bag < last_bag; ++bag)
            if (id_of(bag + 1) - id_of(bag) > giant)
                giants.push_back(bag);
    std::size_t begin = first_bag;
    for (std::size_t k = 0; k <= giants.size(); ++k) {
        const std::size_t end = k < giants.size() ? giants[k] : last_bag;
        const std::size_t low = id_of(begin), high = id_of(end);
        if (begin < end && high == low) {
            run(begin, end, 0, task.dim);
        } else if (begin < end) {
            // Cut by ids, as bags differ in length: a piece has the bags that begin in it.
            parallel_for(high - low, grain, [&](std::size_t from, std::size_t to) {
                const std::size_t mine = from == 0 ? begin : std::max(begin, bag_of(low + from));
                const std::size_t next = low + to == high ? end : std::min(end, bag_of(low + to));
                if (mine < next)
                    run(mine, next, 0, task.dim);
            });
        }
        if (k == giants.size())
            break;
        const std::size_t tiles = (task.dim + columns_at_once - 1) / columns_at_once;
        parallel_for(tiles, 1, [&](std::size_t from, std::size_t to) {
            run(giants[k], giants[k] + 1, from * columns_at_once, std::min(task.dim, to * columns_at_once));
        });
        begin = giants[k] + 1;
    }
    return first_bad.load();
}

} // namespace

std::size_t pool(const Pool &task) {
    return pool_bags(task, 0, task.num_bags);
}

std::size_t pool_mapped(const Pool &task, Watch &watch) {
    if (!watch.finds_cold(task.rows))
        return pool(task);
    // While the bags of one window are combined, the rows of the next are on their way from the disk.
    const std::size_t window = read_ahead_rows(task.rows.row_bytes);
    const auto end_of = [&](std::size_t bag) { // of a window that begins with it: one bag at least
        const std::int64_t *const from = task.offsets + bag;
        const std::int64_t *const to = std::upper_bound(from + 1, task.offsets + task.num_bags + 1,
                                                        *from + static_cast<std::int64_t>(window));
        return std::min(task.num_bags, std::max(bag + 1, static_cast<std::size_t>(to - task.offsets) - 1));
    };
    const auto ask = [&](std::size_t begin, std::size_t end) {
        const auto first = static_cast<std::size_t>(task.offsets[begin]);
        const auto last = static_cast<std::size_t>(task.offsets[end]);
        for (std::size_t id = first; id < last; id += window)
            read_ahead(pages_of(task.rows, id, std::min(last, id + window)));
    };
    std::size_t end = task.num_bags == 0 ? 0 : end_of(0);
    ask(0, end);
    for (std::size_t begin = 0; begin < task.num_bags;) {
        const std::size_t next = end < task.num_bags ? end_of(end) : end;
        ask(end, next);
        const std::size_t bad = pool_bags(task, begin, end);
        if (bad != all_in_range)
            return bad;
        begin = end;
        end = next;
    }
    return all_in_range;
}

} // namespace shardwise

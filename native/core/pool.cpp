#include "core/pool.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "core/cpu.h"
#include "core/pages.h"
#include "core/threads.h"

namespace shardwise {

#if defined(__x86_64__) || defined(_M_X64)
namespace x86_64 {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
namespace x86_64_v3 {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
namespace x86_64_v4 {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
static constexpr PoolKernel kernels[] = {x86_64::pool, x86_64_v3::pool, x86_64_v4::pool};
#else
namespace baseline {
std::size_t pool(const Pool &, std::size_t, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
static constexpr PoolKernel kernels[] = {baseline::pool};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

namespace {

constexpr std::size_t columns_at_once = 64; // the least tile that a kernel keeps in registers
// A second thread is worth it for this many bytes of rows, or ids.
constexpr std::size_t thread_bytes = std::size_t{512} << 10;
constexpr std::size_t thread_ids = 4096;

// Below this results fit the caches beside what the caller does next.
constexpr std::size_t large_bytes = std::size_t{4} << 20;

/// Some bags of a task, or some columns of one bag.
struct Piece {
    std::size_t task, begin, end, first, last;
};

std::size_t scratch_bytes(const Pool &task) {
    const std::size_t dim = task.rows.dim;
    const std::size_t acc = (dim * (task.rows.format == RowFormat::float64 ? 8 : 4) + 63) / 64 * 64;
    return task.rows.clips() ? acc + pool_group_rows * std::max(task.rows.row_bytes, dim * 4) : acc;
}

/// Whether its rows can be written past the caches; gather.cpp says why not to fresh memory. For bags of two
/// ids it took 0.7 of the time, for bags of 8 0.9.
bool can_stream(const Pool &task) {
    const bool is_own =
        task.out_format == (task.rows.format == RowFormat::float64 ? RowFormat::float64 : RowFormat::float32);
    return is_own && !task.out_is_fresh && task.out_stride % 64 == 0 &&
           reinterpret_cast<std::uintptr_t>(task.out) % 64 == 0;
}

std::size_t run(const Pool &task, const Piece &piece, bool stream) {
    const auto scratch = std::make_unique_for_overwrite<std::byte[]>(scratch_bytes(task) + 64);
    std::byte *const aligned = scratch.get() + (64 - reinterpret_cast<std::uintptr_t>(scratch.get()) % 64);
    return kernels[level()](task, piece.begin, piece.end, piece.first, piece.last, stream, aligned);
}

/// What bags before `bag` cost, in ids: the bag itself counts as one, for it may have none.
std::size_t cost(const Pool &task, std::size_t bag) {
    return static_cast<std::size_t>(task.offsets[bag]) + bag;
}

/// The cost that is worth a thread.
std::size_t grain(const Pool &task) {
    return std::clamp(thread_bytes / std::max<std::size_t>(task.rows.row_bytes, 1), thread_ids / 8,
                      thread_ids);
}

/// Cuts bags [begin, end) of a task into pieces. `left` is what this task and those after it cost, in pieces
/// that are worth a thread, and `most` the largest share of it that is one piece.
void cut(std::vector<Piece> &pieces, std::span<const Pool> tasks, std::size_t index, std::size_t begin,
         std::size_t end, double &left, double most) {
    const Pool &task = tasks[index];
    const std::size_t tiles = (task.rows.dim + columns_at_once - 1) / columns_at_once;
    const auto grains = static_cast<double>(grain(task));
    for (std::size_t bag = begin; bag < end;) {
        const auto size = static_cast<std::size_t>(std::max(1.0, left * most) * grains) + 1;
        const std::size_t wanted = cost(task, bag) + size;
        std::size_t stop = bag + 1, high = end; // where the piece ends
        while (stop < high) {
            const std::size_t middle = stop + (high - stop) / 2;
            if (cost(task, middle) < wanted)
                stop = middle + 1;
            else
                high = middle;
        }
        // A bag that is much of all is cut by columns: each sum is still made in the order of the ids.
        bool giant = tiles > 1 && cost(task, stop) - cost(task, stop - 1) > 2 * size;
        if (giant && stop - bag > 1) { // it begins the next piece
            giant = false;
            --stop;
        }
        if (giant) {
            const std::size_t parts = std::min(tiles, static_cast<std::size_t>(num_threads()));
            for (std::size_t k = 0; k < parts; ++k)
                pieces.push_back({index, bag, stop, tiles * k / parts * columns_at_once,
                                  std::min(task.rows.dim, tiles * (k + 1) / parts * columns_at_once)});
        } else {
            pieces.push_back({index, bag, stop, 0, task.rows.dim});
        }
        left -= static_cast<double>(cost(task, stop) - cost(task, bag)) / grains;
        bag = stop;
    }
}

struct Bags {
    std::size_t task, begin, end;
};

/// Bags of several tasks, whose rows are in memory, on all threads.
RefusedId run_all(std::span<const Pool> tasks, const std::vector<Bags> &wanted) {
    const auto threads = static_cast<double>(num_threads());
    double weight = 0; // in pieces that are worth a thread
    std::size_t out_bytes = 0;
    for (const Bags &some : wanted) {
        const Pool &task = tasks[some.task];
        out_bytes += (some.end - some.begin) * row_bytes_of(task.out_format, task.rows.dim);
        weight += static_cast<double>(cost(task, some.end) - cost(task, some.begin)) /
                  static_cast<double>(grain(task));
    }
    std::vector<Piece> pieces;
    const bool is_shared = threads > 1 && weight >= 2;
    double left = weight;
    for (const Bags &some : wanted) {
        // Large pieces first, of a quarter of a thread's share of what is left: no thread is long alone with
        // the last one, and a core that somebody else slows down leaves its share to the rest.
        if (is_shared)
            cut(pieces, tasks, some.task, some.begin, some.end, left, 1 / (4 * threads));
        else if (some.begin < some.end)
            pieces.push_back({some.task, some.begin, some.end, 0, tasks[some.task].rows.dim});
    }
    std::vector<std::size_t> bad(pieces.size(), all_in_range);
    const auto run_some = [&](std::size_t from, std::size_t to) {
        for (std::size_t k = from; k < to; ++k) {
            const Pool &task = tasks[pieces[k].task];
            bad[k] = run(task, pieces[k], out_bytes > large_bytes && can_stream(task));
        }
    };
    if (is_shared)
        parallel_each(pieces.size(), run_some);
    else
        run_some(0, pieces.size());
    for (std::size_t k = 0; k < pieces.size(); ++k) // in the order of tasks and ids
        if (bad[k] != all_in_range)
            return {pieces[k].task, bad[k]};
    return {};
}

/// While the bags of one window are combined, the rows of the next are on their way from the disk.
RefusedId run_cold(std::span<const Pool> tasks, std::size_t index) {
    const Pool &task = tasks[index];
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
        const RefusedId bad = run_all(tasks, {{index, begin, end}});
        if (bad.position != all_in_range)
            return bad;
        begin = end;
        end = next;
    }
    return {};
}

} // namespace

RefusedId pool(std::span<const Pool> tasks) {
    std::vector<Bags> warm;
    RefusedId first;
    const auto refuse = [&](const RefusedId &bad) {
        if (bad.position != all_in_range && (first.position == all_in_range || bad.task < first.task))
            first = bad;
    };
    for (std::size_t k = 0; k < tasks.size(); ++k) {
        if (tasks[k].watch != nullptr && tasks[k].watch->finds_cold(tasks[k].rows))
            refuse(run_cold(tasks, k));
        else
            warm.push_back({k, 0, tasks[k].num_bags});
    }
    refuse(run_all(tasks, warm));
    return first;
}

bool are_splits(std::span<const std::int64_t> offsets, std::size_t most) {
    if (offsets.empty() || offsets.front() != 0)
        return false;
    std::int64_t falls = 0;
    for (std::size_t k = 1; k < offsets.size(); ++k) // no early end: so it is done on many at once
        falls |= offsets[k] < offsets[k - 1];
    return falls == 0 && static_cast<std::size_t>(offsets.back()) <= most;
}

} // namespace shardwise

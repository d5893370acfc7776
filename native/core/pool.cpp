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
std::size_t pool(const PoolPiece *, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
namespace x86_64_v3 {
std::size_t pool(const PoolPiece *, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
namespace x86_64_v4 {
std::size_t pool(const PoolPiece *, std::size_t, std::size_t, std::size_t, bool, std::byte *);
}
static constexpr PoolKernel kernels[] = {x86_64::pool, x86_64_v3::pool, x86_64_v4::pool};
#else
namespace baseline {
std::size_t pool(const PoolPiece *, std::size_t, std::size_t, std::size_t, bool, std::byte *);
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

/// Pieces [from, to) that one thread combines, or some of their columns.
struct Job {
    std::size_t from, to, first, last;
};

struct Jobs {
    std::vector<PoolPiece> pieces;
    std::vector<Job> jobs;

    void add(const PoolPiece &piece, std::size_t first, std::size_t last) {
        pieces.push_back(piece);
        jobs.push_back({pieces.size() - 1, pieces.size(), first, last});
    }
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

std::size_t run(const Jobs &all, const Job &job, bool is_large) {
    const std::span<const PoolPiece> pieces(all.pieces.data() + job.from, job.to - job.from);
    std::size_t bytes = 0;
    bool stream = is_large;
    for (const PoolPiece &piece : pieces) {
        bytes = std::max(bytes, scratch_bytes(*piece.task));
        stream = stream && can_stream(*piece.task);
    }
    const auto scratch = std::make_unique_for_overwrite<std::byte[]>(bytes + 64);
    std::byte *const aligned = scratch.get() + (64 - reinterpret_cast<std::uintptr_t>(scratch.get()) % 64);
    return kernels[level()](pieces.data(), pieces.size(), job.first, job.last, stream, aligned);
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

/// The cost of a piece, in those that are worth a thread.
double cost(const PoolPiece &piece) {
    return static_cast<double>(cost(*piece.task, piece.end) - cost(*piece.task, piece.begin)) /
           static_cast<double>(grain(*piece.task));
}

/// What is left to cut into jobs.
struct Left {
    double cost;
    double most; // the largest share of it that is one job

    double job() const { return std::max(1.0, cost * most); }
};

/// Cuts a piece into jobs.
void cut(Jobs &into, const PoolPiece &whole, Left &left) {
    const Pool &task = *whole.task;
    const std::size_t tiles = (task.rows.dim + columns_at_once - 1) / columns_at_once;
    const auto grains = static_cast<double>(grain(task));
    for (std::size_t bag = whole.begin; bag < whole.end;) {
        const auto size = static_cast<std::size_t>(left.job() * grains) + 1;
        const std::size_t wanted = cost(task, bag) + size;
        std::size_t stop = bag + 1, high = whole.end; // where the job ends
        while (stop < high) {
            const std::size_t middle = stop + (high - stop) / 2;
            if (cost(task, middle) < wanted)
                stop = middle + 1;
            else
                high = middle;
        }
        // A bag that is much of all is cut by columns: each sum is still made in the order of the ids.
        bool giant = tiles > 1 && cost(task, stop) - cost(task, stop - 1) > 2 * size;
        if (giant && stop - bag > 1) { // it begins the next job
            giant = false;
            --stop;
        }
        const PoolPiece piece{&task, bag, stop};
        if (giant) {
            const std::size_t parts = std::min(tiles, static_cast<std::size_t>(num_threads()));
            for (std::size_t k = 0; k < parts; ++k)
                into.add(piece, tiles * k / parts * columns_at_once,
                         std::min(task.rows.dim, tiles * (k + 1) / parts * columns_at_once));
        } else {
            into.add(piece, 0, task.rows.dim);
        }
        left.cost -= cost(piece);
        bag = stop;
    }
}

/// Cuts pieces of tasks that are alike into jobs that go through all tasks, some bags of each at a time. The
/// first rows of a table wait for the system's tables of its pages; so they do while others are summed, and
/// 26 tables of 51 MB took 0.9 of the time.
void cut_across(Jobs &into, std::span<const PoolPiece> wholes, Left &left) {
    constexpr std::size_t bags_at_once = 128;
    std::size_t most = 0;
    for (const PoolPiece &whole : wholes)
        most = std::max(most, whole.end - whole.begin);
    const std::size_t turns = (most + bags_at_once - 1) / bags_at_once;
    std::size_t from = into.pieces.size();
    double size = 0; // of the job so far
    const auto close = [&] {
        if (into.pieces.size() > from)
            into.jobs.push_back({from, into.pieces.size(), 0, wholes.front().task->rows.dim});
        left.cost -= size;
        size = 0;
    };
    for (std::size_t turn = 0; turn < turns; ++turn) {
        for (const PoolPiece &whole : wholes) {
            const std::size_t bags = whole.end - whole.begin;
            const PoolPiece piece{whole.task, whole.begin + bags * turn / turns,
                                  whole.begin + bags * (turn + 1) / turns};
            if (piece.begin == piece.end)
                continue;
            if (cost(piece) > 2 * left.job()) {
                close();
                cut(into, piece, left);
                from = into.pieces.size();
                continue;
            }
            into.pieces.push_back(piece);
            size += cost(piece);
            if (size >= left.job()) {
                close();
                from = into.pieces.size();
            }
        }
    }
    close();
}

/// Whether a kernel takes pieces of both in one call.
bool are_alike(const Pool &a, const Pool &b) {
    return a.rows.format == b.rows.format && a.rows.dim == b.rows.dim && a.out_format == b.out_format &&
           (a.weights == nullptr) == (b.weights == nullptr) &&
           (a.combiner == Combiner::max) == (b.combiner == Combiner::max);
}

/// Cuts pieces of several tasks into jobs.
void cut_all(Jobs &into, std::span<const PoolPiece> wanted, Left &left) {
    std::vector<PoolPiece> others(wanted.begin(), wanted.end()), alike;
    while (!others.empty()) {
        const Pool &first = *others.front().task;
        const auto rest = std::stable_partition(others.begin(), others.end(), [&](const PoolPiece &some) {
            return are_alike(*some.task, first);
        });
        alike.assign(others.begin(), rest);
        others.erase(others.begin(), rest);
        if (alike.size() > 1)
            cut_across(into, alike, left);
        else
            cut(into, alike.front(), left);
    }
}

/// Bags of several tasks, whose rows are in memory, on all threads. Of a refused id `task` is the place in
/// `wanted`.
RefusedId run_all(std::span<const PoolPiece> wanted) {
    const auto threads = static_cast<double>(num_threads());
    std::size_t out_bytes = 0;
    Left left{0, 1};
    for (const PoolPiece &some : wanted) {
        out_bytes += (some.end - some.begin) * row_bytes_of(some.task->out_format, some.task->rows.dim);
        left.cost += cost(some);
    }
    // Large jobs first, of a quarter of a thread's share of what is left: no thread is long alone with the
    // last one, and a core that somebody else slows down leaves its share to the rest.
    const bool is_shared = threads > 1 && left.cost >= 2;
    if (is_shared)
        left.most = 1 / (4 * threads);
    Jobs all;
    if (wanted.size() == 1)
        cut(all, wanted.front(), left);
    else
        cut_all(all, wanted, left);
    std::vector<std::size_t> refused(all.jobs.size());
    const auto run_some = [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k)
            refused[k] = run(all, all.jobs[k], out_bytes > large_bytes);
    };
    if (is_shared)
        parallel_each(all.jobs.size(), run_some);
    else
        run_some(0, all.jobs.size());
    const auto bad = std::find_if(refused.begin(), refused.end(),
                                  [](std::size_t position) { return position != all_in_range; });
    if (bad == refused.end())
        return {};
    if (wanted.size() == 1)
        return {0, *bad};
    for (std::size_t k = 0; k < wanted.size(); ++k) { // the first in the order of tasks
        const RefusedId found = run_all(wanted.subspan(k, 1));
        if (found.position != all_in_range)
            return {k, found.position};
    }
    return {};
}

/// While the bags of one window are combined, the rows of the next are on their way from the disk.
std::size_t run_cold(const Pool &task) {
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
        const PoolPiece some{&task, begin, end};
        const std::size_t position = run_all({&some, 1}).position;
        if (position != all_in_range)
            return position;
        begin = end;
        end = next;
    }
    return all_in_range;
}

} // namespace

RefusedId pool(std::span<const Pool> tasks) {
    std::vector<PoolPiece> warm;
    RefusedId first;
    const auto refuse = [&](std::size_t task, std::size_t position) {
        if (position != all_in_range && (first.position == all_in_range || task < first.task))
            first = {task, position};
    };
    for (std::size_t k = 0; k < tasks.size(); ++k) {
        if (tasks[k].watch != nullptr && tasks[k].watch->finds_cold(tasks[k].rows))
            refuse(k, run_cold(tasks[k]));
        else if (tasks[k].num_bags > 0)
            warm.push_back({&tasks[k], 0, tasks[k].num_bags});
    }
    if (!warm.empty()) {
        const RefusedId bad = run_all(warm);
        refuse(static_cast<std::size_t>(warm[bad.task].task - tasks.data()), bad.position);
    }
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

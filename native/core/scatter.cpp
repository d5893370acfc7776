#include "core/scatter.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/platform.h"

#if SHARDWISE_POSIX
#include <cerrno>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#endif

#include "core/threads.h"

namespace shardwise {
namespace {

constexpr std::size_t ring = 64; // places that are resolved, and their rows fetched, before they are written

struct Target {
    std::uint64_t shard;
    std::uint64_t row;
    std::size_t position;
};

template <Strategy S> void write_rows(const Scatter &task, std::size_t part, std::size_t parts) {
    // An id is one part's alone, so the order of its rows is kept; neighbours share parts, and so lines.
    const auto is_mine = [&](std::uint64_t id) {
        return parts == 1 || ((id >> 6) * 0x9e3779b97f4a7c15U >> 32) % parts == part;
    };
    std::byte *to[ring];
    std::size_t from[ring];
    std::size_t held = 0;
    const auto write_held = [&] {
        for (std::size_t k = 0; k < held; ++k)
            std::memcpy(to[k], task.rows + from[k] * task.row_bytes, task.row_bytes);
        held = 0;
    };
    for (std::size_t i = 0; i < task.count; ++i) {
        const auto id = static_cast<std::uint64_t>(task.ids[i]);
        if (!is_mine(id))
            continue;
        const Place place = locate<S>(task.partition, id);
        const Shard &shard = task.shards[place.shard];
        to[held] =
            const_cast<std::byte *>(shard.data) + static_cast<std::ptrdiff_t>(place.row) * shard.stride;
        from[held] = i;
#if defined(__GNUC__)
        __builtin_prefetch(to[held], 1);
#endif
        if (++held == ring)
            write_held();
    }
    write_held();
}

void write_part(const Scatter &task, std::size_t part, std::size_t parts) {
    switch (task.partition.strategy) {
    case Strategy::mod:
        return write_rows<Strategy::mod>(task, part, parts);
    case Strategy::div:
        return write_rows<Strategy::div>(task, part, parts);
    case Strategy::ranges:
        return write_rows<Strategy::ranges>(task, part, parts);
    case Strategy::whole:
        break;
    }
    write_rows<Strategy::whole>(task, part, parts);
}

} // namespace

void scatter(const Scatter &task) {
    constexpr std::size_t bytes_for_threads = std::size_t{1} << 20;
    if (task.row_bytes == 0)
        return;
    const std::size_t parts =
        task.count * task.row_bytes < bytes_for_threads ? 1 : static_cast<std::size_t>(num_threads());
    parallel_for(parts, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t part = begin; part < end; ++part)
            write_part(task, part, parts);
    });
}

void mark_rows(const std::int64_t *ids, std::size_t count, std::uint64_t num_rows, std::uint8_t *changed) {
    for (std::size_t i = 0; i < count; ++i) {
        const auto row = static_cast<std::uint64_t>(ids[i]);
        if (row < num_rows)
            mark_row(changed, row);
    }
}

#if !SHARDWISE_POSIX
int write_to_files(const Scatter &task, const ShardFile *, Watch &) {
    scatter(task); // the maps are the files
    return 0;
}
#else

namespace {

constexpr std::size_t most_buffers = 512; // of one call of the system, which takes 1024

/// Writes buffers that follow each other in a file, all of them.
int write_all(int descriptor, iovec *buffers, std::size_t count, std::int64_t at) {
    while (count > 0) {
        const ssize_t written = pwritev(descriptor, buffers, static_cast<int>(count), static_cast<off_t>(at));
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (written == 0)
            return EIO;
        at += written;
        auto left = static_cast<std::size_t>(written);
        while (count > 0 && left >= buffers->iov_len) {
            left -= buffers->iov_len;
            ++buffers;
            --count;
        }
        if (left > 0) {
            buffers->iov_base = static_cast<std::byte *>(buffers->iov_base) + left;
            buffers->iov_len -= left;
        }
    }
    return 0;
}

template <Strategy S>
void locate_all(const Scatter &task, std::size_t begin, std::size_t end, std::vector<Target> &targets) {
    targets.clear();
    for (std::size_t i = begin; i < end; ++i) {
        const Place place = locate<S>(task.partition, static_cast<std::uint64_t>(task.ids[i]));
        targets.push_back({place.shard, place.row, i});
    }
}

/// The rows of ids [begin, end) in the order in which they lie in the files, each once: the last of equals.
void sort_targets(const Scatter &task, std::size_t begin, std::size_t end, std::vector<Target> &targets) {
    switch (task.partition.strategy) {
    case Strategy::mod:
        locate_all<Strategy::mod>(task, begin, end, targets);
        break;
    case Strategy::div:
        locate_all<Strategy::div>(task, begin, end, targets);
        break;
    case Strategy::ranges:
        locate_all<Strategy::ranges>(task, begin, end, targets);
        break;
    case Strategy::whole:
        locate_all<Strategy::whole>(task, begin, end, targets);
        break;
    }
    std::sort(targets.begin(), targets.end(), [](const Target &a, const Target &b) {
        if (a.shard != b.shard)
            return a.shard < b.shard;
        return a.row != b.row ? a.row < b.row : a.position < b.position;
    });
    std::size_t kept = 0;
    for (std::size_t k = 0; k < targets.size(); ++k) {
        const bool again = k + 1 < targets.size() && targets[k + 1].shard == targets[k].shard &&
                           targets[k + 1].row == targets[k].row;
        if (!again)
            targets[kept++] = targets[k];
    }
    targets.resize(kept);
}

/// Writes rows that lie one after the other by one call: those of targets [first, first + the result).
std::size_t run_of(const std::vector<Target> &targets, std::size_t first) {
    std::size_t count = 1;
    while (count < most_buffers && first + count < targets.size() &&
           targets[first + count].shard == targets[first].shard &&
           targets[first + count].row == targets[first].row + count)
        ++count;
    return count;
}

iovec row_of(const Scatter &task, const Target &target) {
    return {const_cast<std::byte *>(task.rows) + target.position * task.row_bytes, task.row_bytes};
}

/// The slow way, which names what is wrong: each run of neighbours is written to its file.
int write_runs(const Scatter &task, const ShardFile *files, const std::vector<Target> &targets,
               std::size_t first, std::size_t end) {
    iovec buffers[most_buffers];
    while (first < end) {
        const std::size_t count = std::min(run_of(targets, first), end - first);
        for (std::size_t k = 0; k < count; ++k)
            buffers[k] = row_of(task, targets[first + k]);
        const Target &start = targets[first];
        const ShardFile &file = files[start.shard];
        // A file that was cut must not grow again, with zeros where its rows were.
        struct stat status;
        if (fstat(file.descriptor, &status) != 0)
            return errno;
        if (status.st_size < file.begin + static_cast<std::int64_t>((start.row + count) * task.row_bytes))
            return file_was_cut;
        const int error = write_all(file.descriptor, buffers, count,
                                    file.begin + static_cast<std::int64_t>(start.row * task.row_bytes));
        if (error != 0)
            return error;
        first += count;
    }
    return 0;
}

/// Writes the rows of some targets through the maps, by a call of the system that takes many at once: it is
/// not interrupted within a page, and where a page cannot be had it says so, where a plain store would end
/// the process. Returns whether all were written.
bool write_through_maps([[maybe_unused]] const Scatter &task,
                        [[maybe_unused]] const std::vector<Target> &targets,
                        [[maybe_unused]] std::size_t first, [[maybe_unused]] std::size_t end) {
#if SHARDWISE_LINUX
    iovec from[most_buffers];
    iovec to[most_buffers];
    volatile const std::byte *touched = nullptr;
    for (std::size_t k = first; k < end; ++k) {
        const Shard &shard = task.shards[targets[k].shard];
        from[k - first] = row_of(task, targets[k]);
        to[k - first] = {const_cast<std::byte *>(shard.data) +
                             static_cast<std::ptrdiff_t>(targets[k].row) * shard.stride,
                         task.row_bytes};
        // Pages of the source that are missing would be fetched in the middle of a row.
        touched = static_cast<const std::byte *>(from[k - first].iov_base);
        (void)touched[0];
        (void)touched[task.row_bytes - 1];
    }
    const ssize_t written = process_vm_writev(getpid(), from, end - first, to, end - first, 0);
    return written >= 0 && static_cast<std::size_t>(written) == (end - first) * task.row_bytes;
#else
    return false;
#endif
}

int write_window(const Scatter &task, const ShardFile *files, const std::vector<Target> &targets) {
    for (std::size_t first = 0; first < targets.size(); first += most_buffers) {
        const std::size_t end = std::min(targets.size(), first + most_buffers);
        if (!write_through_maps(task, targets, first, end)) {
            if (const int error = write_runs(task, files, targets, first, end); error != 0)
                return error;
        }
    }
    return 0;
}

} // namespace

int write_to_files(const Scatter &task, const ShardFile *files, Watch &watch) {
    if (task.row_bytes == 0)
        return 0;
    Gather places; // for its pages: part of a page can be written only when the whole was read
    places.partition = task.partition;
    places.shards = task.shards;
    places.row_bytes = task.row_bytes;
    places.ids = task.ids;
    places.count = task.count;
    const bool cold = watch.finds_cold(places);
    const std::size_t window = read_ahead_rows(task.row_bytes);
    std::vector<Target> targets;
    for (std::size_t begin = 0; begin < task.count; begin += window) {
        const std::size_t end = std::min(task.count, begin + window);
        if (cold && begin == 0)
            read_ahead(pages_of(places, begin, end));
        if (cold && end < task.count)
            read_ahead(pages_of(places, end, std::min(task.count, end + window)));
        sort_targets(task, begin, end, targets);
        if (const int error = write_window(task, files, targets); error != 0)
            return error;
    }
    return 0;
}

#endif

} // namespace shardwise

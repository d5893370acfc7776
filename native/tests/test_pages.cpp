#include "core/pages.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "check.h"
#include "core/pool.h"
#include "core/threads.h"

using namespace shardwise;

#if defined(_WIN32)
int main() {
    return 0;
}
#else

namespace {

constexpr std::size_t row_bytes = 1000;
constexpr std::int64_t num_rows = 20'000;

/// A mapped file of rows, each of one byte value that follows from its number.
struct Mapped {
    std::FILE *file = std::tmpfile();
    std::size_t size = static_cast<std::size_t>(num_rows) * row_bytes;
    std::byte *data = nullptr;

    Mapped() {
        CHECK(file != nullptr);
        std::vector<std::byte> row(row_bytes);
        for (std::int64_t k = 0; k < num_rows; ++k) {
            std::fill(row.begin(), row.end(), value(k));
            CHECK(std::fwrite(row.data(), 1, row_bytes, file) == row_bytes);
        }
        CHECK(std::fflush(file) == 0 && fsync(fileno(file)) == 0);
        void *const place = mmap(nullptr, size, PROT_READ, MAP_SHARED, fileno(file), 0);
        CHECK(place != MAP_FAILED);
        data = static_cast<std::byte *>(place);
    }
    ~Mapped() {
        munmap(data, size);
        std::fclose(file);
    }

    static std::byte value(std::int64_t row) { return static_cast<std::byte>(row * 31 + row / 256); }

    /// Has the system forget the pages; whether it did.
    bool forget() const {
        madvise(data, size, MADV_DONTNEED);
        posix_fadvise(fileno(file), 0, 0, POSIX_FADV_DONTNEED);
        return !is_resident(data + size / 2);
    }
};

struct Lookup {
    Partition partition = Partition::mod(num_rows, 1);
    std::vector<Shard> shards;
    std::vector<std::int64_t> ids;
    std::vector<std::byte> out;

    Lookup(const Mapped &mapped, std::vector<std::int64_t> wanted)
        : shards{{mapped.data, static_cast<std::ptrdiff_t>(row_bytes)}}, ids(std::move(wanted)),
          out(ids.size() * row_bytes) {}

    Gather task() {
        Gather task;
        task.partition = partition.view();
        task.shards = shards.data();
        task.row_bytes = row_bytes;
        task.ids = ids.data();
        task.count = ids.size();
        task.out = out.data();
        return task;
    }

    void check() const {
        for (std::size_t i = 0; i < ids.size(); ++i)
            for (const std::size_t k : {std::size_t{0}, row_bytes - 1})
                CHECK(out[i * row_bytes + k] == Mapped::value(ids[i]));
    }
};

std::vector<std::int64_t> random_ids(std::size_t count) {
    std::mt19937_64 random(count);
    std::vector<std::int64_t> ids(count);
    for (std::int64_t &id : ids)
        id = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(num_rows));
    return ids;
}

void check_pages(const Mapped &mapped) {
    std::vector<std::int64_t> ids = random_ids(500);
    ids.push_back(-1);
    ids.push_back(num_rows);
    Lookup lookup(mapped, ids);
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::vector<PageRange> ranges = pages_of(lookup.task(), 0, ids.size());
    for (std::size_t k = 0; k < ranges.size(); ++k) {
        CHECK(ranges[k].begin % page == 0 && ranges[k].end % page == 0 && ranges[k].begin < ranges[k].end);
        CHECK(k == 0 || ranges[k - 1].end < ranges[k].begin);
    }
    for (const std::int64_t id : ids) {
        if (id < 0 || id >= num_rows)
            continue;
        const auto row =
            reinterpret_cast<std::uintptr_t>(mapped.data) + static_cast<std::uintptr_t>(id) * row_bytes;
        CHECK(std::any_of(ranges.begin(), ranges.end(), [&](const PageRange &range) {
            return range.begin <= row && row + row_bytes <= range.end;
        }));
    }
    std::uintptr_t bytes = 0;
    for (const PageRange &range : ranges)
        bytes += range.end - range.begin;
    CHECK(bytes <= 502 * 2 * page); // nothing beyond what the rows touch
    CHECK(pages_of(lookup.task(), 5, 5).empty());
    Lookup none(mapped, {-5, num_rows + 7});
    CHECK(pages_of(none.task(), 0, 2).empty());
}

void check_lookups(const Mapped &mapped) {
    for (const std::size_t count : {1, 40, 30'000}) {
        Watch watch;
        for (int turn = 0; turn < 3; ++turn) {
            if (turn != 1)
                (void)mapped.forget();
            Lookup lookup(mapped, random_ids(count));
            CHECK(gather_mapped(lookup.task(), watch) == all_in_range);
            lookup.check();
        }
        (void)mapped.forget();
        std::vector<std::int64_t> ids = random_ids(count);
        ids.back() = num_rows;
        Lookup bad(mapped, ids);
        CHECK(gather_mapped(bad.task(), watch) == count - 1);
    }
    Watch watch;
    Lookup empty(mapped, {});
    CHECK(gather_mapped(empty.task(), watch) == all_in_range);
}

/// Rows that are written in another format, of more ids than a window, lie where they belong.
void check_conversions(const Mapped &mapped) {
    constexpr std::size_t dim = row_bytes / 4;
    for (const RowFormat to : {RowFormat::float16, RowFormat::float64}) {
        Lookup lookup(mapped, random_ids(35'000));
        Gather task = lookup.task();
        task.format = RowFormat::float32;
        task.dim = dim;
        task.out_format = to;
        std::vector<std::byte> warm(task.count * task.out_row_bytes()), cold(warm.size());
        task.out = warm.data();
        CHECK(gather(task) == all_in_range);
        Watch watch;
        (void)mapped.forget();
        task.out = cold.data();
        CHECK(gather_mapped(task, watch) == all_in_range);
        CHECK(cold == warm);
    }
}

/// Bags whose rows have to be read in first are what they are when all is in memory.
void check_pools(const Mapped &mapped) {
    constexpr std::size_t dim = row_bytes / 4;
    for (const std::size_t bag :
         {std::size_t{1}, std::size_t{7}, std::size_t{30'000}}) { // more than a window
        std::vector<std::int64_t> ids = random_ids(35'000);
        Lookup lookup(mapped, ids);
        std::vector<std::int64_t> offsets;
        for (std::size_t k = 0; k < ids.size(); k += bag)
            offsets.push_back(static_cast<std::int64_t>(k));
        offsets.push_back(static_cast<std::int64_t>(ids.size()));
        std::vector<float> cold((offsets.size() - 1) * dim), warm(cold.size());
        Watch watch;
        Pool task;
        task.rows = lookup.task();
        task.rows.format = RowFormat::float32;
        task.rows.dim = dim;
        task.offsets = offsets.data();
        task.num_bags = offsets.size() - 1;
        task.out_stride = row_bytes;
        task.out = reinterpret_cast<std::byte *>(warm.data());
        CHECK(pool({{task}}).position == all_in_range);
        task.out = reinterpret_cast<std::byte *>(cold.data());
        task.watch = &watch;
        (void)mapped.forget();
        CHECK(pool({{task}}).position == all_in_range);
        CHECK(std::memcmp(cold.data(), warm.data(), cold.size() * sizeof(float)) == 0);
        (void)mapped.forget();
        lookup.ids.back() = num_rows;
        CHECK(pool({{task}}).position == ids.size() - 1);
    }
}

bool waits_for(const std::byte *row) {
    for (int k = 0; k < 1000 && !is_resident(row); ++k)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return is_resident(row);
}

void check_prefetch(const Mapped &mapped) {
    if (!mapped.forget()) {
        std::puts("this file system keeps its pages: prefetch is not checked");
        return;
    }
    Watch watch;
    Lookup lookup(mapped, random_ids(50));
    CHECK(watch.finds_cold(lookup.task()));
    prefetch(lookup.task());
    for (const std::int64_t id : lookup.ids)
        CHECK(waits_for(mapped.data + static_cast<std::size_t>(id) * row_bytes));
#if !defined(__SANITIZE_THREAD__) // which lets no child start threads
    // The same in a child, whose threads are gone.
    (void)mapped.forget();
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prefetch(lookup.task());
        _exit(waits_for(mapped.data + static_cast<std::size_t>(lookup.ids[0]) * row_bytes) ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
#endif
}

void check_bound() {
    std::atomic<bool> go{false};
    std::atomic<int> ran{0};
    CHECK(run_in_background(
        [&] {
            while (!go)
                std::this_thread::yield();
            ++ran;
        },
        6, 10));
    CHECK(!run_in_background([&] { ++ran; }, 5, 10)); // the first one's cost counts until it is done
    CHECK(run_in_background([&] { ++ran; }, 4, 10));
    CHECK(!run_in_background([&] { ++ran; }, 11, 10));
    go = true;
    while (ran != 2)
        std::this_thread::yield();
}

} // namespace

int main() {
    check_bound();
    const Mapped mapped;
    check_pages(mapped);
    for (const int threads : {1, 4}) {
        set_num_threads(threads);
        check_lookups(mapped);
        check_conversions(mapped);
        check_pools(mapped);
    }
    check_prefetch(mapped);
    return 0;
}
#endif

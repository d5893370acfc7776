#include "core/scatter.h"

#include <cstring>
#include <random>
#include <vector>

#if !defined(_WIN32)
#include <cerrno>
#include <cstdio>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "check.h"
#include "core/platform.h"
#include "core/threads.h"

using namespace shardwise;

namespace {

struct Case {
    Partition partition;
    std::size_t row_bytes;
    std::size_t count;
};

std::vector<std::byte> random_bytes(std::mt19937_64 &random, std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::byte &byte : bytes)
        byte = static_cast<std::byte>(random());
    return bytes;
}

/// Shards in one block with a gap after each row, so that a stride is not the row's size.
struct Memory {
    std::vector<std::vector<std::byte>> blocks;
    std::vector<Shard> shards;

    Memory(const Partition &partition, std::size_t row_bytes, std::size_t gap, bool reversed) {
        const auto stride = static_cast<std::ptrdiff_t>(row_bytes + gap);
        for (std::int64_t k = 0; k < partition.num_shards(); ++k) {
            const std::int64_t rows = partition.shard_size(k);
            blocks.emplace_back(static_cast<std::size_t>(rows * stride) + 1);
            std::byte *const begin = blocks.back().data();
            if (reversed && rows > 0)
                shards.push_back({begin + (rows - 1) * stride, -stride});
            else
                shards.push_back({begin, stride});
        }
    }

    const std::byte *row(const Partition &partition, std::int64_t id) const {
        std::int64_t shard = 0;
        std::int64_t row = 0;
        CHECK(partition.locate(&id, 1, &shard, &row) == 1);
        const Shard &s = shards[static_cast<std::size_t>(shard)];
        return s.data + row * s.stride;
    }
};

Scatter task_of(const Case &c, const Memory &memory, const std::vector<std::int64_t> &ids,
                const std::vector<std::byte> &rows) {
    Scatter task;
    task.partition = c.partition.view();
    task.shards = memory.shards.data();
    task.row_bytes = c.row_bytes;
    task.ids = ids.data();
    task.count = ids.size();
    task.rows = rows.data();
    return task;
}

void check_memory(const Case &c, std::size_t gap, bool reversed) {
    std::mt19937_64 random(c.count);
    const std::int64_t num_rows = c.partition.num_rows();
    std::vector<std::int64_t> ids(c.count);
    for (std::int64_t &id : ids) // half of them come again and again
        id = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(num_rows));
    const std::vector<std::byte> rows = random_bytes(random, c.count * c.row_bytes);
    const Memory memory(c.partition, c.row_bytes, gap, reversed);
    scatter(task_of(c, memory, ids, rows));

    std::vector<std::size_t> last(static_cast<std::size_t>(num_rows), c.count);
    for (std::size_t i = 0; i < c.count; ++i)
        last[static_cast<std::size_t>(ids[i])] = i;
    const std::vector<std::byte> zeros(c.row_bytes + gap);
    for (std::int64_t id = 0; id < num_rows; ++id) {
        const std::size_t i = last[static_cast<std::size_t>(id)];
        const std::byte *const expected = i == c.count ? zeros.data() : rows.data() + i * c.row_bytes;
        const std::byte *const found = memory.row(c.partition, id);
        CHECK(c.row_bytes == 0 || std::memcmp(found, expected, c.row_bytes) == 0);
        CHECK(gap == 0 || std::memcmp(found + c.row_bytes, zeros.data(), gap) == 0);
    }
}

#if !defined(_WIN32)
void check_files(const Case &c) {
    std::mt19937_64 random(c.count);
    const std::int64_t num_rows = c.partition.num_rows();
    std::vector<std::int64_t> ids(c.count);
    for (std::size_t i = 0; i < c.count; ++i) { // runs of neighbours between others, and repetitions
        const std::uint64_t id = i % 100 < 30 ? random() : i;
        ids[i] = static_cast<std::int64_t>(id % static_cast<std::uint64_t>(num_rows));
    }
    const std::vector<std::byte> rows = random_bytes(random, c.count * c.row_bytes);
    const std::size_t begin = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::vector<std::FILE *> open;
    std::vector<ShardFile> files;
    Memory memory(c.partition, c.row_bytes, 0, false); // for shards without rows
    for (std::size_t k = 0; k < memory.shards.size(); ++k) {
        open.push_back(std::tmpfile());
        CHECK(open.back() != nullptr);
        const int descriptor = fileno(open.back());
        const auto rows_there =
            static_cast<std::size_t>(c.partition.shard_size(static_cast<std::int64_t>(k)));
        const std::size_t size = begin + rows_there * c.row_bytes;
        CHECK(ftruncate(descriptor, static_cast<off_t>(size)) == 0);
        files.push_back({descriptor, static_cast<std::int64_t>(begin)});
        // Every other shard is a map that takes no writes: those go to the file, where that can be.
        const int access = k % 2 == 0 || !SHARDWISE_POSIX ? PROT_READ | PROT_WRITE : PROT_READ;
        void *const place = mmap(nullptr, size, access, MAP_SHARED, descriptor, 0);
        CHECK(place != MAP_FAILED);
        memory.shards[k].data = static_cast<std::byte *>(place) + begin;
    }
    Watch watch;
    CHECK(write_to_files(task_of(c, memory, ids, rows), files.data(), watch) == 0);

    std::vector<std::size_t> last(static_cast<std::size_t>(num_rows), c.count);
    for (std::size_t i = 0; i < c.count; ++i)
        last[static_cast<std::size_t>(ids[i])] = i;
    const std::vector<std::byte> zeros(c.row_bytes);
    std::vector<std::byte> found(c.row_bytes);
    for (std::int64_t id = 0; id < num_rows; ++id) {
        std::int64_t shard = 0;
        std::int64_t row = 0;
        c.partition.locate(&id, 1, &shard, &row);
        const ssize_t read =
            pread(files[static_cast<std::size_t>(shard)].descriptor, found.data(), c.row_bytes,
                  static_cast<std::int64_t>(begin) + row * static_cast<std::int64_t>(c.row_bytes));
        CHECK(read == static_cast<ssize_t>(c.row_bytes));
        const std::size_t i = last[static_cast<std::size_t>(id)];
        const std::byte *const expected = i == c.count ? zeros.data() : rows.data() + i * c.row_bytes;
        CHECK(std::memcmp(found.data(), expected, c.row_bytes) == 0);
    }
    if (SHARDWISE_POSIX && c.count > 0 &&
        c.partition.num_shards() > 1) { // files that are not open for writing either
        std::vector<ShardFile> closed = files;
        for (std::size_t k = 0; k < closed.size(); ++k) {
            closed[k].descriptor = -1;
            const auto rows_there =
                static_cast<std::size_t>(c.partition.shard_size(static_cast<std::int64_t>(k)));
            const auto *const place = memory.shards[k].data - begin;
            CHECK(mprotect(const_cast<std::byte *>(place), begin + rows_there * c.row_bytes, PROT_READ) == 0);
        }
        CHECK(write_to_files(task_of(c, memory, ids, rows), closed.data(), watch) == EBADF);
        for (std::size_t k = 0; k < files.size(); ++k) // and such that were cut must not grow again
            CHECK(ftruncate(files[k].descriptor, static_cast<off_t>(begin)) == 0);
        CHECK(write_to_files(task_of(c, memory, ids, rows), files.data(), watch) == file_was_cut);
    }
    for (std::size_t k = 0; k < open.size(); ++k) {
        const auto rows_there =
            static_cast<std::size_t>(c.partition.shard_size(static_cast<std::int64_t>(k)));
        munmap(const_cast<std::byte *>(memory.shards[k].data - begin), begin + rows_there * c.row_bytes);
        std::fclose(open[k]);
    }
}
#endif

void test_marks() {
    std::vector<std::uint8_t> changed(2);
    const std::vector<std::int64_t> ids = {9, 0, 9, -1, 10, 7, INT64_MAX, INT64_MIN};
    mark_rows(ids.data(), ids.size(), 10, changed.data());
    CHECK(changed[0] == 0b10000001 && changed[1] == 0b10);
    mark_rows(ids.data(), 0, 10, nullptr);
}

} // namespace

int main() {
    test_marks();
    const Partition partitions[] = {
        Partition::mod(1000, 1), Partition::mod(1000, 7),
        Partition::div(1000, 7), Partition::ranges({0, 0, 3, 900, 1000}),
        Partition::mod(5, 9),
    };
    for (const int threads : {1, 4}) {
        set_num_threads(threads);
        for (const Partition &partition : partitions) {
            for (const std::size_t row_bytes : {std::size_t{4}, std::size_t{100}, std::size_t{5000}}) {
                for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{700}}) {
                    for (const bool reversed : {false, true})
                        check_memory({partition, row_bytes, count}, 3, reversed);
#if !defined(_WIN32)
                    check_files({partition, row_bytes, count});
#endif
                }
            }
            check_memory({partition, 0, 10}, 1, false);
            check_memory({partition, 64, 40'000}, 0, false); // enough for threads
        }
    }
    return 0;
}

#pragma once
// The inverse of a lookup: rows written over the rows of ids, in memory or in files.

#include <cstddef>
#include <cstdint>

#include "core/gather.h"
#include "core/pages.h"

namespace shardwise {

struct Scatter {
    PartitionView partition;
    const Shard *shards = nullptr; // what is written to in memory
    std::size_t row_bytes = 0;

    const std::int64_t *ids = nullptr; // each in the table; of equal ids, the last one's row stays
    std::size_t count = 0;
    const std::byte *rows = nullptr; // count * row_bytes, contiguous
};

/// Writes to memory, on several threads where that pays.
void scatter(const Scatter &task);

/// Sets the bit of a row in a bit for each. Threads that change different rows may share a byte: no bit must
/// get lost.
inline void mark_row(std::uint8_t *changed, std::uint64_t row) {
    const auto bit = static_cast<std::uint8_t>(1U << row % 8);
    std::uint8_t &byte = changed[row / 8];
    if ((__atomic_load_n(&byte, __ATOMIC_RELAXED) & bit) == 0)
        __atomic_fetch_or(&byte, bit, __ATOMIC_RELAXED);
}

/// Sets the bits of ids in a bit for each of `num_rows` rows; ids outside are passed over. Several threads
/// may do it at once.
void mark_rows(const std::int64_t *ids, std::size_t count, std::uint64_t num_rows, std::uint8_t *changed);

/// Where a shard lies in a file: row k is at byte begin + k * row_bytes.
struct ShardFile {
    int descriptor;
    std::int64_t begin;
};

/// What write_to_files returns where a file is shorter than when it was mapped.
inline constexpr int file_was_cut = -1;

/// Writes to files by calls of the system, which are not interrupted within a page: what a process that is
/// killed leaves of a row that lies within one is the old row or the new one. Returns 0, or the system's
/// error; rows may then have been written. Pages that are not in memory are read in ahead. The shards in
/// memory must be shared maps of the files.
int write_to_files(const Scatter &task, const ShardFile *files, Watch &watch);

} // namespace shardwise

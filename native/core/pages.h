#pragma once
// Rows of mapped files: whether they are in memory, and reading them in ahead, many at once. A page that is
// touched before it was read costs a whole trip to the disk, one after the other.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/gather.h"
#include "core/residency.h"

namespace shardwise {

struct PageRange {
    std::uintptr_t begin;
    std::uintptr_t end;
};

/// Sorts ranges, and joins those that touch.
void join(std::vector<PageRange> &ranges);

/// The pages in which the rows of ids [begin, end) of the task lie: sorted, joined where they touch. Ids
/// outside the table have none.
std::vector<PageRange> pages_of(const Gather &task, std::size_t begin, std::size_t end);

/// Asks the system to read pages; returns when it is asked. The pages need not be mapped any more.
void read_ahead(const std::vector<PageRange> &ranges);

/// Asks for the pages of all ids of the task on another thread, in the order of the ids, up to
/// `read_ahead_bound()`; returns at once, when the ids are no longer needed.
void prefetch(const Gather &task);

/// How many bytes of pages may wait to be asked for; what is beyond is left out.
std::size_t read_ahead_bound();

/// Tells the system that pages are touched in no order, if there are more of them than the memory holds well:
/// what it would read around each missing page is not asked for, and pushes out what is.
void advise_random(const Shard *shards, const std::size_t *rows, std::size_t count, std::size_t row_bytes);

/// Remembers whether a table's pages were found missing of late, so that a lookup in memory need not ask.
class Watch {
public:
    /// Whether some pages of the task's rows are not in memory, told by a few of them.
    bool finds_cold(const Gather &task);

private:
    std::atomic<std::uint32_t> calls_{0};
    std::atomic<std::uint32_t> wary_{0}; // calls in which to look more closely
};

/// gather(), and where rows are not in memory, with their pages read in ahead of it.
std::size_t gather_mapped(const Gather &task, Watch &watch);

/// How many rows are read ahead at once.
std::size_t read_ahead_rows(std::size_t row_bytes);

} // namespace shardwise

#pragma once
// Memory for tables and large results: 2 MB pages where the system grants them, and blocks used again.

#include <cstddef>

namespace shardwise {

/// The size of a large page.
inline constexpr std::size_t huge_page = std::size_t{2} << 20;

struct Block {
    void *data;
    std::size_t bytes;  // the true size
    bool fresh;         // not used before: no page of it is there yet
};

/// A block of at least `bytes`, its contents unspecified: one that was released before, else a fresh one. From half a
/// large page on it begins on a multiple of `huge_page` and is a multiple of it; below, it begins on a multiple of
/// 4096. Throws std::bad_alloc.
Block acquire_block(std::size_t bytes);

/// Gives a block back: kept for the next acquire_block where the bound allows (marked as free for the system to take
/// when memory runs short), else unmapped.
void release_block(const Block &block) noexcept;

/// Bytes of blocks that are kept and not in use.
std::size_t cached_bytes() noexcept;

/// Unmaps every kept block; returns how many bytes that were.
std::size_t empty_cache() noexcept;

/// How many of the `bytes` at `data` lie in large pages at present; 0 where the system does not tell.
std::size_t huge_page_bytes(const void *data, std::size_t bytes);

}  // namespace shardwise

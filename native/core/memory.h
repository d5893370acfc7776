#pragma once
// Memory for tables and large results: 2 MB pages where the system grants them, and blocks used again.

#include <cstddef>

#include "core/huge_pages.h"

namespace shardwise {

struct Block {
    void *data;
    std::size_t bytes; // the true size
    bool fresh;        // not used before: no page of it is there yet
};

/// A block of at least `bytes`, its contents unspecified: one that was released before, else a fresh one.
/// From half a large page on it begins on a multiple of `huge_page` and is a multiple of it; below, it begins
/// on a multiple of 4096. Throws std::bad_alloc.
Block acquire_block(std::size_t bytes);

/// Gives a block back: kept for the next acquire_block where the bound allows (marked as free for the system
/// to take when memory runs short), else unmapped.
void release_block(const Block &block) noexcept;

/// Room for `count` of T in a block, which is given back with it.
template <class T> class Room {
public:
    explicit Room(std::size_t count) : block_(acquire_block(count * sizeof(T))) {}
    ~Room() { release_block(block_); }
    Room(const Room &) = delete;
    Room &operator=(const Room &) = delete;
    T *data() const { return static_cast<T *>(block_.data); }

private:
    Block block_;
};

/// How many bytes of blocks are kept at most: what SHARDWISE_CACHE_BYTES says, else 1 GiB or a sixteenth of
/// the memory, whichever is less. Throws std::invalid_argument where SHARDWISE_CACHE_BYTES is no number.
std::size_t cache_bound();

/// Bytes of blocks that are kept and not in use.
std::size_t cached_bytes();

/// Unmaps every kept block; returns how many bytes that were.
std::size_t empty_cache();

} // namespace shardwise

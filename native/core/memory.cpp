#include "core/memory.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "core/at_fork.h"
#include "core/huge_pages.h"

namespace shardwise {
namespace {

std::size_t initial_bound() {
    if (const char *text = std::getenv("SHARDWISE_CACHE_BYTES"); text != nullptr && *text != '\0') {
        std::size_t bytes = 0;
        const char *const last = text + std::strlen(text);
        const auto [end, problem] = std::from_chars(text, last, bytes);
        if (problem == std::errc() && end == last)
            return bytes;
        throw std::invalid_argument("SHARDWISE_CACHE_BYTES must be a whole number of bytes, got \"" +
                                    std::string(text) + "\"");
    }
    constexpr std::size_t most = std::size_t{1} << 30;
    const std::size_t memory = physical_bytes();
    return memory == 0 ? most : std::min(most, memory / 16);
}

/// To a whole number of pages, so that results of about one size take each other's blocks.
std::size_t round_up(std::size_t bytes) {
    const std::size_t unit = bytes < large_bytes ? std::size_t{16} << 10 : huge_page;
    const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + unit - 1) / unit * unit;
    return bytes < large_bytes && rounded >= large_bytes ? huge_page : rounded;
}

// A search looks at every kept block, so there are few of them.
constexpr std::size_t max_blocks = 64;

class Cache {
public:
    static Cache &get() {
        static Cache *const cache =
            new Cache; // never destroyed: arrays may be freed after static destructors ran
        return *cache;
    }

    Block take(std::size_t bytes) {
        std::lock_guard lock(mutex_);
        // The smallest block that is large enough and not more than half empty, the latest of equals: it is
        // the warmest.
        auto best = blocks_.end();
        for (auto it = blocks_.begin(); it != blocks_.end(); ++it) {
            if (it->bytes >= bytes && it->bytes / 2 <= bytes &&
                (best == blocks_.end() || it->bytes <= best->bytes))
                best = it;
        }
        if (best == blocks_.end())
            return {nullptr, 0, true};
        const Block block = *best;
        blocks_.erase(best);
        kept_ -= block.bytes;
        return block;
    }

    /// Keeps the block, letting go of the oldest ones where the bound asks for it.
    void give(Block block) noexcept {
        std::vector<Block> dropped;
        try {
            std::lock_guard lock(mutex_);
            if (block.bytes > bound_) {
                dropped.push_back(block);
            } else {
                blocks_.push_back(block);
                kept_ += block.bytes;
                while (kept_ > bound_ || blocks_.size() > max_blocks) {
                    dropped.push_back(blocks_.front());
                    kept_ -= blocks_.front().bytes;
                    blocks_.erase(blocks_.begin());
                }
            }
        } catch (const std::bad_alloc &) {
            dropped.push_back(block);
        }
        for (const Block &old : dropped)
            unmap_block(old.data, old.bytes);
    }

    std::size_t clear() noexcept {
        std::vector<Block> dropped;
        {
            std::lock_guard lock(mutex_);
            dropped.swap(blocks_);
            kept_ = 0;
        }
        std::size_t bytes = 0;
        for (const Block &block : dropped) {
            unmap_block(block.data, block.bytes);
            bytes += block.bytes;
        }
        return bytes;
    }

    std::size_t bound() const noexcept { return bound_; }

    std::size_t kept() noexcept {
        std::lock_guard lock(mutex_);
        return kept_;
    }

private:
    Cache() : bound_(initial_bound()) {
        // A fork while another thread holds the mutex would leave it locked for ever in the child.
        at_fork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); }, [] { get().mutex_.unlock(); });
    }

    std::mutex mutex_;
    std::vector<Block> blocks_;
    std::size_t kept_ = 0;
    const std::size_t bound_;
};

} // namespace

Block acquire_block(std::size_t bytes) {
    if (bytes > SIZE_MAX / 2)
        throw std::bad_alloc();
    const std::size_t rounded = round_up(bytes);
    const Block kept = Cache::get().take(rounded);
    if (kept.data != nullptr)
        return kept;
    void *fresh = map_block(rounded);
    if (fresh == nullptr && empty_cache() > 0)
        fresh = map_block(rounded);
    if (fresh == nullptr)
        throw std::bad_alloc();
    return {fresh, rounded, true};
}

void release_block(const Block &block) noexcept {
    mark_free(block.data, block.bytes);
    Cache::get().give({block.data, block.bytes, false});
}

std::size_t cache_bound() {
    return Cache::get().bound();
}

std::size_t cached_bytes() {
    return Cache::get().kept();
}

std::size_t empty_cache() {
    return Cache::get().clear();
}

} // namespace shardwise

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

#if defined(_WIN32)
#include <malloc.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace shardwise {
namespace {

// Blocks of less than this are no multiple of a large page: aligned to a small one, and there are no pages to
// hand back while they are kept.
constexpr std::size_t large_bytes = huge_page / 2;
constexpr std::size_t small_page = 4096;

#if defined(_WIN32)
void *map_block(std::size_t bytes) {
    return _aligned_malloc(bytes, bytes < large_bytes ? small_page : huge_page);
}
void unmap_block(void *block, std::size_t) noexcept {
    _aligned_free(block);
}
void mark_free(void *, std::size_t) noexcept {}
#else
void *map_block(std::size_t bytes) {
    if (bytes < large_bytes)
        return std::aligned_alloc(small_page, bytes);
    // mmap aligns to 4 KB only: take one page more and give back what lies outside.
    const std::size_t room = bytes + huge_page;
    void *mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        return nullptr;
    char *const begin = static_cast<char *>(mapped);
    const std::size_t skip = (huge_page - reinterpret_cast<std::uintptr_t>(begin) % huge_page) % huge_page;
    if (skip > 0)
        munmap(begin, skip);
    munmap(begin + skip + bytes, room - skip - bytes);
#if defined(MADV_HUGEPAGE)
    madvise(begin + skip, bytes,
            MADV_HUGEPAGE); // a wish: refused where the system has none, and then all still works
#endif
    return begin + skip;
}

void unmap_block(void *block, std::size_t bytes) noexcept {
    if (bytes < large_bytes) {
        std::free(block);
    } else {
        munmap(block, bytes);
    }
}

void mark_free(void *block, std::size_t bytes) noexcept {
#if defined(MADV_FREE)
    if (bytes >= large_bytes)
        madvise(block, bytes, MADV_FREE);
#else
    (void)block, (void)bytes;
#endif
}
#endif

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
    std::size_t bound = std::size_t{1} << 30;
#if !defined(_WIN32)
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0)
        bound = std::min(bound, static_cast<std::size_t>(pages) / 16 * static_cast<std::size_t>(page));
#endif
    return bound;
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
#if !defined(_WIN32)
        // A fork while another thread holds the mutex would leave it locked for ever in the child.
        pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); },
                       [] { get().mutex_.unlock(); });
#endif
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

std::size_t huge_page_bytes(const void *data, std::size_t bytes) {
    std::size_t total = 0;
#if defined(__linux__)
    // The kernel tells per mapping, not per page: a mapping that is only partly ours counts by our share of
    // it.
    std::FILE *file = std::fopen("/proc/self/smaps", "r");
    if (file == nullptr)
        return 0;
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t end = begin + bytes;
    char line[512];
    unsigned long low = 0;
    unsigned long high = 0;
    std::size_t overlap = 0;
    while (std::fgets(line, sizeof line, file) != nullptr) {
        unsigned long first = 0;
        unsigned long last = 0;
        unsigned long kilobytes = 0;
        if (std::sscanf(line, "%lx-%lx ", &first, &last) == 2) {
            low = first;
            high = last;
            const std::uintptr_t from = std::max<std::uintptr_t>(begin, low);
            const std::uintptr_t to = std::min<std::uintptr_t>(end, high);
            overlap = from < to ? to - from : 0;
        } else if (overlap > 0 && (std::sscanf(line, "AnonHugePages: %lu kB", &kilobytes) == 1 ||
                                   std::sscanf(line, "FilePmdMapped: %lu kB", &kilobytes) == 1)) {
            const double share = static_cast<double>(overlap) / static_cast<double>(high - low);
            total += static_cast<std::size_t>(static_cast<double>(kilobytes) * 1024.0 * share);
        }
    }
    std::fclose(file);
#else
    (void)data, (void)bytes;
#endif
    return std::min(total, bytes);
}

} // namespace shardwise

#include "core/huge_pages.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "core/platform.h"

#if SHARDWISE_POSIX
#include <sys/mman.h>
#include <unistd.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace shardwise {
namespace {

constexpr std::size_t small_page = 4096;

} // namespace

#if SHARDWISE_POSIX

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

const bool fresh_blocks_are_zeros = true;

std::size_t physical_bytes() {
    static const std::size_t bytes =
        static_cast<std::size_t>(std::max(0L, sysconf(_SC_PHYS_PAGES))) * small_page_bytes();
    return bytes;
}

std::size_t small_page_bytes() {
    static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

#else // a heap's blocks

void *map_block(std::size_t bytes) {
    const std::size_t alignment = bytes < large_bytes ? small_page : huge_page;
#if defined(_WIN32)
    return _aligned_malloc(bytes, alignment);
#else
    return std::aligned_alloc(alignment, bytes);
#endif
}

void unmap_block(void *block, std::size_t) noexcept {
#if defined(_WIN32)
    _aligned_free(block);
#else
    std::free(block);
#endif
}

void mark_free(void *, std::size_t) noexcept {}

const bool fresh_blocks_are_zeros = false;

std::size_t physical_bytes() {
    return 0;
}

std::size_t small_page_bytes() {
    return small_page;
}

#endif

std::size_t huge_page_bytes(const void *data, std::size_t bytes) {
    std::size_t total = 0;
#if SHARDWISE_LINUX
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

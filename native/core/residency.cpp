#include "core/residency.h"

#include "core/huge_pages.h"
#include "core/platform.h"

#if SHARDWISE_POSIX
#include <sys/mman.h>
#endif

namespace shardwise {

bool is_resident([[maybe_unused]] const void *address) {
#if SHARDWISE_LINUX
    unsigned char state = 1;
    const std::uintptr_t page = reinterpret_cast<std::uintptr_t>(address) & ~(small_page_bytes() - 1);
    return mincore(reinterpret_cast<void *>(page), 1, &state) != 0 || (state & 1) != 0;
#else
    return true;
#endif
}

void will_need([[maybe_unused]] std::uintptr_t begin, [[maybe_unused]] std::uintptr_t end) {
#if SHARDWISE_POSIX
    (void)posix_madvise(reinterpret_cast<void *>(begin), end - begin, POSIX_MADV_WILLNEED);
#endif
}

void will_be_random([[maybe_unused]] std::uintptr_t begin, [[maybe_unused]] std::uintptr_t end) {
#if SHARDWISE_POSIX
    (void)posix_madvise(reinterpret_cast<void *>(begin), end - begin, POSIX_MADV_RANDOM);
#endif
}

} // namespace shardwise

#include "core/nearest.h"

#include <algorithm>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/threads.h"

namespace shardwise {

#if defined(__x86_64__) || defined(_M_X64)
namespace x86_64 {
void find_nearest(const Nearest &, std::size_t, std::size_t, float *);
}
namespace x86_64_v3 {
void find_nearest(const Nearest &, std::size_t, std::size_t, float *);
}
namespace x86_64_v4 {
void find_nearest(const Nearest &, std::size_t, std::size_t, float *);
}
static constexpr NearestKernel kernels[] = {x86_64::find_nearest, x86_64_v3::find_nearest,
                                            x86_64_v4::find_nearest};
#else
namespace baseline {
void find_nearest(const Nearest &, std::size_t, std::size_t, float *);
}
static constexpr NearestKernel kernels[] = {baseline::find_nearest};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

// Multiplications that are worth a thread: one takes some 20 us to wake.
static constexpr std::size_t thread_products = std::size_t{1} << 21;

NearestKernel nearest_kernel(std::size_t level) {
    return kernels[level];
}

// Threads share the queries by so many: fewer would leave lanes of a tile without one.
static constexpr std::size_t share = 16;

void find_nearest(const Nearest &task) {
    if (task.num_queries == 0 || task.num_rows == 0)
        return;
    const std::size_t shares = (task.num_queries + share - 1) / share;
    const std::size_t products = share * task.num_rows * std::max<std::size_t>(task.dim, 1);
    parallel_for(shares, thread_products / products + 1, [&](std::size_t from, std::size_t to) {
        const Block room =
            acquire_block(std::max<std::size_t>(task.dim, 1) * nearest_queries * sizeof(float));
        kernels[level()](task, from * share, std::min(to * share, task.num_queries),
                         static_cast<float *>(room.data));
        release_block(room);
    });
}

} // namespace shardwise

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

void find_nearest(const Nearest &task) {
    if (task.num_queries == 0 || task.num_rows == 0)
        return;
    const std::size_t tiles = (task.num_queries + nearest_queries - 1) / nearest_queries;
    const std::size_t tile_products = nearest_queries * task.num_rows * std::max<std::size_t>(task.dim, 1);
    parallel_for(tiles, thread_products / tile_products + 1, [&](std::size_t from, std::size_t to) {
        std::size_t begin = from * nearest_queries;
        const std::size_t last = std::min(to * nearest_queries, task.num_queries);
        const std::size_t packed = std::min(nearest_group, last - begin) + nearest_queries;
        const Block room =
            acquire_block(std::max<std::size_t>(task.dim, 1) * (packed + nearest_rows) * sizeof(float));
        while (begin < last) {
            const std::size_t end = std::min(begin + nearest_group, last);
            kernels[level()](task, begin, end, static_cast<float *>(room.data));
            begin = end;
        }
        release_block(room);
    });
}

} // namespace shardwise

#include "core/quantize.h"

#include <algorithm>
#include <atomic>

#include "core/cpu.h"
#include "core/threads.h"

namespace shardwise {

#define SHARDWISE_DECLARE(LEVEL)                                                                             \
    namespace LEVEL {                                                                                        \
    std::size_t quantize_rows(const Quantize &, std::size_t, std::size_t);                                   \
    void dequantize_rows(const Dequantize &, std::size_t, std::size_t);                                      \
    }
#if defined(__x86_64__) || defined(_M_X64)
SHARDWISE_DECLARE(x86_64)
SHARDWISE_DECLARE(x86_64_v3)
SHARDWISE_DECLARE(x86_64_v4)
static constexpr QuantizeKernels kernels[] = {{x86_64::quantize_rows, x86_64::dequantize_rows},
                                              {x86_64_v3::quantize_rows, x86_64_v3::dequantize_rows},
                                              {x86_64_v4::quantize_rows, x86_64_v4::dequantize_rows}};
#else
SHARDWISE_DECLARE(baseline)
static constexpr QuantizeKernels kernels[] = {{baseline::quantize_rows, baseline::dequantize_rows}};
#endif
#undef SHARDWISE_DECLARE
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

namespace {

// Values worth a thread: one takes some 20 us to wake.
constexpr std::size_t thread_values = std::size_t{128} << 10;

std::size_t grain(std::size_t dim) {
    return std::max<std::size_t>(thread_values / std::max<std::size_t>(dim, 1), 1);
}

} // namespace

QuantizeKernels quantize_kernels(std::size_t level) {
    return kernels[level];
}

std::size_t quantize(const Quantize &task, std::size_t count) {
    const auto kernel = kernels[level()].quantize;
    std::atomic<std::size_t> refused{count};
    parallel_for(count, grain(task.dim), [&](std::size_t begin, std::size_t end) {
        const std::size_t row = kernel(task, begin, end);
        std::size_t known = refused.load(std::memory_order_relaxed);
        while (row < end && row < known &&
               !refused.compare_exchange_weak(known, row, std::memory_order_relaxed)) {
        }
    });
    return refused.load();
}

void dequantize(const Dequantize &task, std::size_t count) {
    const auto kernel = kernels[level()].dequantize;
    parallel_for(count, grain(task.dim),
                 [&](std::size_t begin, std::size_t end) { kernel(task, begin, end); });
}

} // namespace shardwise

#include "core/skipgram.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <numeric>
#include <vector>

#include "core/huge_pages.h"
#include "core/residency.h"
#include "core/skipgram_draws.h"
#include "core/skipgram_worker.h"
#include "core/threads.h"

namespace shardwise {

#if defined(__x86_64__) || defined(_M_X64)
namespace x86_64 {
extern const SkipGramKernels skipgram_kernels;
}
namespace x86_64_v3 {
extern const SkipGramKernels skipgram_kernels;
}
namespace x86_64_v4 {
extern const SkipGramKernels skipgram_kernels;
}
static constexpr const SkipGramKernels *kernels[] = {&x86_64::skipgram_kernels, &x86_64_v3::skipgram_kernels,
                                                     &x86_64_v4::skipgram_kernels};
#else
namespace baseline {
extern const SkipGramKernels skipgram_kernels;
}
static constexpr const SkipGramKernels *kernels[] = {&baseline::skipgram_kernels};
#endif
static_assert(sizeof(kernels) / sizeof(kernels[0]) == num_levels);

const SkipGramKernels &skipgram_kernels(std::size_t level) {
    return *kernels[level];
}

std::size_t skipgram_block_begin(const SkipGram &task, std::size_t block) {
    const std::size_t at = block * block_tokens;
    if (at >= task.corpus_size)
        return task.corpus_size;
    if (at == 0)
        return 0;
    const std::size_t last = std::min(task.corpus_size, at + block_tokens / 4);
    for (std::size_t i = at - 1; i < last; ++i)
        if (task.corpus[i] == sentence_end)
            return i + 1;
    return at;
}

std::size_t skipgram_blocks(std::size_t corpus_size) {
    return (corpus_size + block_tokens - 1) / block_tokens;
}

SkipGramOrder::SkipGramOrder(const SkipGram &task)
    : task_(task), blocks_(skipgram_blocks(task.corpus_size)),
      step_(static_cast<std::size_t>(static_cast<double>(blocks_) * 0.6180339887498949)) {
    while (std::gcd(step_, blocks_) > 1)
        ++step_;
}

std::size_t SkipGramOrder::block(std::size_t epoch, std::size_t place) const {
    // No block of an epoch has the number `blocks_`: these random numbers are nobody else's.
    const std::uint64_t start = random_of(task_, epoch, blocks_).below(blocks_).first;
    return (start + place * step_) % blocks_;
}

/// Asks the system for a block, of the place that is counted over all epochs. The corpus is a file that the
/// memory may not hold: a page of it that is missing when it is touched is waited for, and comes with all
/// that the system reads around it, which in this order is nothing that is needed soon.
static void ask_for(const SkipGram &task, const SkipGramOrder &order, std::size_t k) {
    if (k >= task.epochs * order.blocks())
        return;
    const std::size_t block = order.block(k / order.blocks(), k % order.blocks());
    // What stands before it is looked at, too; and the last sentence ends in a page behind it.
    const std::size_t begin = std::max<std::size_t>(block * block_tokens, 1) - 1;
    const std::size_t end = std::min(task.corpus_size, (block + 1) * block_tokens);
    const std::uintptr_t page = small_page_bytes();
    will_need(reinterpret_cast<std::uintptr_t>(task.corpus + begin) & ~(page - 1),
              (reinterpret_cast<std::uintptr_t>(task.corpus + end) + 2 * page - 1) & ~(page - 1));
}

SkipGramProgress train_skipgram(const SkipGram &task, std::size_t begin, std::size_t end,
                                std::size_t threads) {
    const SkipGramOrder order(task);
    const std::size_t ahead = 4 * threads;
    for (std::size_t k = begin; k < begin + ahead && k < end; ++k)
        ask_for(task, order, k);
    std::atomic<std::size_t> next = begin;
    std::mutex mutex;
    SkipGramProgress sum;
    parallel_for(std::max<std::size_t>(1, std::min(threads, end - begin)), 1,
                 [&](std::size_t first, std::size_t last) {
                     for (; first < last; ++first) {
                         SkipGramWorker worker(task, order);
                         for (std::size_t k; (k = next.fetch_add(1)) < end;) {
                             ask_for(task, order, k + ahead);
                             worker.train(k / order.blocks(), k % order.blocks());
                         }
                         const std::lock_guard lock(mutex);
                         sum.tokens += worker.progress().tokens;
                         sum.words += worker.progress().words;
                         sum.loss += worker.progress().loss;
                         sum.losses += worker.progress().losses;
                     }
                 });
    return sum;
}

void make_alias(const std::int64_t *counts, std::size_t num_words, double power, AliasEntry *entries) {
    std::vector<double> weights(num_words);
    double total = 0;
    for (std::size_t i = 0; i < num_words; ++i)
        total += weights[i] = counts[i] > 0 ? std::pow(static_cast<double>(counts[i]), power) : 0;
    const double scale = static_cast<double>(num_words) / total;
    std::vector<std::size_t> small, large;
    for (std::size_t i = 0; i < num_words; ++i) {
        weights[i] *= scale;
        (weights[i] < 1 ? small : large).push_back(i);
        entries[i] = {~std::uint32_t{0}, static_cast<std::int32_t>(i)};
    }
    while (!small.empty() && !large.empty()) {
        const std::size_t less = small.back(), more = large.back();
        small.pop_back();
        entries[less] = {static_cast<std::uint32_t>(weights[less] * 0x1p32), static_cast<std::int32_t>(more)};
        weights[more] -= 1 - weights[less];
        if (weights[more] < 1) {
            large.pop_back();
            small.push_back(more);
        }
    }
}

} // namespace shardwise

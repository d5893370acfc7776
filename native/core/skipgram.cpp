#include "core/skipgram.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/cpu.h"
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

namespace {

constexpr std::size_t steps_ahead = 3;   // centre words whose rows are asked for
constexpr std::size_t same_rate = 64;    // centre words in a row that learn at one rate
constexpr std::size_t loss_sample = 256; // one centre word of so many

/// wyrand (Wang Yi, 2019): a Weyl sequence, and one product of 128 bits.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t operator()() {
        state_ += 0xa0761d6478bd642fU;
        return fold(state_, state_ ^ 0xe7037ed1a0b428dbU);
    }
    /// A number below `bound`, and 32 further bits.
    std::pair<std::uint64_t, std::uint32_t> below(std::uint64_t bound) {
        const std::uint64_t random = (*this)();
        return {multiply_high(random, bound), static_cast<std::uint32_t>((random * bound) >> 32)};
    }
    static std::uint64_t fold(std::uint64_t a, std::uint64_t b) { return multiply_high(a, b) ^ (a * b); }

private:
    std::uint64_t state_;
};

/// Where block `k` of the corpus begins: behind the end of a sentence, if one is near.
std::size_t block_begin(const SkipGram &task, std::size_t k) {
    const std::size_t at = k * block_tokens;
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

void ask(const float *row, std::size_t columns) {
#if defined(__GNUC__)
    for (std::size_t column = 0; column < columns && column < 16 * row_step; column += row_step)
        __builtin_prefetch(row + column, 1, 3);
#else
    (void)row, (void)columns;
#endif
}

/// Numbers on a boundary of 64 bytes.
class Buffer {
public:
    explicit Buffer(std::size_t size) : bytes_(size * sizeof(float) + 63) {}
    float *data() {
        return reinterpret_cast<float *>((reinterpret_cast<std::uintptr_t>(bytes_.data()) + 63) / 64 * 64);
    }

private:
    std::vector<std::byte> bytes_;
};

/// What a thread works with.
class Worker {
public:
    Worker(const SkipGram &task)
        : task_(task), kernel_(skipgram_kernels(level())), scratch_(step_scratch(task.columns)),
          ring_((task.parts == nullptr ? 0 : 2 * slots(task)) * task.columns), bag_(2 * task.columns),
          draws_((steps_ahead + 1) * sets(task) * task.num_negatives) {}

    void train(std::size_t epoch, std::size_t block) {
        const std::size_t begin = block_begin(task_, block), end = block_begin(task_, block + 1);
        random_ = Random(
            Random::fold(task_.seed ^ 0x8ebc6af09c88c6e3U,
                         Random::fold(epoch + 1, 0x589965cc75374cc3U) ^ (block + 0x1d8e4e27c47d124fU)));
        take(begin, end);
        const std::size_t count = words_.size();
        const auto size = static_cast<double>(task_.corpus_size);
        const double total = static_cast<double>(task_.epochs) * size;
        const double start = static_cast<double>(epoch) * size + static_cast<double>(begin);
        entered_ = left_ = 0;
        for (std::size_t i = 0; i < std::min(steps_ahead, count); ++i)
            look_ahead(i);
        for (std::size_t i = 0; i < count; ++i) {
            if (i % same_rate == 0) {
                const double done = start + static_cast<double>(end - begin) * static_cast<double>(i) /
                                                static_cast<double>(count);
                rate_ = static_cast<float>(task_.rate * std::max(1 - done / total, 1e-4));
            }
            if (i + steps_ahead < count)
                look_ahead(i + steps_ahead);
            train_centre(i);
        }
        if (task_.parts != nullptr)
            leave(count);
        progress_.words += count;
        for (std::size_t i = begin; i < end; ++i)
            progress_.tokens += task_.corpus[i] != sentence_end;
    }

    const SkipGramProgress &progress() const { return progress_; }

private:
    static std::size_t slots(const SkipGram &task) { return 2 * task.window + 2; }
    static std::size_t sets(const SkipGram &task) {
        return task.cbow ? 1 : (2 * task.window + task.shared_by - 1) / task.shared_by;
    }

    float *input(std::size_t word) { return task_.inputs + word * task_.columns; }
    float *output(std::size_t word) { return task_.outputs + word * task_.columns; }

    /// The words of a block that sub-sampling leaves, and the sentence of each.
    void take(std::size_t begin, std::size_t end) {
        words_.clear();
        bounds_.clear();
        std::uint32_t first = 0;
        const auto close = [&] {
            bounds_.resize(words_.size(), {first, static_cast<std::uint32_t>(words_.size())});
            first = static_cast<std::uint32_t>(words_.size());
        };
        for (std::size_t i = begin; i < end; ++i) {
            const std::int32_t word = task_.corpus[i];
            if (word == sentence_end) {
                close();
                continue;
            }
            if (task_.keep != nullptr) {
                const std::uint32_t keep = task_.keep[word];
                if (keep != ~std::uint32_t{0} && static_cast<std::uint32_t>(random_() >> 32) >= keep)
                    continue;
            }
            words_.push_back(word);
        }
        close();
    }

    /// Draws the negatives of a centre word, and asks for the rows that its step will need.
    void look_ahead(std::size_t i) {
        const std::size_t count = sets(task_) * task_.num_negatives;
        std::int32_t *const draws = draws_.data() + i % (steps_ahead + 1) * count;
        for (std::size_t k = 0; k < count; ++k) {
            const auto [place, rest] = random_.below(task_.num_words);
            const AliasEntry &entry = task_.negatives[place];
            draws[k] = rest < entry.keep ? static_cast<std::int32_t>(place) : entry.other;
            ask(output(static_cast<std::size_t>(draws[k])), task_.columns);
        }
        ask(output(static_cast<std::size_t>(words_[i])), task_.columns);
        const std::size_t entering = i + task_.window;
        if (task_.parts == nullptr && entering < words_.size())
            ask(input(static_cast<std::size_t>(words_[entering])), task_.columns);
    }

    void train_centre(std::size_t i) {
        // First: each centre word takes as many random numbers, whatever stands around it.
        const std::size_t reach = 1 + random_.below(task_.window).first;
        const auto [first, last] = bounds_[i];
        const std::size_t begin = i - std::min<std::size_t>(i - first, reach);
        const std::size_t end = std::min<std::size_t>(last, i + reach + 1);
        if (task_.parts != nullptr) {
            leave(i - std::min(i, task_.window));
            while (entered_ < std::min(words_.size(), i + task_.window + 1))
                enter();
        }
        if (end - begin < 2)
            return;
        const bool sampled = i % loss_sample == 0;
        if (sampled)
            progress_.losses += task_.cbow ? 1 : end - begin - 1;
        loss_ = sampled ? &progress_.loss : nullptr;
        if (task_.cbow)
            return train_bag(i, begin, end);
        const std::size_t count = sets(task_) * task_.num_negatives;
        const std::int32_t *draws = draws_.data() + i % (steps_ahead + 1) * count;
        for (std::size_t at = begin; at < end;) {
            num_inputs_ = 0;
            repeated_ = false;
            for (; at < end && num_inputs_ < task_.shared_by; ++at)
                if (at != i)
                    add_input(at);
            if (num_inputs_ == 0)
                break;
            step(i, draws);
            draws += task_.num_negatives;
        }
    }

    void add_input(std::size_t at) {
        if (task_.parts != nullptr) { // each has a row of its own while it is in the window
            inputs_[num_inputs_] = after(at);
            input_counts_[num_inputs_++] = 1;
            return;
        }
        float *const row = input(static_cast<std::size_t>(words_[at]));
        for (std::size_t c = 0; c < num_inputs_; ++c)
            if (inputs_[c] == row) {
                input_counts_[c] += 1;
                repeated_ = true;
                return;
            }
        inputs_[num_inputs_] = row;
        input_counts_[num_inputs_++] = 1;
    }

    /// A step of the inputs with the word at `i` and its negatives. One that is that word is passed over.
    void step(std::size_t i, const std::int32_t *draws) {
        const std::int32_t target = words_[i];
        std::int32_t chosen[most_outputs] = {target};
        output_counts_[0] = 1;
        std::size_t count = 1;
        for (std::size_t k = 0; k < task_.num_negatives; ++k) {
            std::size_t same = 0;
            while (same < count && chosen[same] != draws[k])
                ++same;
            if (same == 0)
                continue;
            if (same < count) {
                output_counts_[same] += 1;
                repeated_ = true;
                continue;
            }
            chosen[count] = draws[k];
            output_counts_[count++] = 1;
        }
        for (std::size_t o = 0; o < count; ++o)
            outputs_[o] = output(static_cast<std::size_t>(chosen[o]));
        kernel_.step({inputs_, repeated_ ? input_counts_ : nullptr, num_inputs_, outputs_,
                      repeated_ ? output_counts_ : nullptr, count, task_.columns, rate_, scratch_.data(),
                      loss_});
    }

    /// CBOW: the mean of the context words is the input, and each of them gets its whole change.
    void train_bag(std::size_t i, std::size_t begin, std::size_t end) {
        context_.clear();
        for (std::size_t at = begin; at < end; ++at)
            if (at != i)
                context_.push_back(task_.parts != nullptr
                                       ? static_cast<std::int64_t>(at % slots(task_) * 2 + 1)
                                       : static_cast<std::int64_t>(words_[at]));
        float *const rows = task_.parts != nullptr ? ring_.data() : task_.inputs;
        float *const before = bag_.data(), *const after = before + task_.columns;
        kernel_.mean(rows, context_.data(), context_.size(), task_.columns, before);
        std::memcpy(after, before, task_.columns * sizeof(float));
        inputs_[0] = after;
        input_counts_[0] = 1;
        num_inputs_ = 1;
        repeated_ = false;
        step(i, draws_.data() + i % (steps_ahead + 1) * task_.num_negatives);
        kernel_.add_difference(rows, context_.data(), context_.size(), task_.columns, before, after);
    }

    // ---- words of several rows: while one is in the window, it has a row of its own ----

    float *before(std::size_t at) { return ring_.data() + at % slots(task_) * 2 * task_.columns; }
    float *after(std::size_t at) { return before(at) + task_.columns; }

    std::pair<const std::int64_t *, std::size_t> parts(std::size_t at) const {
        const std::int64_t *const offsets = task_.part_offsets + words_[at];
        return {task_.parts + offsets[0], static_cast<std::size_t>(offsets[1] - offsets[0])};
    }

    void enter() {
        if (entered_ + steps_ahead < words_.size()) {
            const auto [ids, count] = parts(entered_ + steps_ahead);
            for (std::size_t k = 0; k < count; ++k)
                ask(input(static_cast<std::size_t>(ids[k])), task_.columns);
        }
        const auto [ids, count] = parts(entered_);
        kernel_.mean(task_.inputs, ids, count, task_.columns, before(entered_));
        std::memcpy(after(entered_), before(entered_), task_.columns * sizeof(float));
        ++entered_;
    }

    /// Every row of a word changes as the word did.
    void leave(std::size_t end) {
        for (; left_ < std::min(end, entered_); ++left_) {
            const auto [ids, count] = parts(left_);
            kernel_.add_difference(task_.inputs, ids, count, task_.columns, before(left_), after(left_));
        }
    }

    const SkipGram &task_;
    const SkipGramKernels &kernel_;
    Buffer scratch_;
    Buffer ring_; // of each place two rows: as it came, and as it is now
    Buffer bag_;
    std::vector<std::int32_t> draws_;
    std::vector<std::int32_t> words_;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> bounds_;
    std::vector<std::int64_t> context_;
    Random random_{0};
    float rate_ = 0;
    double *loss_ = nullptr;
    std::size_t entered_ = 0, left_ = 0;
    float *inputs_[most_inputs];
    float input_counts_[most_inputs];
    std::size_t num_inputs_ = 0;
    float *outputs_[most_outputs];
    float output_counts_[most_outputs];
    bool repeated_ = false;
    SkipGramProgress progress_;
};

} // namespace

std::size_t skipgram_blocks(std::size_t corpus_size) {
    return (corpus_size + block_tokens - 1) / block_tokens;
}

SkipGramProgress train_skipgram(const SkipGram &task, std::size_t begin, std::size_t end,
                                std::size_t threads) {
    const std::size_t blocks = skipgram_blocks(task.corpus_size);
    std::atomic<std::size_t> next = begin;
    std::mutex mutex;
    SkipGramProgress sum;
    parallel_for(std::max<std::size_t>(1, std::min(threads, end - begin)), 1,
                 [&](std::size_t first, std::size_t last) {
                     for (; first < last; ++first) {
                         Worker worker(task);
                         for (std::size_t k; (k = next.fetch_add(1)) < end;)
                             worker.train(k / blocks, k % blocks);
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
        total += weights[i] = std::pow(static_cast<double>(counts[i]), power);
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

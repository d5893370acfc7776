#include "core/skipgram_worker.h"

#include <algorithm>
#include <cstring>

#include "core/cpu.h"

namespace shardwise {
namespace {

constexpr std::size_t same_rate = 64;    // centre words in a row that learn at one rate
constexpr std::size_t loss_sample = 256; // one centre word of so many

/// Asks the processor for a row.
void ask(const float *row, std::size_t columns) {
#if defined(__GNUC__)
    for (std::size_t column = 0; column < columns && column < 16 * row_step; column += row_step)
        __builtin_prefetch(row + column, 1, 3);
#else
    (void)row, (void)columns;
#endif
}

} // namespace

SkipGramWorker::SkipGramWorker(const SkipGram &task, const SkipGramOrder &order)
    : task_(task), order_(order), kernel_(skipgram_kernels(level())), ahead_(task),
      draws_each_(negatives_each(task)), scratch_(step_scratch(task.columns)),
      ring_(task.parts == nullptr ? 0 : 2 * slots() * task.columns), bag_(2 * task.columns),
      draws_((steps_ahead + 1) * draws_each_) {}

void SkipGramWorker::train(std::size_t epoch, std::size_t place) {
    const std::size_t block = order_.block(epoch, place);
    const std::size_t begin = skipgram_block_begin(task_, block),
                      end = skipgram_block_begin(task_, block + 1);
    random_ = random_of(task_, epoch, block);
    take(begin, end);
    ahead_.begin(words_, random_);
    const std::size_t count = words_.size();
    const auto blocks = static_cast<double>(order_.blocks());
    const double before = static_cast<double>(epoch) * blocks + static_cast<double>(place);
    const double fall = (1 - task_.final_rate / task_.rate) / (static_cast<double>(task_.epochs) * blocks);
    entered_ = left_ = 0;
    ahead_.at(0);
    for (std::size_t i = 0; i < std::min(steps_ahead, count); ++i)
        look_ahead(i);
    for (std::size_t i = 0; i < count; ++i) {
        if (i % same_rate == 0) {
            const double done = before + static_cast<double>(i) / static_cast<double>(count);
            rate_ = static_cast<float>(task_.rate * std::max(1 - done * fall, 1e-4));
        }
        if (i > 0)
            ahead_.at(i);
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

void SkipGramWorker::take(std::size_t begin, std::size_t end) {
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

void SkipGramWorker::look_ahead(std::size_t i) {
    std::int32_t *const draws = draws_of(i);
    for (std::size_t k = 0; k < draws_each_; ++k) {
        draws[k] = draw_negative(task_, random_);
        ask(output(static_cast<std::size_t>(draws[k])), task_.columns);
    }
    ask(output(static_cast<std::size_t>(words_[i])), task_.columns);
    const std::size_t entering = i + task_.window;
    if (task_.parts == nullptr && entering < words_.size())
        ask(input(static_cast<std::size_t>(words_[entering])), task_.columns);
}

void SkipGramWorker::train_centre(std::size_t i) {
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
    const std::int32_t *draws = draws_of(i);
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

void SkipGramWorker::add_input(std::size_t at) {
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

void SkipGramWorker::step(std::size_t i, const std::int32_t *draws) {
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
                  repeated_ ? output_counts_ : nullptr, count, task_.columns, rate_, scratch_.data(), loss_});
}

void SkipGramWorker::train_bag(std::size_t i, std::size_t begin, std::size_t end) {
    context_.clear();
    for (std::size_t at = begin; at < end; ++at)
        if (at != i)
            context_.push_back(task_.parts != nullptr ? static_cast<std::int64_t>(at % slots() * 2 + 1)
                                                      : static_cast<std::int64_t>(words_[at]));
    float *const rows = task_.parts != nullptr ? ring_.data() : task_.inputs;
    float *const before = bag_.data(), *const after = before + task_.columns;
    kernel_.mean(rows, context_.data(), context_.size(), task_.columns, before);
    std::memcpy(after, before, task_.columns * sizeof(float));
    inputs_[0] = after;
    input_counts_[0] = 1;
    num_inputs_ = 1;
    repeated_ = false;
    step(i, draws_of(i));
    kernel_.add_difference(rows, context_.data(), context_.size(), task_.columns, before, after);
}

// ---- words of several rows ----

std::pair<const std::int64_t *, std::size_t> SkipGramWorker::parts(std::size_t at) const {
    const std::int64_t *const offsets = task_.part_offsets + words_[at];
    return {task_.parts + offsets[0], static_cast<std::size_t>(offsets[1] - offsets[0])};
}

void SkipGramWorker::enter() {
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

void SkipGramWorker::leave(std::size_t end) {
    for (; left_ < std::min(end, entered_); ++left_) {
        const auto [ids, count] = parts(left_);
        kernel_.add_difference(task_.inputs, ids, count, task_.columns, before(left_), after(left_));
    }
}

} // namespace shardwise

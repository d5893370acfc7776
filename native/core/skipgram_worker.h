#pragma once
// One thread of a training.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/skipgram.h"
#include "core/skipgram_ahead.h"
#include "core/skipgram_draws.h"

namespace shardwise {

/// Numbers on a boundary of 64 bytes.
class AlignedFloats {
public:
    explicit AlignedFloats(std::size_t size) : bytes_(size * sizeof(float) + 63) {}
    float *data() {
        return reinterpret_cast<float *>((reinterpret_cast<std::uintptr_t>(bytes_.data()) + 63) / 64 * 64);
    }

private:
    std::vector<std::byte> bytes_;
};

class SkipGramWorker {
public:
    SkipGramWorker(const SkipGram &task, const SkipGramOrder &order);

    /// Trains the block that has this place in the epoch.
    void train(std::size_t epoch, std::size_t place);

    const SkipGramProgress &progress() const { return progress_; }

private:
    /// The words of a block that sub-sampling leaves, and the sentence of each.
    void take(std::size_t begin, std::size_t end);
    /// Draws the negatives of a centre word, and asks for the rows that its step will need.
    void look_ahead(std::size_t i);
    void train_centre(std::size_t i);
    void add_input(std::size_t at);
    /// A step of the inputs with the word at `i` and its negatives. One that is that word is passed over.
    void step(std::size_t i, const std::int32_t *draws);
    /// CBOW: the mean of the context words is the input, and each of them gets its whole change.
    void train_bag(std::size_t i, std::size_t begin, std::size_t end);

    // Words of several rows: while one is in the window, it has a row of its own.
    void enter();
    /// Every row of a word changes as the word did.
    void leave(std::size_t end);
    std::pair<const std::int64_t *, std::size_t> parts(std::size_t at) const;
    float *before(std::size_t at) { return ring_.data() + at % slots() * 2 * task_.columns; }
    float *after(std::size_t at) { return before(at) + task_.columns; }

    float *input(std::size_t word) { return task_.inputs + word * task_.columns; }
    float *output(std::size_t word) { return task_.outputs + word * task_.columns; }
    std::size_t slots() const { return 2 * task_.window + 2; }
    std::int32_t *draws_of(std::size_t i) { return draws_.data() + i % (steps_ahead + 1) * draws_each_; }

    const SkipGram &task_;
    const SkipGramOrder &order_;
    const SkipGramKernels &kernel_;
    SkipGramAhead ahead_;
    const std::size_t draws_each_;
    AlignedFloats scratch_;
    AlignedFloats ring_; // of each place two rows: as it came, and as it is now
    AlignedFloats bag_;
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

} // namespace shardwise

#pragma once
// Rows in a file that the memory does not hold: a thread that touches one page after the other waits for the
// disk each time, and a disk answers many questions at once as fast as one.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "core/skipgram.h"
#include "core/skipgram_draws.h"

namespace shardwise {

/// How many negatives a centre word has: a set for each so many context words.
inline std::size_t negatives_each(const SkipGram &task) {
    const std::size_t sets = task.cbow ? 1 : (2 * task.window + task.shared_by - 1) / task.shared_by;
    return sets * task.num_negatives;
}

/// Centre words whose negatives are drawn, and whose rows the processor is asked for.
inline constexpr std::size_t steps_ahead = 3;

/// Draws what a thread will draw, and asks the disk for the rows.
class SkipGramAhead {
public:
    explicit SkipGramAhead(const SkipGram &task) : task_(task) {}

    /// A block begins; `random` is what its centre words will be given.
    void begin(const std::vector<std::int32_t> &words, const Random &random);

    /// Centre word `i` is trained next: at some of them, asks for the rows of many that follow.
    void at(std::size_t i) {
        if (task_.read_ahead && i % piece == 0)
            read_ahead(pages_until(i + 2 * piece));
    }

    /// The pages of the rows that centre words before `end` need, but for those that were given before.
    const std::vector<PageRange> &pages_until(std::size_t end);

private:
    static constexpr std::size_t piece = 1024; // centre words: of some megabytes of pages

    void want_word(std::size_t i);
    void want(const float *row);

    const SkipGram &task_;
    const std::vector<std::int32_t> *words_ = nullptr;
    Random random_{0};
    std::size_t next_ = 0;
    std::vector<PageRange> pages_;
};

} // namespace shardwise

#pragma once
// Skip-gram and CBOW with negative sampling (Mikolov et al., 2013) over a corpus of word ids, with the rows
// of words alone or of their n-grams, too (Bojanowski et al., 2017).
//
// The context words of a centre word share its negatives, so that a step is a small product of matrices: the
// rows of the context words with those of the centre word and its negatives. All changes of a step are those
// of the rows as they were before it.

#include <cstddef>
#include <cstdint>

#include "core/partition.h"

namespace shardwise {

/// Rows are padded to a multiple of so many numbers.
inline constexpr std::size_t row_step = 16;

/// The most rows of context words that a step takes.
inline constexpr std::size_t most_inputs = 16;

/// The most rows of centre and negatives.
inline constexpr std::size_t most_outputs = 64;

/// Where a token ends a sentence in a corpus of ids.
inline constexpr std::int32_t sentence_end = -1;

/// One step: `inputs` against `outputs`, of which the first is the true one and the others are negatives.
struct SkipGramStep {
    float *const *inputs;
    const float *input_counts; // how often each is meant, or null for once each
    std::size_t num_inputs;    // at most most_inputs
    float *const *outputs;     // no row twice
    const float *output_counts;
    std::size_t num_outputs; // at most most_outputs
    std::size_t columns;     // a multiple of row_step
    float rate;
    float *scratch; // step_scratch(columns) numbers, on a boundary of 64 bytes
    double *loss;   // null, or what the loss is added to
};

constexpr std::size_t step_scratch(std::size_t columns) {
    return most_inputs * (columns + most_outputs * (row_step + 1));
}

/// One instruction level's kernels. The sums have 16 lanes everywhere; with multiplications and additions
/// fused from x86-64-v3 on, without below.
struct SkipGramKernels {
    /// inputs += rate * sum of (label - sigmoid(input . output)) * output, and the same for the outputs.
    void (*step)(const SkipGramStep &step);
    /// out = mean of rows.
    void (*mean)(const float *rows, const std::int64_t *ids, std::size_t count, std::size_t columns,
                 float *out);
    /// Each row of `ids` += after - before.
    void (*add_difference)(float *rows, const std::int64_t *ids, std::size_t count, std::size_t columns,
                           const float *before, const float *after);
};

/// The kernels of a level, an index into `level_names` that is less than supported_levels().
const SkipGramKernels &skipgram_kernels(std::size_t level);

/// Vose's alias method: a draw is one random number and one look.
struct AliasEntry {
    std::uint32_t keep; // of 2^32
    std::int32_t other;
};

struct SkipGram {
    const std::int32_t *corpus = nullptr; // ids of words, and sentence_end
    std::size_t corpus_size = 0;

    std::size_t num_words = 0;
    float *inputs = nullptr;  // rows of the words, then those of n-grams; on a boundary of 64 bytes
    float *outputs = nullptr; // rows of the words
    std::size_t columns = 0;  // a multiple of row_step

    const std::int64_t *parts = nullptr; // rows of each word: its own and those of its n-grams; or null
    const std::int64_t *part_offsets = nullptr; // num_words + 1

    const std::uint32_t *keep = nullptr; // of 2^32 occurrences of a word; the greatest means all. Or null
    const AliasEntry *negatives = nullptr;

    bool read_ahead = false; // the rows lie in a file that the memory does not hold
    bool cbow = false;
    std::size_t window = 5;
    std::size_t num_negatives = 5;       // at most most_outputs - 1
    std::size_t shared_by = most_inputs; // context words that share a set of negatives, at most most_inputs
    std::size_t epochs = 5;
    double rate = 0.025;   // at the beginning
    double final_rate = 0; // at the end, and linear between; but at least 1e-4 of the first
    std::uint64_t seed = 1;
};

/// What was done, to be shown.
struct SkipGramProgress {
    std::uint64_t tokens = 0; // of the corpus, before sub-sampling
    std::uint64_t words = 0;  // centre words that were trained
    double loss = 0;          // a sample
    std::uint64_t losses = 0; // pairs of centre and context in the sample
};

/// The corpus is trained in blocks of about so many tokens, cut at an end of a sentence where one is near.
/// Each has random numbers of its own, so that training can go on from any block.
inline constexpr std::size_t block_tokens = 16384;

/// How many blocks an epoch has.
std::size_t skipgram_blocks(std::size_t corpus_size);

/// Where a block of the corpus begins: behind the end of a sentence, if one is near.
std::size_t skipgram_block_begin(const SkipGram &task, std::size_t block);

/// Which block each place of an epoch has. The blocks are taken in steps of the golden ratio (a Weyl
/// sequence), so that each part of an epoch has words of all parts of the corpus: in the order of a text that
/// is several books, what was read last weighs more. Each epoch starts elsewhere.
class SkipGramOrder {
public:
    explicit SkipGramOrder(const SkipGram &task);
    std::size_t block(std::size_t epoch, std::size_t place) const;
    std::size_t blocks() const { return blocks_; }

private:
    const SkipGram &task_;
    std::size_t blocks_;
    std::size_t step_; // has no divisor with `blocks_` but 1
};

/// Trains places [begin, end), counted over all epochs, of a block each, on at most `threads` threads. With
/// one thread the result depends on the arguments and the instruction level alone; with more, threads change
/// rows without waiting for each other (Hogwild: Niu et al., 2011).
SkipGramProgress train_skipgram(const SkipGram &task, std::size_t begin, std::size_t end,
                                std::size_t threads);

/// Fills `entries` for draws in proportion to count^power, of words whose count is not 0: at least one.
void make_alias(const std::int64_t *counts, std::size_t num_words, double power, AliasEntry *entries);

} // namespace shardwise

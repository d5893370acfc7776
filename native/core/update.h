#pragma once
// Gradients applied to rows: sorted by row, those of one row summed in the order of their positions, and the
// row and what the optimizer keeps of it changed in one visit, by one thread.

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/gather.h"
#include "core/pages.h"
#include "core/pool.h"

namespace shardwise {

enum class RuleKind : std::uint8_t { sgd, adagrad, rowwise_adagrad, rmsprop, adam, ftrl };

/// How a gradient changes a row; src/shardwise/optimizers.py has the formulas.
struct Rule {
    RuleKind kind = RuleKind::sgd;
    double learning_rate = 0;
    double weight_decay = 0; // times the row, added to its gradient
    double shrink = 1;       // times the row, before anything else: decay that is no part of the gradient
    double clip_norm = std::numeric_limits<double>::infinity(); // of a row's gradient
    double eps = 0;
    double momentum = 0; // sgd and rmsprop
    bool nesterov = false;
    double beta1 = 0;       // adam
    double beta2 = 0;       // adam; rmsprop's alpha
    bool eps_last = false;  // adam: eps is added to the root before the bias correction, as SparseAdam does
    bool corrected = false; // adam: rows catch up the steps that they sat out
    std::int64_t step = 1;  // of this update, from 1: for adam, and for rounding
    double l1 = 0, l2 = 0, l2_shrinkage = 0; // ftrl; l2 holds beta's part, too
};

/// What a rule keeps of each row, cut like the table: numbers as the sums are made in, or for one slot of
/// adam's, an int64.
struct State {
    const Shard *shards = nullptr; // written to
    std::size_t row_bytes = 0;
};
inline constexpr std::size_t most_states = 3;

/// How many numbers of a row each slot of a rule holds: `dim`, 1, or 0 where there is no such slot. The
/// slots:
///   sgd              momentum buffer, if there is momentum
///   adagrad          sum of squares
///   rowwise_adagrad  sum of the rows' mean squares: 1
///   rmsprop          mean of squares; momentum buffer, if there is momentum
///   adam             mean; mean of squares; if corrected, the last step as an int64: 1
///   ftrl             sum of squares; the linear term
struct Slots {
    std::size_t numbers[most_states];
};
Slots slots_of(const Rule &rule, std::size_t dim);

struct Update {
    Gather rows; // the ids and where their rows lie, of floats, which are written to; `out` is not used

    /// Contiguous rows of `dim` numbers, float64 for float64 rows and else float32: one for each id, or with
    /// `offsets` one for each bag.
    const std::byte *gradients = nullptr;
    bool check_finite = true;

    const std::int64_t *offsets = nullptr; // as in Pool, and so are all to `skip_weightless`
    std::size_t num_bags = 0;
    const void *weights = nullptr;
    Combiner combiner = Combiner::sum;
    bool has_padding = false;
    std::int64_t padding = 0;
    bool skip_negative = false;
    bool skip_weightless = false;

    const std::uint8_t *frozen = nullptr; // num_rows flags: rows that stay as they are; or null
    std::uint64_t frozen_begin = 0;       // and so do the rows of this range
    std::uint64_t frozen_end = 0;

    std::uint8_t *changed = nullptr; // a bit for each row, which is set where the row is changed; or null

    Rule rule;
    State state[most_states];
    bool stochastic = false; // rows of 16 bits are rounded up or down by chance, by this seed and the step
    std::uint64_t seed = 0;
};

/// What is wrong with an update: then nothing was changed.
struct Refused {
    std::size_t id = all_in_range;     // the position of an id outside the table
    std::size_t number = all_in_range; // of a number of the gradients that is not finite
    bool any() const { return id != all_in_range || number != all_in_range; }
};

/// Does it. With `watch`, pages of rows and states that are not in memory are read in ahead.
Refused update(const Update &task, Watch *watch = nullptr);

/// What the kernels are given: gradients that need no more than a weight each, sorted by row. An entry is
/// `row << payload_bits | payload`, of 64 bits or of 128. A payload is the number of a gradient, or where
/// there are `bags`, a position.
struct SortedUpdate {
    const Update *task;
    const void *entries;
    std::size_t count;
    bool wide;
    unsigned payload_bits;
    const std::byte *gradients;
    const std::int64_t *bags;     // of each position
    const void *weights;          // of each position, or null
    const std::uint32_t *winners; // max: of each bag and column, which of its positions was the largest
};

/// How many rows are changed together: no more than fit the first cache beside their sums.
inline constexpr std::size_t most_update_block = 8;
constexpr std::size_t update_block(std::size_t dim) {
    constexpr std::size_t sums = 2048; // numbers
    const std::size_t fitting = dim == 0 ? most_update_block : sums / dim;
    return fitting < 1 ? 1 : fitting < most_update_block ? fitting : most_update_block;
}

/// One instruction level's kernels.
struct UpdateKernels {
    /// Entries [begin, end), which hold all entries of their rows; `scratch`, on a boundary of 64 bytes, has
    /// room for `update_block` rows of sums.
    void (*apply)(const SortedUpdate &work, std::size_t begin, std::size_t end, std::byte *scratch);
    /// The first number of [begin, end) that is not finite, or all_in_range.
    std::size_t (*find_nonfinite)(const Update &task, std::size_t begin, std::size_t end);
    /// The gradients of bags [begin, end), each divided by its divisor; a divisor of 0 gives zeros.
    void (*divide)(const Update &task, const double *divisors, std::byte *out, std::size_t begin,
                   std::size_t end);
    /// `winners` of bags [begin, end); `members` are the rows of all positions: num_rows stands for a row of
    /// zeros, and more for none.
    void (*find_winners)(const Update &task, const std::uint64_t *members, std::uint32_t *winners,
                         std::size_t begin, std::size_t end);
};

} // namespace shardwise

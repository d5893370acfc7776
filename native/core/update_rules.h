#pragma once
// The optimizers' arithmetic on one row, for the kernels alone: this file is compiled once per instruction
// level, in their namespace. src/shardwise/optimizers.py has the formulas and where they come from.

#include "core/resolve.h"
#include "core/update.h"
#include "core/vectors.h"

namespace shardwise::SHARDWISE_LEVEL {
namespace {

/// A row, the sum of its gradients, and its places in the slots.
template <class Number> struct Visit {
    std::byte *row;
    const Number *gradient;
    std::byte *state[most_states];
    Noise noise;
};

/// Rows of `bytes` bytes that are read later, in straight enough code: a few lines each, and as many of all.
struct Lines {
    size_t count = 0;
    size_t last = 0; // in one more; or 0

    Lines() = default;
    Lines(size_t bytes, uintptr_t places) {
        const Ahead ahead = ahead_of(bytes, places);
        count = (ahead.bytes + 63) / 64;
        last = ahead.last ? ahead.bytes - 1 : 0;
    }
    /// Of the rows or of a state of a table.
    Lines(size_t bytes, const Shard *shards)
        : Lines(bytes,
                reinterpret_cast<uintptr_t>(shards[0].data) | static_cast<uintptr_t>(shards[0].stride)) {}
    SHARDWISE_INLINE void ask(const std::byte *row) const {
        if (__builtin_expect(count == 4, 1)) { // 64 float32, a usual size
            prefetch_lines<3, 256>(row);
        } else {
            for (size_t k = 0; k < count; ++k)
                prefetch_byte<3>(row + 64 * k);
        }
        if (last != 0)
            prefetch_byte<3>(row + last);
    }
};

/// Rows that are changed some blocks later: one is asked for with each row that is changed now, for a burst
/// of prefetches would hold up the others.
template <class Number> struct Coming {
    const Visit<Number> *rows;
    size_t count;
    Lines of_row, of_state[most_states];
    size_t num_states;

    SHARDWISE_INLINE void ask(size_t k) const {
        if (k >= count)
            return;
        const Visit<Number> &visit = rows[k];
        of_row.ask(visit.row);
        if (num_states > 0) {
            of_state[0].ask(visit.state[0]);
            for (size_t slot = 1; slot < num_states; ++slot)
                of_state[slot].ask(visit.state[slot]);
        }
    }
};

// What is left of a mean that was multiplied by beta1 so often is nothing beside a row of these numbers.
template <class Number> inline constexpr double powers_of_e = sizeof(Number) == 8 ? -75 : -30;

/// A rule's numbers, as the arithmetic wants them.
template <class Number> struct Constants {
    const Rule &rule;
    size_t dim;
    Number rate, decay, shrink, eps, momentum, beta1, beta2, rest1, rest2, step_size, root_scale;
    Number rate_inverse, l1, twice_l2, twice_shrinkage;
    size_t most_missed = 0; // steps to catch up one by one; after them nothing moves any more

    Constants(const Rule &from, size_t columns)
        : rule(from), dim(columns), rate(static_cast<Number>(from.learning_rate)),
          decay(static_cast<Number>(from.weight_decay)), shrink(static_cast<Number>(from.shrink)),
          eps(static_cast<Number>(from.eps)), momentum(static_cast<Number>(from.momentum)),
          beta1(static_cast<Number>(from.beta1)), beta2(static_cast<Number>(from.beta2)),
          rest1(static_cast<Number>(1 - from.beta1)), rest2(static_cast<Number>(1 - from.beta2)),
          rate_inverse(static_cast<Number>(1 / from.learning_rate)), l1(static_cast<Number>(from.l1)),
          twice_l2(static_cast<Number>(2 * from.l2)),
          twice_shrinkage(static_cast<Number>(2 * from.l2_shrinkage)) {
        const double step = static_cast<double>(from.step);
        const double left1 = 1 - pow(from.beta1, step), left2 = 1 - pow(from.beta2, step);
        step_size = static_cast<Number>(from.learning_rate / left1 * (from.eps_last ? sqrt(left2) : 1));
        root_scale = static_cast<Number>(from.eps_last ? 1 : 1 / sqrt(left2));
        if (from.corrected)
            most_missed =
                from.beta1 <= 0 ? 1 : static_cast<size_t>(powers_of_e<Number> / log(from.beta1)) + 1;
    }
};

template <class T, bool Full>
SHARDWISE_INLINE Chunk<T> slot(const std::byte *state, size_t column, size_t n) {
    return read<Chunk<T>, Full>(state + column * sizeof(T), n);
}

template <bool Full, class T>
SHARDWISE_INLINE void keep(std::byte *state, size_t column, size_t n, const T &value) {
    write<Full>(state + column * sizeof(value[0]), n, value);
}

/// body(full, column, n, row, gradient) for each chunk, the gradient with its decay; what the body leaves in
/// `row` is stored.
template <class Format, class Body>
SHARDWISE_INLINE void change(const Constants<typename Format::Number> &c,
                             const Visit<typename Format::Number> &visit, Body &&body) {
    using T = typename Format::Number;
    std::byte *const numbers = visit.row; // known once: what is stored could be any of them, else
    const T *const gradients = visit.gradient;
    const T decay = c.decay;
    for_chunks<T>(c.dim, [&](auto full, size_t column, size_t n) __attribute__((always_inline)) {
        constexpr bool Full = decltype(full)::value;
        Chunk<T> row = Format::template load<Full>(numbers + column * Format::bytes, n);
        Chunk<T> gradient = read<Chunk<T>, Full>(gradients + column, n);
        if (decay != 0)
            gradient += row * decay;
        body(full, column, n, row, gradient);
        Format::template store<Full>(numbers + column * Format::bytes, n, row, visit.noise, column);
    });
}

template <class Format>
SHARDWISE_INLINE void sgd(const Constants<typename Format::Number> &c,
                          const Visit<typename Format::Number> &visit) {
    using T = typename Format::Number;
    change<Format>(c, visit, [&](auto full, size_t column, size_t n, Chunk<T> &row, Chunk<T> gradient) {
        constexpr bool Full = decltype(full)::value;
        if (c.momentum != 0) {
            const Chunk<T> buffer = slot<T, Full>(visit.state[0], column, n) * c.momentum + gradient;
            keep<Full>(visit.state[0], column, n, buffer);
            gradient = c.rule.nesterov ? gradient + buffer * c.momentum : buffer;
        }
        row -= gradient * c.rate;
    });
}

template <class Format>
SHARDWISE_INLINE void adagrad(const Constants<typename Format::Number> &c,
                              const Visit<typename Format::Number> &visit) {
    using T = typename Format::Number;
    change<Format>(c, visit, [&](auto full, size_t column, size_t n, Chunk<T> &row, Chunk<T> gradient) {
        constexpr bool Full = decltype(full)::value;
        const Chunk<T> sum = slot<T, Full>(visit.state[0], column, n) + gradient * gradient;
        keep<Full>(visit.state[0], column, n, sum);
        row -= gradient * c.rate / (root(sum) + c.eps);
    });
}

/// A block at a time, so that the roots and the quotients of its rows do not wait for each other.
template <class Format>
void rowwise_adagrad(const Constants<typename Format::Number> &shared,
                     const Visit<typename Format::Number> *visits, size_t count,
                     const Coming<typename Format::Number> &coming) {
    using T = typename Format::Number;
    static_assert(most_update_block <= lanes<T>);
    const Constants<T> c = shared;
    const T decay = c.decay;
    T squares[lanes<T>] = {}, old[lanes<T>] = {};
    for (size_t k = 0; k < count; ++k) {
        const Visit<T> &visit = visits[k];
        const std::byte *const numbers = visit.row;
        const T *const gradients = visit.gradient;
        Chunk<T> total = {};
        for_chunks<T>(c.dim, [&](auto full, size_t column, size_t n) __attribute__((always_inline)) {
            constexpr bool Full = decltype(full)::value;
            Chunk<T> gradient = read<Chunk<T>, Full>(gradients + column, n);
            if (decay != 0)
                gradient += Format::template load<Full>(numbers + column * Format::bytes, n) * decay;
            total += gradient * gradient;
        });
        squares[k] = sum_of<T>(total);
        memcpy(&old[k], visit.state[0], sizeof(T));
    }
    const Chunk<T> sums = load<Chunk<T>>(old) + load<Chunk<T>>(squares) / static_cast<T>(c.dim);
    const Chunk<T> quotients = c.rate / (root(sums) + c.eps);
    T now[lanes<T>], rates[lanes<T>];
    memcpy(now, &sums, sizeof now);
    memcpy(rates, &quotients, sizeof rates);
    for (size_t k = 0; k < count; ++k) {
        memcpy(visits[k].state[0], &now[k], sizeof(T));
        coming.ask(k);
        const T rate = rates[k];
        change<Format>(c, visits[k],
                       [&](auto, size_t, size_t, Chunk<T> &row, const Chunk<T> &gradient)
                           __attribute__((always_inline)) { row -= gradient * rate; });
    }
    for (size_t k = count; k < coming.count; ++k)
        coming.ask(k);
}

template <class Format>
SHARDWISE_INLINE void rmsprop(const Constants<typename Format::Number> &c,
                              const Visit<typename Format::Number> &visit) {
    using T = typename Format::Number;
    change<Format>(c, visit,
                   [&](auto full, size_t column, size_t n, Chunk<T> &row, const Chunk<T> &gradient) {
                       constexpr bool Full = decltype(full)::value;
                       const Chunk<T> mean =
                           slot<T, Full>(visit.state[0], column, n) * c.beta2 + gradient * gradient * c.rest2;
                       keep<Full>(visit.state[0], column, n, mean);
                       Chunk<T> step = gradient / (root(mean) + c.eps);
                       if (c.momentum != 0) {
                           step += slot<T, Full>(visit.state[1], column, n) * c.momentum;
                           keep<Full>(visit.state[1], column, n, step);
                       }
                       row -= step * c.rate;
                   });
}

/// What steps of which the gradient was zero would have done.
template <class T> struct Missed {
    size_t steps = 0;                           // one by one
    T power1 = 0, power2 = 0;                   // the betas to the power of the last step before them
    T after1 = 1, after2 = 1, after_shrink = 1; // for those that are left then

    Missed(const Constants<T> &c, std::byte *last_step) {
        int64_t last;
        memcpy(&last, last_step, sizeof last);
        memcpy(last_step, &c.rule.step, sizeof last);
        if (last < 0 || last >= c.rule.step - 1)
            return;
        const auto missed = static_cast<uint64_t>(c.rule.step - 1 - last);
        if (last > 0) // else there is no mean yet, and only the row shrinks
            steps = missed < c.most_missed ? static_cast<size_t>(missed) : c.most_missed;
        const Rule &rule = c.rule;
        const auto before = static_cast<double>(last), after = static_cast<double>(missed - steps);
        power1 = static_cast<T>(pow(rule.beta1, before));
        power2 = static_cast<T>(pow(rule.beta2, before));
        after1 = static_cast<T>(pow(rule.beta1, after));
        after2 = static_cast<T>(pow(rule.beta2, after));
        after_shrink = static_cast<T>(pow(rule.shrink, after));
    }

    SHARDWISE_INLINE void catch_up(const Constants<T> &c, Chunk<T> &row, Chunk<T> &mean,
                                   Chunk<T> &squares) const {
        T left1 = power1, left2 = power2;
        for (size_t k = 0; k < steps; ++k) {
            left1 *= c.beta1;
            left2 *= c.beta2;
            mean *= c.beta1;
            squares *= c.beta2;
            row = row * c.shrink - mean * (c.rate / (1 - left1)) / (root(squares) / root(1 - left2) + c.eps);
        }
        row *= after_shrink;
        mean *= after1;
        squares *= after2;
    }
};

template <class Format>
SHARDWISE_INLINE void adam(const Constants<typename Format::Number> &c,
                           const Visit<typename Format::Number> &visit) {
    using T = typename Format::Number;
    const auto step = [&](auto corrects) {
        constexpr bool Corrects = decltype(corrects)::value;
        std::byte unused[8] = {};
        const Missed<T> missed(c, Corrects ? visit.state[2] : unused);
        change<Format>(c, visit, [&](auto full, size_t column, size_t n, Chunk<T> &row, Chunk<T> gradient) {
            constexpr bool Full = decltype(full)::value;
            Chunk<T> mean = slot<T, Full>(visit.state[0], column, n);
            Chunk<T> squares = slot<T, Full>(visit.state[1], column, n);
            if constexpr (Corrects)
                missed.catch_up(c, row, mean, squares);
            mean += (gradient - mean) * c.rest1;
            squares = squares * c.beta2 + gradient * gradient * c.rest2;
            keep<Full>(visit.state[0], column, n, mean);
            keep<Full>(visit.state[1], column, n, squares);
            row = row * c.shrink - mean * c.step_size / (root(squares) * c.root_scale + c.eps);
        });
    };
    if (c.rule.corrected)
        step(Truth<true>{});
    else
        step(Truth<false>{});
}

template <class Format>
SHARDWISE_INLINE void ftrl(const Constants<typename Format::Number> &c,
                           const Visit<typename Format::Number> &visit) {
    using T = typename Format::Number;
    change<Format>(c, visit,
                   [&](auto full, size_t column, size_t n, Chunk<T> &row, const Chunk<T> &gradient) {
                       constexpr bool Full = decltype(full)::value;
                       const Chunk<T> old = slot<T, Full>(visit.state[0], column, n);
                       const Chunk<T> sum = old + gradient * gradient;
                       const Chunk<T> sigma = (root(sum) - root(old)) * c.rate_inverse;
                       const Chunk<T> linear = slot<T, Full>(visit.state[1], column, n) +
                                               ((gradient + row * c.twice_shrinkage) - sigma * row);
                       keep<Full>(visit.state[0], column, n, sum);
                       keep<Full>(visit.state[1], column, n, linear);
                       const Chunk<T> most = Chunk<T>{} + c.l1, least = -most;
                       const Chunk<T> above = choose<T>(linear < least, least, linear);
                       const Chunk<T> clipped = choose<T>(linear > most, most, above);
                       row = (clipped - linear) / (root(sum) * c.rate_inverse + c.twice_l2);
                   });
}

template <class Number>
using Apply = void (*)(const Constants<Number> &, const Visit<Number> *, size_t, const Coming<Number> &);

/// A rule for one row, for all rows of a block.
template <class Format, auto Rule>
void each_row(const Constants<typename Format::Number> &shared, const Visit<typename Format::Number> *visits,
              size_t count, const Coming<typename Format::Number> &coming) {
    const Constants<typename Format::Number> c = shared; // its own: what is stored could be any of them, else
    for (size_t k = 0; k < count; ++k) {
        coming.ask(k);
        Rule(c, visits[k]);
    }
    for (size_t k = count; k < coming.count; ++k)
        coming.ask(k);
}

template <class Format> Apply<typename Format::Number> choose_rule(RuleKind kind) {
    switch (kind) {
    case RuleKind::adagrad:
        return each_row<Format, adagrad<Format>>;
    case RuleKind::rowwise_adagrad:
        return rowwise_adagrad<Format>;
    case RuleKind::rmsprop:
        return each_row<Format, rmsprop<Format>>;
    case RuleKind::adam:
        return each_row<Format, adam<Format>>;
    case RuleKind::ftrl:
        return each_row<Format, ftrl<Format>>;
    case RuleKind::sgd:
        break;
    }
    return each_row<Format, sgd<Format>>;
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

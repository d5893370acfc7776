#pragma once
// What a training draws: random numbers, and words in proportion to their counts.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/cpu.h"
#include "core/skipgram.h"

namespace shardwise {

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

/// What the first draw of a block of the corpus is made of.
inline Random random_of(const SkipGram &task, std::size_t epoch, std::size_t block) {
    return Random(Random::fold(task.seed ^ 0x8ebc6af09c88c6e3U,
                               Random::fold(epoch + 1, 0x589965cc75374cc3U) ^ (block + 0x1d8e4e27c47d124fU)));
}

/// A negative: Vose's alias method.
inline std::int32_t draw_negative(const SkipGram &task, Random &random) {
    const auto [place, rest] = random.below(task.num_words);
    const AliasEntry &entry = task.negatives[place];
    return rest < entry.keep ? static_cast<std::int32_t>(place) : entry.other;
}

} // namespace shardwise

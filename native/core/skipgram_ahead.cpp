#include "core/skipgram_ahead.h"

#include <algorithm>

#include "core/huge_pages.h"

namespace shardwise {

void SkipGramAhead::begin(const std::vector<std::int32_t> &words, const Random &random) {
    words_ = &words;
    random_ = random;
    next_ = 0;
}

const std::vector<PageRange> &SkipGramAhead::pages_until(std::size_t end) {
    const std::size_t count = words_->size();
    pages_.clear();
    if (next_ == 0)
        for (std::size_t i = 0; i < std::min(steps_ahead, count); ++i)
            want_word(i);
    for (end = std::min(end, count); next_ < end; ++next_) {
        if (next_ + steps_ahead < count)
            want_word(next_ + steps_ahead);
        random_(); // how far its context reaches
    }
    join(pages_);
    return pages_;
}

void SkipGramAhead::want_word(std::size_t i) {
    for (std::size_t k = 0; k < negatives_each(task_); ++k)
        want(task_.outputs + static_cast<std::size_t>(draw_negative(task_, random_)) * task_.columns);
    const auto word = static_cast<std::size_t>((*words_)[i]);
    want(task_.outputs + word * task_.columns);
    if (task_.parts == nullptr)
        return want(task_.inputs + word * task_.columns);
    for (std::int64_t at = task_.part_offsets[word]; at < task_.part_offsets[word + 1]; ++at)
        want(task_.inputs + static_cast<std::size_t>(task_.parts[at]) * task_.columns);
}

void SkipGramAhead::want(const float *row) {
    const std::uintptr_t mask = small_page_bytes() - 1;
    const auto begin = reinterpret_cast<std::uintptr_t>(row);
    pages_.push_back({begin & ~mask, (begin + task_.columns * sizeof(float) + mask) & ~mask});
}

} // namespace shardwise

#pragma once
// The rows of the ids of bags, found some way ahead of their use, for the kernels alone: this file is
// compiled once per instruction level, in their namespace.

#include "core/pool.h"
#include "core/resolve.h"

#include <string.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

/// Which ids are no part of their bag.
struct Skip {
    static constexpr bool never = false;
    const Pool &task;
    size_t begin;
    SHARDWISE_INLINE bool operator()(size_t i, uint64_t id) const {
        if (task.has_padding && id == static_cast<uint64_t>(task.padding))
            return true;
        if (task.skip_negative && static_cast<int64_t>(id) < 0 && task.rows.id_type != IdType::u64)
            return true;
        if (!task.skip_weightless || task.weights == nullptr)
            return false;
        if (task.rows.format == RowFormat::float64)
            return !(static_cast<const double *>(task.weights)[begin + i] > 0);
        return !(static_cast<const float *>(task.weights)[begin + i] > 0);
    }
};

SHARDWISE_INLINE bool skips_ids(const Pool &task) {
    return task.has_padding || task.skip_negative || task.skip_weightless;
}

/// Where rows of ids [begin, begin + count) of a task lie, null for those that are no part of their bag;
/// returns how many there are before the first one that is refused.
SHARDWISE_INLINE size_t find_rows(const Pool &task, size_t begin, size_t count, const std::byte **rows) {
    if (skips_ids(task))
        return choose_resolve<Skip>(task.rows)(task.rows, begin, count, rows, Skip{task, begin});
    return choose_resolve<NoSkip>(task.rows)(task.rows, begin, count, rows, NoSkip{});
}

/// Bytes [begin, end) of an array that is read in its order: the processor's own prefetcher loses sight of it
/// between rows at random. For ids and weights it took 0.9 of the time.
SHARDWISE_INLINE void ask_for(const void *array, size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += 64)
        prefetch_byte<3>(static_cast<const std::byte *>(array) + at);
}

/// A place among the ids of pieces, which come one after the other.
class Cursor {
public:
    Cursor(const PoolPiece *pieces, size_t count) : piece_(pieces), end_(pieces + count) {
        if (piece_ != end_)
            begin();
    }
    size_t id() const { return id_; } // of the piece's task
    /// Goes on by `count` ids, no more than there are, or until `body(task, first, n)` takes fewer than the n
    /// it is given, of one task each time; returns how many it went.
    template <class Body> SHARDWISE_INLINE size_t go(size_t count, const Body &body) {
        size_t gone = 0;
        while (gone < count) {
            for (; id_ == last_; begin())
                if (++piece_ == end_)
                    return gone;
            const size_t n = count - gone < last_ - id_ ? count - gone : last_ - id_;
            const size_t taken = body(*piece_->task, id_, n);
            gone += taken;
            id_ += taken;
            if (taken < n)
                return gone;
        }
        return gone;
    }

private:
    void begin() {
        id_ = static_cast<size_t>(piece_->task->offsets[piece_->begin]);
        last_ = static_cast<size_t>(piece_->task->offsets[piece_->end]);
    }
    const PoolPiece *piece_;
    const PoolPiece *end_;
    size_t id_ = 0, last_ = 0;
};

/// Where the rows of the ids of pieces lie. Positions count the ids of all pieces, from 0 on: while the last
/// rows of one are combined, the first of the next are on their way.
class Window {
public:
    // Ids are taken some at a time, in groups that hold whole bags or parts of them. With 128 ids, of which
    // 256 are resolved together, sums of rows in the caches took 0.85 of the time of 64 and 128.
    static constexpr size_t group_ids = 128;
    static constexpr size_t batch = 256;

    Window(const PoolPiece *pieces, size_t count, const Ahead &ahead)
        : ahead_(ahead.bytes <= 256 ? most_ahead : ahead_bytes / ahead.bytes), found_(pieces, count) {
        for (size_t k = 0; k < count; ++k)
            stop_ += static_cast<size_t>(pieces[k].task->offsets[pieces[k].end] -
                                         pieces[k].task->offsets[pieces[k].begin]);
    }

    /// Resolves at least the ids before `next` and those that are asked for then; ids before `at` are done
    /// with. False if one before `next` is refused: it is refused() then.
    SHARDWISE_INLINE bool advance(size_t at, size_t next) {
        const size_t wanted = next + ahead_ < stop_ ? next + ahead_ : stop_;
        if (known_ < wanted)
            resolve(at, wanted + batch < stop_ ? wanted + batch : stop_);
        return known_ >= next;
    }

    size_t known() const { return known_; }
    size_t refused() const { return found_.id(); }
    const std::byte *const *from(size_t position) const { return rows_ + (position - origin_); }
    /// How many rows behind the one that is read another is asked for.
    size_t ahead() const { return ahead_; }
    /// How many of ids [at, next) are such that the one so far behind is known.
    size_t later(size_t at, size_t next) const {
        const size_t end = known_ < at + ahead_ ? at : known_ - ahead_;
        return (end < next ? end : next) - at;
    }

private:
    // Rows that are asked for ahead, into the first cache: of 4,000,000 rows of 128 bytes it took 0.9 of the
    // time of the second, and 0.7 of that of 32 rows. But they must fit it beside what is summed: 24 rows of
    // 512 bytes took 0.84 of the time of 64.
    static constexpr size_t most_ahead = 64;
    static constexpr size_t ahead_bytes = 12 << 10;
    static constexpr size_t size = 1024;
    static_assert(size >= group_ids + most_ahead + batch);

    __attribute__((noinline)) void resolve(size_t at, size_t to) {
        if (to - origin_ > size) {
            memmove(rows_, rows_ + (at - origin_), (known_ - at) * sizeof rows_[0]);
            origin_ = at;
        }
        const size_t count = to - known_;
        const std::byte **const place = rows_ + (known_ - origin_);
        size_t done = 0;
        found_.go(count, [&](const Pool &task, size_t first, size_t n) {
            const size_t found = find_rows(task, first, n, place + done);
            done += found;
            return found;
        });
        known_ += done;
        if (done < count)
            stop_ = known_;
        Cursor next = found_;
        next.go(known_ + batch < stop_ ? batch : stop_ - known_,
                [](const Pool &task, size_t first, size_t n) {
                    const size_t id_size = size_of(task.rows.id_type);
                    ask_for(task.rows.ids, first * id_size, (first + n) * id_size);
                    if (task.weights != nullptr) {
                        const size_t weight_size = task.rows.format == RowFormat::float64 ? 8 : 4;
                        ask_for(task.weights, first * weight_size, (first + n) * weight_size);
                    }
                    return n;
                });
    }

    size_t ahead_;
    size_t origin_ = 0, known_ = 0, stop_ = 0;
    Cursor found_;
    const std::byte *rows_[size];
};

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

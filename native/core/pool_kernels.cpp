// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/clip.h"
#include "core/pool_tile.h"

#include <string.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

/// Rows scaled down to the norm, in `scratch`: in their own format, of quantized ones as float32.
template <class Row>
void clip_rows(const Pool &task, const std::byte **rows, size_t count, std::byte *scratch) {
    const size_t dim = task.rows.dim;
    const size_t bytes = is_quantized<Row> ? dim * sizeof(float) : task.rows.row_bytes;
    for (size_t i = 0; i < count; ++i, scratch += bytes) {
        if constexpr (is_quantized<Row>)
            convert<Row, WriteFloat32>(scratch, rows[i], dim);
        else
            memcpy(scratch, rows[i], bytes);
        switch (task.rows.format) {
        case RowFormat::float16:
            clip_row<Float16>(scratch, dim, task.rows.max_norm);
            break;
        case RowFormat::bfloat16:
            clip_row<Bfloat16>(scratch, dim, task.rows.max_norm);
            break;
        case RowFormat::float64:
            clip_row<Plain<double>>(scratch, dim, task.rows.max_norm);
            break;
        default:
            clip_row<Plain<float>>(scratch, dim, task.rows.max_norm);
            break;
        }
        rows[i] = scratch;
    }
}

template <class Row, class Op>
void combine_clipped(const Pool &task, Group<typename Row::Acc> &group, size_t count, size_t first,
                     size_t last, std::byte *scratch) {
    if (!task.rows.clips())
        return combine<Row, Op>(group, task.rows.dim, first, last);
    const std::byte *clipped[group_ids + group_parts];
    memcpy(clipped, group.rows, count * sizeof clipped[0]);
    clip_rows<Row>(task, clipped, count, scratch);
    group.rows = clipped;
    if constexpr (is_quantized<Row>)
        combine<Float32Row, Op>(group, task.rows.dim, first, last);
    else
        combine<Row, Op>(group, task.rows.dim, first, last);
}

/// How many whole bags from `bag` on make up a group, of which the first begins with id `at`; 0 where the
/// group has a part of a bag. Bags of one id took 37 ns each by the common way, and take 23.
size_t whole_bags(const Pool &task, size_t bag, size_t end, size_t at) {
    if (static_cast<size_t>(task.offsets[bag]) != at)
        return 0;
    size_t bags = 0;
    while (bags < group_ids && bag + bags < end &&
           static_cast<size_t>(task.offsets[bag + bags + 1]) <= at + group_ids)
        ++bags;
    return bags;
}

/// Combines the bags of pieces, one after the other. Where a bag is too large for a group its sums so far
/// wait in `acc`.
template <class Row, class Op> class Run {
public:
    using Acc = typename Row::Acc;

    Run(const PoolPiece *pieces, size_t count, size_t first, size_t last, bool stream, std::byte *scratch)
        : pieces_(pieces), count_(count), first_(first), last_(last), ahead_(ahead_of_all()),
          window_(pieces, count, ahead_) {
        const size_t dim = pieces->task->rows.dim;
        clipped_ = scratch + ((dim * sizeof(Acc) + 63) & ~size_t{63});
        group_.parts = parts_;
        group_.ahead = ahead_;
        group_.stream = stream;
        group_.acc = reinterpret_cast<Acc *>(scratch);
    }

    size_t run() {
        window_.advance(0, 0);
        for (size_t i = 0; i < window_.known() && i < window_.ahead(); ++i)
            prefetch<3>(*window_.from(i), ahead_);
        for (size_t k = 0; k < count_; ++k) {
            const Pool &task = *pieces_[k].task;
            if (k + 1 < count_) { // its offsets, which are read first
                const PoolPiece &next = pieces_[k + 1];
                ask_for(next.task->offsets, next.begin * sizeof(int64_t), (next.end + 1) * sizeof(int64_t));
            }
            if (!run_piece(task, pieces_[k].begin, pieces_[k].end))
                return window_.refused();
        }
        return all_in_range;
    }

private:
    /// What to ask for of rows of any of the pieces.
    Ahead ahead_of_all() const {
        Ahead all = ahead_of(pieces_->task->rows);
        for (size_t k = 1; k < count_; ++k)
            all.last |= ahead_of(pieces_[k].task->rows).last;
        return all;
    }

    /// False if an id was refused.
    bool run_piece(const Pool &task, size_t begin, size_t end) {
        const bool is_mean = task.combiner == Combiner::mean, is_sqrtn = task.combiner == Combiner::sqrtn;
        const std::byte *default_row = nullptr;
        if (task.has_default) {
            Gather one = task.rows;
            one.ids = &task.default_row;
            one.id_type = IdType::u64;
            choose_resolve<NoSkip>(one)(one, 0, 1, &default_row, NoSkip{});
        }
        const Acc *const weights = static_cast<const Acc *>(task.weights);
        const bool selects = skips_ids(task) || task.has_default; // rows are others than those of the ids
        group_.combiner = task.combiner;
        group_.out_stride = task.out_stride;
        group_.out_format = task.out_format;
        size_t at = static_cast<size_t>(task.offsets[begin]); // the next id, and where the window has it
        const size_t shift = position_ - at;
        position_ += static_cast<size_t>(task.offsets[end]) - at;
        size_t members = 0; // of the bag that is not closed yet
        for (size_t bag = begin; bag < end;) {
            const size_t start = at;
            size_t count = 0; // rows of the group
            const size_t bags = selects || task.rows.clips() ? 0 : whole_bags(task, bag, end, at);
            if (bags > 0) {
                const size_t next = static_cast<size_t>(task.offsets[bag + bags]);
                if (!window_.advance(start + shift, next + shift))
                    return false;
                group_.later = window_.later(start + shift, next + shift);
                if (group_.later == next - start) { // else the last ids, which go by the common way
                    group_.num_parts = bags;
                    group_.bounds = task.offsets + bag;
                    group_.out = task.out + static_cast<ptrdiff_t>(bag) * task.out_stride;
                    group_.rows = window_.from(start + shift);
                    group_.weights = Op::weighted ? weights + start : nullptr;
                    group_.soon = window_.from(start + shift + window_.ahead());
                    combine<Row, Op>(group_, task.rows.dim, first_, last_);
                    bag += bags;
                    at = next;
                    continue;
                }
            }
            group_.bounds = nullptr;
            for (group_.num_parts = 0;
                 bag < end && group_.num_parts < group_parts && at < start + group_ids;) {
                const size_t bag_begin = static_cast<size_t>(task.offsets[bag]);
                const size_t bag_end = static_cast<size_t>(task.offsets[bag + 1]);
                if (bag_end > start + group_ids && at != start)
                    break; // the next group has all of it, or more
                const size_t next = bag_end < start + group_ids ? bag_end : start + group_ids;
                if (!window_.advance(start + shift, next + shift))
                    return false;
                Part<Acc> &part = parts_[group_.num_parts++];
                part.opens = at == bag_begin;
                part.closes = next == bag_end;
                if (part.opens)
                    members = 0;
                const size_t before = count;
                if (selects) {
                    for (; at < next; ++at) {
                        const std::byte *const row = *window_.from(at + shift);
                        if (row == nullptr)
                            continue;
                        selected_[count] = row;
                        selected_weights_[count++] = weights == nullptr ? 1 : weights[at];
                    }
                } else {
                    count += next - at;
                }
                members += count - before;
                at = next;
                part.divisor = 1;
                part.is_zero = false;
                part.weighed = false;
                if (part.closes) {
                    part.out = task.out + static_cast<ptrdiff_t>(bag++) * task.out_stride;
                    if (members == 0) {
                        part.is_zero = default_row == nullptr;
                        if (!part.is_zero) {
                            selected_[count] = default_row;
                            selected_weights_[count++] = 1;
                        }
                    } else if (is_mean || is_sqrtn) {
                        part.weighed = weights != nullptr;
                        part.divisor = is_mean ? static_cast<Acc>(members) : root(static_cast<Acc>(members));
                    }
                }
                part.end = count;
            }
            group_.rows = selects ? selected_ : window_.from(start + shift);
            group_.weights = selects ? selected_weights_ : Op::weighted ? weights + start : nullptr;
            group_.soon = window_.from(start + shift + window_.ahead());
            group_.later = window_.later(start + shift, at + shift);
            combine_clipped<Row, Op>(task, group_, count, first_, last_, clipped_);
            group_.total = group_.next_total;
        }
        return true;
    }

    const PoolPiece *const pieces_;
    const size_t count_, first_, last_;
    const Ahead ahead_;
    Window window_;
    size_t position_ = 0; // in the window, of the next piece
    std::byte *clipped_;
    Group<Acc> group_{};
    Part<Acc> parts_[group_parts];
    const std::byte *selected_[group_ids + group_parts];
    Acc selected_weights_[group_ids + group_parts];
};

template <class Row, class Op>
size_t run(const PoolPiece *pieces, size_t count, size_t first, size_t last, bool stream,
           std::byte *scratch) {
    const size_t refused = Run<Row, Op>(pieces, count, first, last, stream, scratch).run();
#if defined(__SSE2__)
    if (stream)
        _mm_sfence();
#endif
    return refused;
}

template <class Row>
size_t run_row(const PoolPiece *pieces, size_t count, size_t first, size_t last, bool stream,
               std::byte *scratch) {
    const Pool &task = *pieces->task;
    const bool weighted = task.weights != nullptr;
    if (task.combiner == Combiner::max)
        return weighted ? run<Row, MaxWeighted>(pieces, count, first, last, stream, scratch)
                        : run<Row, Max>(pieces, count, first, last, stream, scratch);
    return weighted ? run<Row, AddWeighted>(pieces, count, first, last, stream, scratch)
                    : run<Row, Add>(pieces, count, first, last, stream, scratch);
}

} // namespace

size_t pool(const PoolPiece *pieces, size_t count, size_t first, size_t last, bool stream,
            std::byte *scratch) {
    switch (pieces->task->rows.format) {
    case RowFormat::float16:
        return run_row<Float16Row>(pieces, count, first, last, stream, scratch);
    case RowFormat::bfloat16:
        return run_row<Bfloat16Row>(pieces, count, first, last, stream, scratch);
    case RowFormat::float64:
        return run_row<Float64Row>(pieces, count, first, last, stream, scratch);
    case RowFormat::int8:
        return run_row<Int8Row>(pieces, count, first, last, stream, scratch);
    case RowFormat::int4:
        return run_row<Int4Row>(pieces, count, first, last, stream, scratch);
    case RowFormat::float32:
    case RowFormat::opaque:
        break;
    }
    return run_row<Float32Row>(pieces, count, first, last, stream, scratch);
}

} // namespace shardwise::SHARDWISE_LEVEL

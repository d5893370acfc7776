// Compiled once per instruction level, with SHARDWISE_LEVEL as its namespace. No standard C++ headers with
// code in them here: an inline function emitted with wide instructions could be the one that the linker keeps
// for everyone.

#include "core/clip.h"
#include "core/gather.h"
#include "core/resolve.h"
#include "core/rows.h"

#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

// Rows are prefetched a distance before they are copied, one for each that is copied: a burst of prefetches
// would hold up the copies. They are resolved before that, some at a time. What is on its way must fit the
// first cache beside what is copied, so the distance is one in bytes: 15 rows of 400 bytes took 0.85 of
// the time of 64, in memory and in the caches. Of small rows 64, for 32 do not cover the wait for memory.
constexpr size_t ahead_bytes = 6 << 10;
constexpr size_t most_ahead = 64;
//
// Of small rows of a table in one piece many are resolved together: 0.85 of the time for 64 bytes, but 1.04
// for 256, and 1.1 with shards, for the copies wait meanwhile.
constexpr size_t step_small = 64;
constexpr size_t step_other = 16;
constexpr size_t small_bytes = 256;
constexpr size_t ring_size = 128;
static_assert(ring_size >= most_ahead + step_small);

// ---- copies ----

#if defined(__AVX512F__)
/// Whole lines, in straight code; both places move on.
template <size_t Lines> SHARDWISE_INLINE void copy_lines(std::byte *&to, const std::byte *&from) {
    for (size_t at = 0; at < 64 * Lines; at += 64)
        memcpy(to + at, from + at, 64);
    to += 64 * Lines;
    from += 64 * Lines;
}
#endif

SHARDWISE_INLINE void copy_row(std::byte *to, const std::byte *from, size_t bytes) {
    if (bytes >= 64) {
#if defined(__AVX512F__)
        // 0.9 of memcpy's time for rows of 400 bytes that are in a cache; with narrower moves memcpy is
        // faster.
        if (bytes < 1024) {
            if (bytes & 512)
                copy_lines<8>(to, from);
            if (bytes & 256)
                copy_lines<4>(to, from);
            if (bytes & 128)
                copy_lines<2>(to, from);
            if (bytes & 64)
                copy_lines<1>(to, from);
            const size_t rest = bytes % 64;
            memcpy(to + rest - 64, from + rest - 64, 64);
            return;
        }
#endif
        memcpy(to, from, bytes);
    } else if (bytes >= 16) {
        memcpy(to, from, 16);
        if (bytes > 32)
            memcpy(to + 16, from + 16, 16);
        if (bytes > 48)
            memcpy(to + 32, from + 32, 16);
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else {
        for (size_t at = 0; at < bytes; ++at)
            to[at] = from[at];
    }
}

/// `Bytes`: a size that is known at compile time becomes the widest moves that the level has; else 0.
template <size_t Bytes> struct Copy {
    static constexpr size_t size = Bytes;
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t bytes) const {
        if constexpr (Bytes != 0)
            memcpy(to, from, Bytes);
        else
            copy_row(to, from, bytes);
    }
};

/// Rows that are written in another format than theirs.
struct ConvertRow {
    static constexpr size_t size = 0;
    Convert convert;
    size_t dim;
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t) const {
        convert(to, from, dim);
    }
};

#if defined(__SSE2__)
// What is written past the caches:

/// Rows of whole lines. `Bytes` as for Copy.
template <size_t Bytes> struct StreamLines {
    static constexpr size_t size = Bytes;
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t bytes) const {
        for (size_t at = 0; at < (Bytes != 0 ? Bytes : bytes); at += 64)
            stream64(to + at, from + at);
    }
};

/// Rows of a multiple of 16 bytes, to a multiple of 16: they follow each other, so the lines that two of them
/// share are filled too before they leave.
struct StreamParts {
    static constexpr size_t size = 0;
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t bytes) const {
        size_t at = 0;
        for (; at < bytes && (reinterpret_cast<uintptr_t>(to) + at) % 64 != 0; at += 16)
            stream16(to + at, from + at);
        for (; at + 64 <= bytes; at += 64)
            stream64(to + at, from + at);
        for (; at < bytes; at += 16)
            stream16(to + at, from + at);
    }
};
#endif

// ---- norms ----

void clip_rows(const Gather &task, std::byte *rows, size_t count) {
    const size_t bytes = task.out_row_bytes();
    for (size_t i = 0; i < count; ++i) {
        std::byte *const row = rows + i * bytes;
        switch (task.converts() ? task.out_format : task.format) {
        case RowFormat::float16:
            clip_row<Float16>(row, task.dim, task.max_norm);
            break;
        case RowFormat::bfloat16:
            clip_row<Bfloat16>(row, task.dim, task.max_norm);
            break;
        case RowFormat::float32:
            clip_row<Plain<float>>(row, task.dim, task.max_norm);
            break;
        case RowFormat::float64:
            clip_row<Plain<double>>(row, task.dim, task.max_norm);
            break;
        default:
            return;
        }
    }
}

// ---- the pass ----

template <class Copier> size_t run(const Gather &task, size_t begin, size_t end, const Copier &copy = {}) {
    const Resolve<NoSkip> find = choose_resolve<NoSkip>(task);
    const size_t bytes = task.out_row_bytes();
    const Ahead asked = ahead_of(task);
    const size_t fitting = ahead_bytes / (asked.bytes != 0 ? asked.bytes : 1);
    const size_t ahead = fitting < most_ahead ? fitting : most_ahead;
    const size_t step =
        task.partition.strategy == Strategy::whole && bytes < small_bytes ? step_small : step_other;
    const std::byte *ring[ring_size];
    size_t known = begin; // rows before it are resolved
    size_t stop = end;    // the first id that has no row, once it is met
    const auto resolve_to = [&](size_t to) {
        if (to > stop)
            to = stop;
        while (known < to) {
            const size_t room = ring_size - known % ring_size;
            const size_t wanted = to - known < room ? to - known : room;
            const size_t found = find(task, known, wanted, ring + known % ring_size, NoSkip{});
            known += found;
            if (found < wanted)
                to = stop = known;
        }
    };
    resolve_to(begin + ahead);
    for (size_t i = begin; i < known; ++i)
        prefetch<3, Copier::size>(ring[i % ring_size], asked);
    for (size_t at = begin; at < stop;) {
        resolve_to(at + ahead + step);
        const size_t next = at + step < stop ? at + step : stop;
        const size_t first = at;
        for (; at < next; ++at) {
            if (at + ahead < known)
                prefetch<3, Copier::size>(ring[(at + ahead) % ring_size], asked);
            copy(task.out + at * bytes, ring[at % ring_size], bytes);
        }
        if (task.clips())
            clip_rows(task, task.out + first * bytes, at - first);
    }
    return stop < end ? stop : all_in_range;
}

size_t run_copy(const Gather &task, size_t begin, size_t end) {
    if (task.converts())
        return run(task, begin, end, ConvertRow{choose_convert(task.format, task.out_format), task.dim});
    switch (task.row_bytes) {
    case 4:
        return run<Copy<4>>(task, begin, end);
    case 8:
        return run<Copy<8>>(task, begin, end);
    case 16:
        return run<Copy<16>>(task, begin, end);
    case 64:
        return run<Copy<64>>(task, begin, end);
    case 128:
        return run<Copy<128>>(task, begin, end);
    case 256:
        return run<Copy<256>>(task, begin, end);
#if defined(__AVX512F__)
    case 400: // 100 float32, a usual size: 0.93 of the time of Copy<0>
        return run<Copy<400>>(task, begin, end);
#endif
    default:
        return run<Copy<0>>(task, begin, end);
    }
}

#if defined(__SSE2__)
size_t run_stream(const Gather &task, size_t begin, size_t end) {
    const size_t bytes = task.row_bytes;
    const size_t place = reinterpret_cast<uintptr_t>(task.out);
    if (place % 64 == 0 && bytes == 256)
        return run<StreamLines<256>>(task, begin, end);
    if (place % 64 == 0 && bytes % 64 == 0)
        return run<StreamLines<0>>(task, begin, end);
    if (place % 16 == 0 && bytes % 16 == 0)
        return run<StreamParts>(task, begin, end);
    // To collect other rows in the first cache and stream whole lines from there was worth little: 0.9 of the
    // time for rows of 200 bytes, 1.03 for rows of 100.
    return run_copy(task, begin, end);
}
#endif

} // namespace

size_t gather(const Gather &task, size_t begin, size_t end, Traffic traffic) {
#if defined(__SSE2__)
    if (traffic == Traffic::stream) {
        const size_t bad = run_stream(task, begin, end);
        _mm_sfence();
        return bad;
    }
#else
    (void)traffic;
#endif
    return run_copy(task, begin, end);
}

} // namespace shardwise::SHARDWISE_LEVEL

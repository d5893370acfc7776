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
// would hold up the copies. They are resolved before that, `step` at a time. Rows that come from memory want
// a long distance (48 took 0.6 of the time of 32, for rows of 400 and 512 bytes); rows that are in a cache, a
// short one.
template <int Level> constexpr size_t distance = Level == 2 ? 64 : 16;
constexpr size_t step = 16;
constexpr size_t ring_size = 128;
static_assert(ring_size >= distance<2> + step);

// Lines of a row to prefetch: for longer rows the processor's own prefetcher does the rest.
constexpr size_t prefetch_bytes = 1024;

// ---- copies ----

/// A size known at compile time becomes the widest moves that the level has.
template <size_t Bytes> struct CopyFixed {
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t) const {
        memcpy(to, from, Bytes);
    }
};

struct CopyAny {
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t bytes) const {
        if (bytes >= 64) {
            memcpy(to, from, bytes); // a loop of wide moves of our own took the same time
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
};

#if defined(__SSE2__)
SHARDWISE_INLINE void stream16(std::byte *to, const std::byte *from) {
    _mm_stream_si128(reinterpret_cast<__m128i *>(to),
                     _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}

SHARDWISE_INLINE void stream64(std::byte *to, const std::byte *from) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i *>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
    for (size_t at = 0; at < 64; at += 32)
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + at)));
#else
    for (size_t at = 0; at < 64; at += 16)
        stream16(to + at, from + at);
#endif
}

/// Rows of a multiple of 16 bytes, written past the caches; rows follow each other, so the lines that two of
/// them share are filled too before they leave.
template <size_t Bytes> struct Stream { // 0: a size known at run time only
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t bytes) const {
        if constexpr (Bytes % 64 == 0 && Bytes != 0) {
            for (size_t at = 0; at < Bytes; at += 64)
                stream64(to + at, from + at);
        } else {
            size_t at = 0;
            for (; at < bytes && (reinterpret_cast<uintptr_t>(to) + at) % 64 != 0; at += 16)
                stream16(to + at, from + at);
            for (; at + 64 <= bytes; at += 64)
                stream64(to + at, from + at);
            for (; at < bytes; at += 16)
                stream16(to + at, from + at);
        }
    }
};
#endif

struct ConvertRow {
    Convert convert;
    size_t dim;
    SHARDWISE_INLINE void operator()(std::byte *to, const std::byte *from, size_t) const {
        convert(to, from, dim);
    }
};

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

template <int Level, class Copy> size_t run(const Gather &task, size_t begin, size_t end, const Copy &copy) {
    const Resolve<NoSkip> find = choose_resolve<NoSkip>(task);
    const size_t bytes = task.out_row_bytes();
    const size_t ahead = task.row_bytes < prefetch_bytes ? task.row_bytes : prefetch_bytes;
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
    resolve_to(begin + distance<Level>);
    for (size_t i = begin; i < known; ++i)
        prefetch<Level>(ring[i % ring_size], ahead);
    for (size_t at = begin; at < stop;) {
        resolve_to(at + distance<Level> + step);
        const size_t first = at;
        const size_t next = at + step < stop ? at + step : stop;
        for (; at < next; ++at) {
            if (at + distance<Level> < known)
                prefetch<Level>(ring[(at + distance<Level>) % ring_size], ahead);
            copy(task.out + at * bytes, ring[at % ring_size], bytes);
        }
        if (task.clips())
            clip_rows(task, task.out + first * bytes, at - first);
    }
    return stop < end ? stop : all_in_range;
}

template <int Level> size_t run_plain(const Gather &task, size_t begin, size_t end) {
    if (task.converts())
        return run<Level>(task, begin, end,
                          ConvertRow{choose_convert(task.format, task.out_format), task.dim});
    switch (task.row_bytes) {
    case 4:
        return run<Level>(task, begin, end, CopyFixed<4>{});
    case 8:
        return run<Level>(task, begin, end, CopyFixed<8>{});
    case 64:
        return run<Level>(task, begin, end, CopyFixed<64>{});
    case 128:
        return run<Level>(task, begin, end, CopyFixed<128>{});
    case 256:
        return run<Level>(task, begin, end, CopyFixed<256>{});
    default:
        return run<Level>(task, begin, end, CopyAny{});
    }
}

} // namespace

size_t gather(const Gather &task, size_t begin, size_t end, Traffic traffic) {
#if defined(__SSE2__)
    if (traffic == Traffic::stream) {
        const bool lines = reinterpret_cast<uintptr_t>(task.out) % 64 == 0;
        const size_t bad = lines && task.row_bytes == 256 ? run<2>(task, begin, end, Stream<256>{})
                                                          : run<2>(task, begin, end, Stream<0>{});
        _mm_sfence();
        return bad;
    }
#endif
    return traffic == Traffic::cached ? run_plain<3>(task, begin, end) : run_plain<2>(task, begin, end);
}

} // namespace shardwise::SHARDWISE_LEVEL

#pragma once
// Where the rows of ids lie, for the kernels alone: this file is compiled once per instruction level, in
// their namespace.

#include "core/gather.h"

#include <string.h>

namespace shardwise::SHARDWISE_LEVEL {
namespace {

/// What to ask for of rows that are read later: their first bytes, at most 1024. The processor's own
/// prefetcher does the rest.
struct Ahead {
    size_t bytes;
    bool last; // the last of them too: rows do not begin with a line, so it may lie in one more
};

/// `places`: of rows, or-ed, as far as whole lines go. The smallest rows hardly ever lie in two.
SHARDWISE_INLINE Ahead ahead_of(size_t bytes, uintptr_t places) {
    constexpr size_t most = 1024;
    return {bytes < most ? bytes : most, (bytes | places) % 64 != 0 && bytes >= 16};
}

/// The shards of a table are allocated alike.
SHARDWISE_INLINE Ahead ahead_of(const Gather &task) {
    return ahead_of(task.row_bytes, reinterpret_cast<uintptr_t>(task.shards[0].data) |
                                        static_cast<uintptr_t>(task.shards[0].stride));
}

/// Level: 3 asks for the first cache, 2 for the second.
template <int Level> SHARDWISE_INLINE void prefetch_byte(const std::byte *place) {
#if defined(__GNUC__)
    __builtin_prefetch(place, 0, Level);
#else
    (void)place;
#endif
}

/// The lines of as many bytes, in straight code: a processor looks some hundred instructions ahead, so with
/// fewer of them a row more rows are on their way.
template <int Level, size_t Bytes> SHARDWISE_INLINE void prefetch_lines(const std::byte *place) {
    for (size_t at = 0; at < Bytes; at += 64) // unrolled
        prefetch_byte<Level>(place + at);
}

/// Keeps the compiler from taking the address apart into sums that each need a register.
template <class T> SHARDWISE_INLINE void keep_apart(const T *&place) {
#if defined(__GNUC__)
    asm("" : "+r"(place));
#else
    (void)place;
#endif
}

/// `Bytes`: their number where it is known at compile time, else 0.
template <int Level, size_t Bytes = 0>
SHARDWISE_INLINE void prefetch(const std::byte *row, const Ahead &ahead) {
    if constexpr (Bytes != 0) {
        prefetch_lines<Level, Bytes>(row);
    } else {
        // No loop over the lines here either.
        // clang-format off
#define SHARDWISE_LINE(n) case n: prefetch_byte<Level>(row + 64 * (n - 1)); [[fallthrough]];
        switch ((ahead.bytes + 63) / 64) {
            SHARDWISE_LINE(16) SHARDWISE_LINE(15) SHARDWISE_LINE(14) SHARDWISE_LINE(13)
            SHARDWISE_LINE(12) SHARDWISE_LINE(11) SHARDWISE_LINE(10) SHARDWISE_LINE(9)
            SHARDWISE_LINE(8) SHARDWISE_LINE(7) SHARDWISE_LINE(6) SHARDWISE_LINE(5)
            SHARDWISE_LINE(4) SHARDWISE_LINE(3) SHARDWISE_LINE(2) SHARDWISE_LINE(1)
        default: break;
        }
        // clang-format on
#undef SHARDWISE_LINE
    }
    if (ahead.last)
        prefetch_byte<Level>(row + ahead.bytes - 1);
}

/// The id to read in place of one outside the table, for clamp, wrap and row.
__attribute__((noinline)) uint64_t replace_id(const Gather &task, uint64_t id) {
    const uint64_t rows = task.partition.num_rows;
    const bool negative = task.id_type != IdType::u64 && static_cast<int64_t>(id) < 0;
    if (task.out_of_range == OutOfRange::clamp)
        return negative ? 0 : rows - 1;
    if (task.out_of_range == OutOfRange::wrap) {
        if (!negative)
            return id % rows;
        const uint64_t rest = (0 - id) % rows;
        return rest == 0 ? 0 : rows - rest;
    }
    return task.default_row;
}

/// No id is passed over.
struct NoSkip {
    static constexpr bool never = true;
    SHARDWISE_INLINE bool operator()(size_t, uint64_t) const { return false; }
};

/// Where the rows of ids [begin, begin + count) lie; returns how many there are before the first one that is
/// refused. `skip(i, id)` is true where the place shall be null: of id `begin + i`, a negative one as it is
/// when 64 bits are taken for unsigned.
template <Strategy S, class T, class Skip>
size_t resolve(const Gather &task, size_t begin, size_t count, const std::byte **rows, const Skip &skip) {
    // By reference: a copy on the stack would wait there behind all the rows that are still being written.
    const PartitionView &partition = task.partition;
    const Shard *const shards = task.shards;
    size_t done = 0;
    if constexpr (S == Strategy::whole && Skip::never) {
        // Many at once, while all are inside. The barrier sees to it that what was checked is what is used.
        // Of fewer it takes longer than one by one: lookups, which ask for 16, took 1.14 of their time.
        constexpr size_t some = 64;
        T copy[some];
        for (; done + some <= count; done += some) {
            constexpr size_t size = some;
            memcpy(copy, static_cast<const T *>(task.ids) + begin + done, size * sizeof(T));
            asm volatile("" : : : "memory");
            uint64_t outside = 0;
            for (size_t i = 0; i < size; ++i)
                outside |= static_cast<uint64_t>(static_cast<int64_t>(copy[i])) >= partition.num_rows;
            if (__builtin_expect(outside != 0, 0))
                break;
            for (size_t i = 0; i < size; ++i)
                rows[done + i] = shards[0].data + static_cast<ptrdiff_t>(copy[i]) * shards[0].stride;
        }
    }
    // Volatile: each id is read once, so that what another thread writes there between the check and the use
    // cannot lead outside the table.
    const volatile T *const ids = static_cast<const volatile T *>(task.ids) + begin;
    for (size_t i = done; i < count; ++i) {
        uint64_t id =
            static_cast<uint64_t>(static_cast<int64_t>(ids[i])); // a negative one becomes larger than any
        if (skip(i, id)) {
            rows[i] = nullptr;
            continue;
        }
        if (__builtin_expect(id >= partition.num_rows, 0)) {
            if (task.out_of_range == OutOfRange::error)
                return i;
            if (task.out_of_range == OutOfRange::zeros) {
                rows[i] = task.zero_row;
                continue;
            }
            id = replace_id(task, id);
        }
        const Place place = locate<S>(partition, id);
        const Shard &shard = shards[place.shard];
        rows[i] = shard.data + static_cast<ptrdiff_t>(place.row) * shard.stride;
    }
    return count;
}

template <class Skip>
using Resolve = size_t (*)(const Gather &, size_t, size_t, const std::byte **, const Skip &);

template <Strategy S, class Skip> Resolve<Skip> with_type(IdType type) {
    switch (type) {
    case IdType::i8:
        return resolve<S, int8_t, Skip>;
    case IdType::i16:
        return resolve<S, int16_t, Skip>;
    case IdType::i32:
        return resolve<S, int32_t, Skip>;
    case IdType::u8:
        return resolve<S, uint8_t, Skip>;
    case IdType::u16:
        return resolve<S, uint16_t, Skip>;
    case IdType::u32:
        return resolve<S, uint32_t, Skip>;
    case IdType::u64:
        return resolve<S, uint64_t, Skip>;
    case IdType::i64:
        break;
    }
    return resolve<S, int64_t, Skip>;
}

template <class Skip> Resolve<Skip> choose_resolve(const Gather &task) {
    switch (task.partition.strategy) {
    case Strategy::mod:
        return with_type<Strategy::mod, Skip>(task.id_type);
    case Strategy::div:
        return with_type<Strategy::div, Skip>(task.id_type);
    case Strategy::ranges:
        return with_type<Strategy::ranges, Skip>(task.id_type);
    case Strategy::whole:
        break;
    }
    return with_type<Strategy::whole, Skip>(task.id_type);
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

#pragma once
// Numbers that are computed on side by side, for the kernels alone: this file is compiled once per
// instruction level, in their namespace.

#include "core/partition.h"

#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace shardwise::SHARDWISE_LEVEL {
namespace {

template <class T, int L> struct VecOf {
    typedef T type __attribute__((vector_size(L * sizeof(T))));
};
template <class T, int L> using Vec = typename VecOf<T, L>::type;

/// How many elements are computed on at once: a register of the widest level.
template <class T> inline constexpr int lanes = 64 / sizeof(T);

/// Of this level. Where numbers side by side have nothing to do with each other: what is kept in wider ones
/// lies in memory, and sums took 2 to 10 times as long.
#if defined(__AVX512F__)
inline constexpr size_t register_bytes = 64;
#elif defined(__AVX2__)
inline constexpr size_t register_bytes = 32;
#else
inline constexpr size_t register_bytes = 16;
#endif
template <class T> inline constexpr int own_lanes = register_bytes / sizeof(T);

/// The same number in all lanes. (0 + -0.0 would be 0.)
template <class V, class T> SHARDWISE_INLINE V all_of(T number) {
    return number - V{};
}

template <class V> SHARDWISE_INLINE V load(const void *from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

/// Does it for 0 to N - 1, each a constant: what an array holds stays in registers then.
template <int N, class Do> SHARDWISE_INLINE void each(const Do &what) {
    if constexpr (N > 0) {
        each<N - 1>(what);
        what(N - 1);
    }
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

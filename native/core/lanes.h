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

template <class V> SHARDWISE_INLINE V load(const void *from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

} // namespace
} // namespace shardwise::SHARDWISE_LEVEL

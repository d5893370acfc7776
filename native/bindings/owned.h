#pragma once
// Vectors that become arrays of NumPy, and arrays of tokens: their bytes end to end, and where each begins.

#include <utility>
#include <vector>

#include <nanobind/ndarray.h>

#include "bindings.h"
#include "core/tokens.h"

namespace shardwise {

using Bytes =
    nanobind::ndarray<const std::uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
template <class T>
using ArrayOf = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using Offsets = ArrayOf<std::int64_t>;
using NewNumbers =
    nanobind::ndarray<std::int64_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

/// An array that owns a vector.
template <class T> using Owned = nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>;

template <class T> Owned<T> owned(std::vector<T> &&values) {
    auto *const moved = new std::vector<T>(std::move(values));
    const nanobind::capsule owner(moved, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
    return Owned<T>(moved->data(), {moved->size()}, owner);
}

template <class Offset> BasicTokens<Offset> tokens_of(const Bytes &data, const ArrayOf<Offset> &offsets) {
    if (offsets.shape(0) == 0)
        throw nanobind::value_error("expected one offset more than there are tokens, got none");
    return {data.data(), data.shape(0), offsets.data(), offsets.shape(0) - 1};
}

template <class F> auto without_gil(F &&work) {
    const ReleasedGil free;
    return work();
}

} // namespace shardwise

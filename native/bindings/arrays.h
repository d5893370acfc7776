#pragma once
// NumPy arrays for results. The one place that includes NumPy's C API: a lookup of one id has no time for
// more.

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/gather.h"

namespace shardwise {

void import_numpy();

/// A NumPy array of integers as a kernel reads it: C-contiguous, aligned, in native byte order.
struct IdArray {
    const void *data;
    IdType type;
    std::size_t count;
    std::span<const std::intptr_t> shape;
};

/// None where `object` is no such array, or of a subclass; Python then makes one of it.
std::optional<IdArray> as_id_array(nanobind::handle object);

/// An uninitialized array of shape `lead + tail`; a large one lies in a recycled block of 2 MB pages.
/// `*fresh` is set where it lies in a block that was not used before.
nanobind::object new_array(nanobind::handle dtype, std::span<const std::intptr_t> lead,
                           std::span<const std::intptr_t> tail, bool *fresh = nullptr);

/// Whether it lies in a block that was not used before `new_array` gave it out.
bool is_fresh(nanobind::handle array);

std::byte *array_data(nanobind::handle array);

} // namespace shardwise

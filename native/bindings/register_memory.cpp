#include "bindings.h"

#include <vector>

#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "core/memory.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {

void register_memory(nb::module_ &m) {
    m.def(
        "empty",
        [](const std::vector<std::intptr_t> &shape, nb::handle dtype) { return new_array(dtype, shape, {}); },
        "shape"_a, "dtype"_a,
        nb::sig("def empty(shape: Sequence[int], dtype: numpy.dtype[typing.Any]) -> numpy.typing.NDArray[typing.Any]"),
        "An uninitialized array; a large one lies in 2 MB pages.");
    m.def("cached_bytes", &cached_bytes, "Bytes of freed result blocks that are kept for the next results.");
    m.def("empty_cache", &empty_cache, "Gives the kept blocks back to the system; returns their bytes.");
    m.def(
        "huge_page_bytes",
        [](std::uintptr_t address, std::size_t bytes) {
            return huge_page_bytes(reinterpret_cast<const void *>(address), bytes);
        },
        "address"_a, "bytes"_a, "How many of these bytes lie in large pages at present.");
}

}  // namespace shardwise

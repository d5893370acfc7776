#include "bindings.h"

#include <cstring>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "core/memory.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;

/// Elements of 8 or 16 bits that NumPy has no dtype of its own for, as unsigned integers, and their name in
/// ml_dtypes.
std::pair<nb::object, std::string> small_floats(const AnyArray &array) {
    const auto code = static_cast<nb::dlpack::dtype_code>(array.dtype().code);
    const char *name = code == nb::dlpack::dtype_code::Bfloat          ? "bfloat16"
                       : code == nb::dlpack::dtype_code::Float8_E4M3FN ? "float8_e4m3fn"
                       : code == nb::dlpack::dtype_code::Float8_E5M2   ? "float8_e5m2"
                                                                       : nullptr;
    const int bits = code == nb::dlpack::dtype_code::Bfloat ? 16 : 8;
    if (name == nullptr || array.dtype().bits != bits || array.dtype().lanes != 1)
        throw nb::type_error("not an array of bfloat16, float8_e4m3fn or float8_e5m2");
    std::vector<std::size_t> shape(array.shape_ptr(), array.shape_ptr() + array.ndim());
    std::vector<std::int64_t> strides(array.stride_ptr(), array.stride_ptr() + array.ndim());
    const nb::dlpack::dtype unsigned_integer{static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt),
                                             static_cast<std::uint8_t>(bits), 1};
    // The copy holds what the exporter gave, until NumPy lets go of the array.
    const nb::capsule owner(new AnyArray(array),
                            [](void *held) noexcept { delete static_cast<AnyArray *>(held); });
    return {nb::cast(nb::ndarray<nb::numpy, nb::ro>(array.data(), array.ndim(), shape.data(), owner,
                                                    strides.data(), unsigned_integer)),
            name};
}

/// Zeros, which the system makes when a page is first touched, where it can.
nb::object zeros(const std::vector<std::intptr_t> &shape, nb::handle dtype) {
    bool fresh = false;
    nb::object array = new_array(dtype, shape, {}, &fresh);
    const auto bytes = nb::cast<std::size_t>(array.attr("nbytes"));
    if (fresh && fresh_blocks_are_zeros &&
        bytes >= huge_page) // its pages are the system's own, and none was touched yet
        return array;
    std::memset(array_data(array), 0, bytes);
    return array;
}

} // namespace

void register_memory(nb::module_ &m) {
    m.def(
        "empty",
        [](const std::vector<std::intptr_t> &shape, nb::handle dtype) { return new_array(dtype, shape, {}); },
        "shape"_a, "dtype"_a,
        nb::sig("def empty(shape: Sequence[int], dtype: numpy.dtype[typing.Any]) -> "
                "numpy.typing.NDArray[typing.Any]"),
        "An uninitialized array; a large one lies in 2 MB pages.");
    m.def("zeros", &zeros, "shape"_a, "dtype"_a,
          nb::sig("def zeros(shape: Sequence[int], dtype: numpy.dtype[typing.Any]) -> "
                  "numpy.typing.NDArray[typing.Any]"),
          "An array of zeros; a large one lies in 2 MB pages, which are made when they are touched.");
    m.def("small_floats", &small_floats, "array"_a.noconvert(),
          nb::sig("def small_floats(array: object) -> tuple[numpy.typing.NDArray[typing.Any], str]"),
          "What DLPack offers as bfloat16 or float8: its bits as a read-only array of integers, and "
          "ml_dtypes' name.");
    m.def("cached_bytes", &cached_bytes, "Bytes of freed result blocks that are kept for the next results.");
    m.def("empty_cache", &empty_cache, "Gives the kept blocks back to the system; returns their bytes.");
    m.def(
        "huge_page_bytes",
        [](std::uintptr_t address, std::size_t bytes) {
            return huge_page_bytes(reinterpret_cast<const void *>(address), bytes);
        },
        "address"_a, "bytes"_a, "How many of these bytes lie in large pages at present.");
}

} // namespace shardwise

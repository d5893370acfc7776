#include "bindings.h"

#include <nanobind/ndarray.h>

#include "core/mapped_file.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

} // namespace

void register_mapped_file(nb::module_ &m) {
    nb::class_<MappedFile>(m, "MappedFile", "Reads a few bytes of a mapped file without touching the map.")
        .def(
            "__init__",
            [](MappedFile *self, int descriptor, const Bytes &data) {
                new (self) MappedFile(descriptor, data.data(), data.shape(0));
            },
            "descriptor"_a, "data"_a.noconvert(),
            "Of a descriptor, of which it keeps a copy, and all bytes of the file as they are mapped.")
        .def(
            "__reduce__",
            [](const MappedFile &) { return nb::make_tuple(nb::none().type(), nb::make_tuple()); },
            nb::sig("def __reduce__(self) -> tuple[type[None], tuple[()]]"),
            "A pickle or a deep copy has None instead: its arrays are its own.");
}

} // namespace shardwise

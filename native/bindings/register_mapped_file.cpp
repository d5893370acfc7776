#include "bindings.h"

#include <string>

#include <nanobind/ndarray.h>

#include "core/mapped_file.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

} // namespace

void throw_store_error(const std::string &message) {
    const nb::object error = nb::module_::import_("shardwise._errors").attr("StoreError");
    PyErr_SetString(error.ptr(), message.c_str());
    throw nb::python_error();
}

void refuse_lost(const Maps &maps) {
    const std::size_t shard = maps.lost();
    if (shard == Maps::none)
        return;
    throw_store_error(
        "expected all pages of the table's files, got none for some of the rows of shard " +
        std::to_string(shard) +
        ": its file was cut short while it was mapped, or its disk failed or is full; see what is left with "
        "shardwise verify, and open the table again");
}

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

#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include "core/partition.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::size_t locate_ids(const Partition &partition, const Ids &ids, const Places &shards, const Places &rows) {
    if (shards.shape(0) != ids.shape(0) || rows.shape(0) != ids.shape(0))
        throw nb::value_error("ids, shards and rows must have one length");
    const ReleasedGil free;
    return partition.locate(ids.data(), ids.shape(0), shards.data(), rows.data());
}

} // namespace

void register_partition(nb::module_ &m) {
    nb::class_<Partition>(m, "Partition", "How ids fall on shards.")
        .def_static("mod", &Partition::mod, "num_rows"_a, "num_shards"_a)
        .def_static("div", &Partition::div, "num_rows"_a, "num_shards"_a)
        .def_static("ranges", &Partition::ranges, "boundaries"_a)
        .def_prop_ro("num_rows", &Partition::num_rows)
        .def_prop_ro("num_shards", &Partition::num_shards)
        .def("shard_size", &Partition::shard_size, "shard"_a)
        .def("locate", &locate_ids, "ids"_a.noconvert(), "shards"_a.noconvert(), "rows"_a.noconvert(),
             "Fills `shards` and `rows`; returns the position of the first id outside the table, or their "
             "number.");
}

} // namespace shardwise

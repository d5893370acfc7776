#include "bindings.h"

#include <string>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "core/initialize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using RowIds = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using NewRows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Distribution distribution_of(const std::string &name) {
    if (name == "uniform")
        return Distribution::uniform;
    if (name == "normal")
        return Distribution::normal;
    if (name == "truncated_normal")
        return Distribution::truncated_normal;
    throw nb::value_error("unknown distribution");
}

template <class T>
void initialize_rows(const std::string &distribution, double a, double b, std::uint64_t seed,
                     const RowIds &ids, const NewRows<T> &out) {
    if (ids.shape(0) != out.shape(0))
        throw nb::value_error("one row for each id");
    const Initialize how{distribution_of(distribution), a, b, seed};
    const ReleasedGil free;
    initialize(how, ids.data(), ids.shape(0), out.shape(1), out.data());
}

} // namespace

void register_initialize(nb::module_ &m) {
    constexpr const char *text = "Fills rows with values that depend on the seed, the id and the column.";
    m.def("initialize", &initialize_rows<float>, "distribution"_a, "a"_a, "b"_a, "seed"_a,
          "ids"_a.noconvert(), "out"_a.noconvert(), text);
    m.def("initialize", &initialize_rows<double>, "distribution"_a, "a"_a, "b"_a, "seed"_a,
          "ids"_a.noconvert(), "out"_a.noconvert(), text);
}

} // namespace shardwise

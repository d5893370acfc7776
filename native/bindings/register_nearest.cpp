#include "bindings.h"

#include <nanobind/ndarray.h>

#include "core/cpu.h"
#include "core/nearest.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

template <class T, int Rank>
using Given = nb::ndarray<const T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;
template <class T> using Written = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;

bool nearest(const Given<float, 2> &queries, const Rows &rows, const Given<float, 1> &factors,
             std::int64_t first_id, const Written<std::int64_t> &ids, const Written<float> &scores,
             bool floats) {
    const std::size_t dim = queries.shape(1), count = queries.shape(0), keep = ids.shape(1);
    if (rows.shape(1) != dim || factors.shape(0) != rows.shape(0) || ids.shape(0) != count ||
        scores.shape(0) != count || scores.shape(1) != keep || keep == 0)
        throw nb::value_error("the sizes do not fit each other");
    if (dim > 1 && rows.size() != 0 && rows.stride(1) != 1)
        throw nb::value_error("expected rows that each lie in one piece");
    Nearest task;
    task.queries = queries.data();
    task.num_queries = count;
    task.dim = dim;
    task.rows = reinterpret_cast<const std::byte *>(rows.data());
    task.stride = static_cast<std::ptrdiff_t>(rows.stride(0)) * static_cast<std::ptrdiff_t>(sizeof(float));
    task.num_rows = rows.shape(0);
    task.factors = factors.data();
    task.first_id = first_id;
    task.keep = keep;
    task.ids = ids.data();
    task.scores = scores.data();
    const ReleasedGil free;
    return find_nearest(task, floats ? Products::floats : Products::fastest);
}

} // namespace

void register_nearest(nb::module_ &m) {
    m.def("find_nearest", &nearest, "queries"_a.noconvert(), "rows"_a.noconvert(), "factors"_a.noconvert(),
          "first_id"_a, "ids"_a.noconvert(), "scores"_a.noconvert(), "floats"_a = false,
          "Put the rows nearest to each query among its best so far: heaps, the worst in front. False where "
          "products of bytes were of little use; `floats` spares them.");
    m.def(
        "multiplies_bytes", [] { return multiplies_bytes(level()); },
        "Whether products of bytes tell which rows may be among the nearest.");
}

} // namespace shardwise

#include "bindings.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "core/route.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

template <class T> using Array = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

OutOfRange policy_of(const std::string &name) {
    for (const auto &[known, value] : {std::pair{"error", OutOfRange::error},
                                       {"zeros", OutOfRange::zeros},
                                       {"clamp", OutOfRange::clamp},
                                       {"wrap", OutOfRange::wrap},
                                       {"row", OutOfRange::row}})
        if (name == known)
            return value;
    throw nb::value_error(("unknown: " + name).c_str());
}

/// "position value", for Python to make a sentence of.
struct RefusedId : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void check_refused(const IdArray &ids, std::size_t position) {
    if (position == all_in_range)
        return;
    const Id id = id_at(ids.data, ids.type, position);
    throw RefusedId(
        std::to_string(position) + " " +
        (id.negative ? std::to_string(static_cast<std::int64_t>(id.bits)) : std::to_string(id.bits)));
}

IdArray ids_of(nb::handle ids) {
    const std::optional<IdArray> array = as_id_array(ids);
    if (!array)
        throw nb::type_error("ids must be a contiguous array of integers");
    return *array;
}

/// Whether rows are numbers of 4 bytes; `count` of them must fit.
bool is_narrow(nb::handle rows, std::size_t count) {
    const IdArray array = ids_of(rows);
    if ((array.type != IdType::u32 && array.type != IdType::u64) || array.count < count)
        throw nb::value_error("expected room for a row of each id, of uint32 or uint64");
    return array.type == IdType::u32;
}

/// Which ids take part, as Python says it; `flags` outlives it.
Routing routing_of(const Routes &routes, const IdArray &ids, const std::string &policy,
                   std::uint64_t stand_in, std::optional<std::int64_t> padding, bool skip_negative,
                   const std::optional<Array<const std::uint8_t>> &frozen,
                   std::pair<std::uint64_t, std::uint64_t> frozen_range) {
    Routing routing;
    routing.ids = ids.data;
    routing.id_type = ids.type;
    routing.count = ids.count;
    routing.out_of_range = policy_of(policy);
    routing.default_row = stand_in;
    if (routing.out_of_range == OutOfRange::row && stand_in >= routes.partition().num_rows)
        throw nb::value_error("expected a row of the table");
    routing.has_padding = padding.has_value();
    routing.padding = padding.value_or(0);
    routing.skip_negative = skip_negative;
    if (frozen) {
        if (frozen->shape(0) != routes.partition().num_rows)
            throw nb::value_error("expected a flag for each row");
        routing.frozen = frozen->data();
    }
    routing.frozen_begin = frozen_range.first;
    routing.frozen_end = frozen_range.second;
    return routing;
}

template <class T> T *room(const Array<T> &array, std::size_t count) {
    if (array.shape(0) < count)
        throw nb::value_error("too little room for the result");
    return array.data();
}

void rows(const Routes &routes, nb::handle ids, const std::string &policy, std::uint64_t stand_in,
          std::optional<std::int64_t> padding, bool skip_negative,
          const std::optional<Array<const std::uint8_t>> &frozen,
          std::pair<std::uint64_t, std::uint64_t> frozen_range, nb::handle out,
          const Array<std::uint64_t> &counts, const Array<std::int64_t> &places) {
    const IdArray array = ids_of(ids);
    const Routing routing =
        routing_of(routes, array, policy, stand_in, padding, skip_negative, frozen, frozen_range);
    const bool narrow = is_narrow(out, array.count);
    std::uint64_t *const counted = room(counts, routes.num_ranks());
    std::int64_t *const placed = room(places, array.count);
    std::size_t refused;
    {
        const ReleasedGil free;
        refused = route_rows(routes, routing, narrow, array_data(out), counted, placed);
    }
    check_refused(array, refused);
}

void bags(const Routes &routes, nb::handle ids, const std::string &policy, std::uint64_t stand_in,
          std::optional<std::int64_t> padding, bool skip_negative,
          const std::optional<Array<const std::uint8_t>> &frozen,
          std::pair<std::uint64_t, std::uint64_t> frozen_range, const Array<const std::int64_t> &offsets,
          nb::handle weights, bool skip_weightless, bool square_root, nb::handle out, nb::handle weights_out,
          const Array<std::uint64_t> &counts, const Array<std::uint32_t> &lengths,
          const Array<std::int64_t> &bags, const Array<std::uint64_t> &piece_counts,
          const Array<std::int64_t> &order, const Array<std::int64_t> &ends,
          const std::optional<Array<double>> &divisors) {
    const IdArray array = ids_of(ids);
    const Routing routing =
        routing_of(routes, array, policy, stand_in, padding, skip_negative, frozen, frozen_range);
    const bool narrow = is_narrow(out, array.count);
    const std::size_t rank = routes.rank();
    if (narrow && !routes.copied().empty() &&
        routes.cuts()[rank + 1] - routes.cuts()[rank] + routes.copied().size() > std::uint64_t{1} << 32)
        throw nb::value_error("expected rows of uint64, for there are copies behind this rank's own");
    // Copied, and checked: what another thread writes there must not lead outside the ids.
    const std::vector<std::int64_t> bounds(offsets.data(), offsets.data() + offsets.shape(0));
    if (bounds.empty() || bounds.front() != 0 || !std::is_sorted(bounds.begin(), bounds.end()) ||
        static_cast<std::size_t>(bounds.back()) != array.count)
        throw nb::value_error("expected offsets from 0 to the number of ids, in ascending order");
    RoutedBags routed;
    routed.offsets = bounds.data();
    routed.num_bags = bounds.size() - 1;
    routed.skip_weightless = skip_weightless;
    routed.square_root = square_root;
    Pieces pieces;
    if (!weights.is_none()) {
        const auto size = nb::cast<std::size_t>(weights.attr("itemsize"));
        if ((size != 4 && size != 8) || nb::cast<std::size_t>(weights.attr("nbytes")) != array.count * size ||
            nb::cast<std::size_t>(weights_out.attr("nbytes")) < array.count * size)
            throw nb::value_error("expected a weight for each id");
        routed.weights = array_data(weights);
        routed.wide = size == 8;
        pieces.weights = array_data(weights_out);
    }
    pieces.rows = array_data(out);
    pieces.counts = room(counts, routes.num_ranks());
    pieces.lengths = room(lengths, array.count);
    pieces.bags = room(bags, array.count);
    pieces.piece_counts = room(piece_counts, routes.num_ranks());
    pieces.order = room(order, array.count);
    pieces.ends = room(ends, routed.num_bags + 1);
    pieces.divisors = divisors ? room(*divisors, routed.num_bags) : nullptr;
    std::size_t refused;
    {
        const ReleasedGil free;
        refused = route_bags(routes, routing, routed, narrow, pieces);
    }
    check_refused(array, refused);
}

#define IDS "ids: numpy.typing.NDArray[typing.Any], "
#define ROUTING                                                                                              \
    "policy: str, stand_in: int, padding: int | None, skip_negative: bool, "                                 \
    "frozen: numpy.typing.NDArray[numpy.uint8] | None, frozen_range: tuple[int, int], "

} // namespace

void register_route(nb::module_ &m) {
    nb::exception<RefusedId>(m, "RefusedId", PyExc_ValueError);
    nb::class_<Routes>(m, "Routes", "Which process holds the row of an id.")
        .def(nb::init<const Partition &, std::vector<std::uint64_t>>(), "partition"_a, "cuts"_a)
        .def("keep_copies", &Routes::keep_copies, "rank"_a, "places"_a,
             "The rows of these places lie on every rank, of which this is one.")
        .def("rows", &rows, "ids"_a, nb::kw_only(), "policy"_a, "stand_in"_a, "padding"_a.none(),
             "skip_negative"_a, "frozen"_a.none().noconvert(), "frozen_range"_a, "out"_a,
             "counts"_a.noconvert(), "places"_a.noconvert(),
             nb::sig("def rows(self, " IDS "*, " ROUTING "out: numpy.typing.NDArray[typing.Any], "
                     "counts: numpy.typing.NDArray[numpy.uint64], "
                     "places: numpy.typing.NDArray[numpy.int64]) -> None"),
             "Each row once, grouped by rank; `places` says which of them an id is.")
        .def("bags", &bags, "ids"_a, nb::kw_only(), "policy"_a, "stand_in"_a, "padding"_a.none(),
             "skip_negative"_a, "frozen"_a.none().noconvert(), "frozen_range"_a, "offsets"_a.noconvert(),
             "weights"_a.none(), "skip_weightless"_a, "square_root"_a, "out"_a, "weights_out"_a.none(),
             "counts"_a.noconvert(), "lengths"_a.noconvert(), "bags"_a.noconvert(),
             "piece_counts"_a.noconvert(), "order"_a.noconvert(), "ends"_a.noconvert(),
             "divisors"_a.none().noconvert(),
             nb::sig("def bags(self, " IDS "*, " ROUTING "offsets: numpy.typing.NDArray[numpy.int64], "
                     "weights: numpy.typing.NDArray[typing.Any] | None, skip_weightless: bool, "
                     "square_root: bool, out: numpy.typing.NDArray[typing.Any], "
                     "weights_out: numpy.typing.NDArray[typing.Any] | None, "
                     "counts: numpy.typing.NDArray[numpy.uint64], "
                     "lengths: numpy.typing.NDArray[numpy.uint32], "
                     "bags: numpy.typing.NDArray[numpy.int64], "
                     "piece_counts: numpy.typing.NDArray[numpy.uint64], "
                     "order: numpy.typing.NDArray[numpy.int64], ends: numpy.typing.NDArray[numpy.int64], "
                     "divisors: numpy.typing.NDArray[numpy.float64] | None) -> None"),
             "The ids of each bag, grouped by the rank that they go to: `Pieces` in core/route.h says more.");
}

} // namespace shardwise

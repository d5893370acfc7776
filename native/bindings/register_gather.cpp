#include "bindings.h"

#include <algorithm>
#include <cerrno>
#include <limits>
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
#include "core/gather.h"
#include "core/pages.h"
#include "core/pool.h"
#include "core/scatter.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

// Below this a lookup is over before another thread could use the GIL.
constexpr std::size_t release_bytes = std::size_t{64} << 10;

/// "position id", for Python to make a sentence of.
struct OutOfRangeId : std::runtime_error {
    using std::runtime_error::runtime_error;
};

Element element_of(const std::string &name) {
    if (name == "float16")
        return Element::float16;
    if (name == "bfloat16")
        return Element::bfloat16;
    if (name == "float32")
        return Element::float32;
    if (name == "float64")
        return Element::float64;
    return Element::opaque;
}

OutOfRange policy_of(const std::string &name) {
    if (name == "error")
        return OutOfRange::error;
    if (name == "zeros")
        return OutOfRange::zeros;
    if (name == "clamp")
        return OutOfRange::clamp;
    if (name == "wrap")
        return OutOfRange::wrap;
    if (name == "row")
        return OutOfRange::row;
    throw nb::value_error("unknown policy");
}

RowFormat format_of(Element element) {
    switch (element) {
    case Element::float16:
        return RowFormat::float16;
    case Element::bfloat16:
        return RowFormat::bfloat16;
    case Element::float32:
        return RowFormat::float32;
    case Element::float64:
        return RowFormat::float64;
    case Element::opaque:
        break;
    }
    throw nb::type_error("expected rows of floating-point numbers");
}

std::size_t bytes_of(RowFormat format) {
    return format == RowFormat::float64 ? 8 : format == RowFormat::float32 ? 4 : 2;
}

Combiner combiner_of(const std::string &name) {
    if (name == "sum")
        return Combiner::sum;
    if (name == "mean")
        return Combiner::mean;
    if (name == "sqrtn")
        return Combiner::sqrtn;
    if (name == "max")
        return Combiner::max;
    throw nb::value_error("unknown combiner");
}

using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using RowIds = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

/// The rows of a table where they lie: a partition, and the arrays that are its shards.
class Rows {
public:
    Rows(const Partition &partition, const nb::list &shards, nb::object dtype,
         std::vector<std::intptr_t> tail, std::size_t row_bytes, const std::string &element, bool mapped)
        : partition_(partition), owners_(shards), dtype_(std::move(dtype)), tail_(std::move(tail)),
          mapped_(mapped) {
        if (nb::len(shards) != static_cast<std::size_t>(partition.num_shards()))
            throw nb::value_error("one array a shard");
        shards_.reserve(nb::len(shards));
        for (const nb::handle array : shards) {
            const auto stride = nb::cast<std::ptrdiff_t>(array.attr("strides")[nb::int_(0)]);
            if (nb::cast<std::int64_t>(array.attr("shape")[nb::int_(0)]) !=
                partition.shard_size(static_cast<std::int64_t>(shards_.size())))
                throw nb::value_error("a shard has not the length that the partition gives");
            shards_.push_back({array_data(array), stride});
        }
        if (mapped_) {
            std::vector<std::size_t> rows;
            for (std::int64_t k = 0; k < partition.num_shards(); ++k)
                rows.push_back(static_cast<std::size_t>(partition.shard_size(k)));
            advise_random(shards_.data(), rows.data(), rows.size(), row_bytes);
        }
        task_.partition = partition_.view();
        task_.shards = shards_.data();
        task_.row_bytes = row_bytes;
        element_ = element_of(element);
    }
    Rows(const Rows &) = delete;
    Rows &operator=(const Rows &) = delete;

    /// The common case: a plain array of ids, a fresh result, ids outside the table are errors.
    nb::object lookup(nb::handle ids) const {
        const std::optional<IdArray> array = as_id_array(ids);
        if (!array)
            return nb::none();
        bool fresh = false;
        nb::object out = new_array(dtype_, array->shape, tail_, &fresh);
        Gather task = prepare(*array, out);
        task.out_is_fresh = fresh;
        run(task, *array);
        return out;
    }

    nb::object lookup_into(nb::handle ids, nb::object out, const std::string &policy,
                           std::uint64_t default_row, double max_norm) const {
        const std::optional<IdArray> array = as_id_array(ids);
        if (!array)
            throw nb::type_error("ids must be a contiguous array of integers");
        const bool owned = out.is_none();
        bool fresh = false;
        if (owned)
            out = new_array(dtype_, array->shape, tail_, &fresh);
        Gather task = prepare(*array, out);
        task.out_is_fresh = fresh;
        task.out_of_range = policy_of(policy);
        task.default_row = default_row;
        if (max_norm < std::numeric_limits<double>::infinity()) {
            task.element = element_;
            task.max_norm = max_norm;
        }
        const std::vector<std::byte> zeros(task.out_of_range == OutOfRange::zeros ? task.row_bytes : 0);
        task.zero_row = zeros.data();
        if (!owned &&
            task.out_of_range == OutOfRange::error) { // the caller's array stays as it is after an error
            const ReleasedGil free;
            const std::size_t bad =
                find_out_of_range(task.ids, task.id_type, task.count, task.partition.num_rows);
            if (bad != all_in_range)
                throw_out_of_range(*array, bad);
        }
        run(task, *array);
        return out;
    }

    /// Bags of rows, each combined to one; `offsets` are those of as_bags, which were checked, and are again:
    /// what another thread writes there must not lead outside the ids.
    nb::object pool(nb::handle ids, const Offsets &offsets, nb::handle weights, const std::string &combiner,
                    const std::string &policy, std::uint64_t stand_in, double max_norm,
                    std::optional<std::int64_t> padding, std::optional<std::uint64_t> empty_row,
                    bool skip_negative, bool skip_weightless) const {
        const IdArray array = required(as_id_array(ids));
        const std::vector<std::int64_t> bounds(offsets.data(), offsets.data() + offsets.shape(0));
        if (bounds.empty() || bounds.front() != 0 || !std::is_sorted(bounds.begin(), bounds.end()) ||
            static_cast<std::size_t>(bounds.back()) != array.count)
            throw nb::value_error("expected offsets from 0 to the number of ids, in ascending order");
        Pool task;
        task.format = task.out_format = format_of(element_);
        const std::size_t width = bytes_of(task.format);
        task.rows = prepare(array, nb::handle());
        task.rows.out_of_range = policy_of(policy);
        task.rows.default_row = stand_in;
        const std::vector<std::byte> zeros(task.rows.row_bytes);
        task.rows.zero_row = zeros.data();
        if (max_norm < std::numeric_limits<double>::infinity()) {
            task.rows.element = element_;
            task.rows.max_norm = max_norm;
        }
        task.dim = task.rows.row_bytes / width;
        task.offsets = bounds.data();
        task.num_bags = bounds.size() - 1;
        if (!weights.is_none()) {
            const std::size_t size = task.format == RowFormat::float64 ? 8 : 4;
            if (nb::cast<std::size_t>(weights.attr("nbytes")) != array.count * size)
                throw nb::value_error("expected a weight for each id");
            task.weights = array_data(weights);
        }
        task.combiner = combiner_of(combiner);
        task.has_padding = padding.has_value();
        task.padding = padding.value_or(0);
        task.skip_negative = skip_negative;
        task.skip_weightless = skip_weightless;
        task.has_default = empty_row.has_value();
        task.default_row = empty_row.value_or(0);
        const std::intptr_t lead[] = {static_cast<std::intptr_t>(task.num_bags)};
        nb::object out = new_array(dtype_, lead, tail_);
        task.out = array_data(out);
        task.out_stride = static_cast<std::ptrdiff_t>(task.rows.row_bytes);
        std::size_t bad;
        {
            const ReleasedGil free;
            bad = mapped_ ? pool_mapped(task, watch_) : shardwise::pool(task);
        }
        if (bad != all_in_range)
            throw_out_of_range(array, bad);
        return out;
    }

    void prefetch(nb::handle ids) const {
        const IdArray array = required(as_id_array(ids));
        const Gather task = prepare(array, nullptr);
        const ReleasedGil free;
        shardwise::prefetch(task);
    }

    /// Writes in memory; the arrays must be writable.
    void write(const RowIds &ids, nb::handle rows) const {
        const Scatter task = prepare(ids, rows);
        const ReleasedGil free;
        scatter(task);
    }

    /// Writes to the files that the shards are maps of: a descriptor and the place of row 0 for each shard.
    void write_files(const RowIds &ids, nb::handle rows,
                     const std::vector<std::pair<int, std::int64_t>> &files) const {
        if (files.size() != shards_.size())
            throw nb::value_error("one file a shard");
        std::vector<ShardFile> places;
        places.reserve(files.size());
        for (const auto &[descriptor, begin] : files)
            places.push_back({descriptor, begin});
        const Scatter task = prepare(ids, rows);
        int error = 0;
        {
            const ReleasedGil free;
            error = write_to_files(task, places.data(), watch_);
        }
        if (error != 0) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            throw nb::python_error();
        }
    }

private:
    static const IdArray &required(const std::optional<IdArray> &array) {
        if (!array)
            throw nb::type_error("ids must be a contiguous array of integers");
        return *array;
    }

    Gather prepare(const IdArray &ids, nb::handle out) const {
        Gather task = task_;
        task.ids = ids.data;
        task.id_type = ids.type;
        task.count = ids.count;
        if (out.is_valid())
            task.out = array_data(out);
        return task;
    }

    Scatter prepare(const RowIds &ids, nb::handle rows) const {
        Scatter task;
        task.partition = task_.partition;
        task.shards = task_.shards;
        task.row_bytes = task_.row_bytes;
        task.ids = ids.data();
        task.count = ids.shape(0);
        task.rows = array_data(rows);
        if (nb::cast<std::size_t>(rows.attr("nbytes")) != task.count * task.row_bytes)
            throw nb::value_error("one row for each id");
        const std::size_t bad = find_out_of_range(task.ids, IdType::i64, task.count, task.partition.num_rows);
        if (bad != all_in_range)
            throw OutOfRangeId(std::to_string(bad) + " " + std::to_string(task.ids[bad]));
        return task;
    }

    void run(const Gather &task, const IdArray &ids) const {
        std::size_t bad = all_in_range;
        // Rows of a file may have to be read from disk first, however few they are.
        if (mapped_ || task.count * task.row_bytes >= release_bytes) {
            const ReleasedGil free;
            bad = mapped_ ? gather_mapped(task, watch_) : gather(task);
        } else {
            bad = gather(task);
        }
        if (bad != all_in_range)
            throw_out_of_range(ids, bad);
    }

    [[noreturn]] static void throw_out_of_range(const IdArray &ids, std::size_t position) {
        const Id id = id_at(ids.data, ids.type, position);
        throw OutOfRangeId(
            std::to_string(position) + " " +
            (id.negative ? std::to_string(static_cast<std::int64_t>(id.bits)) : std::to_string(id.bits)));
    }

    Partition partition_;
    nb::list owners_;
    nb::object dtype_;
    std::vector<std::intptr_t> tail_;
    std::vector<Shard> shards_;
    Gather task_;
    Element element_ = Element::opaque;
    bool mapped_;
    mutable Watch watch_;
};

} // namespace

void register_gather(nb::module_ &m) {
    nb::exception<OutOfRangeId>(m, "OutOfRangeId", PyExc_IndexError);
    nb::class_<Rows>(m, "Rows", "The rows of a table where they lie.")
        .def(nb::init<const Partition &, const nb::list &, nb::object, std::vector<std::intptr_t>,
                      std::size_t, const std::string &, bool>(),
             "partition"_a, "shards"_a, "dtype"_a, "tail"_a, "row_bytes"_a, "element"_a, "mapped"_a,
             nb::sig(
                 "def __init__(self, partition: Partition, shards: list[numpy.typing.NDArray[typing.Any]], "
                 "dtype: numpy.dtype[typing.Any], tail: Sequence[int], row_bytes: int, element: str, mapped: "
                 "bool) "
                 "-> None"))
        .def("lookup", &Rows::lookup,
             nb::sig("def lookup(self, ids: object, /) -> numpy.typing.NDArray[typing.Any] | None"),
             "Rows of a contiguous array of integers; None for any other object.")
        .def("lookup_into", &Rows::lookup_into, "ids"_a, "out"_a.none(), "policy"_a, "default_row"_a,
             "max_norm"_a,
             nb::sig("def lookup_into(self, ids: numpy.typing.NDArray[typing.Any], "
                     "out: numpy.typing.NDArray[typing.Any] | None, policy: str, default_row: int, "
                     "max_norm: float) -> numpy.typing.NDArray[typing.Any]"))
        .def("pool", &Rows::pool, "ids"_a, "offsets"_a.noconvert(), "weights"_a.none(), "combiner"_a,
             "policy"_a, "stand_in"_a, "max_norm"_a, "padding"_a.none(), "empty_row"_a.none(),
             "skip_negative"_a, "skip_weightless"_a,
             nb::sig("def pool(self, ids: numpy.typing.NDArray[typing.Any], "
                     "offsets: numpy.typing.NDArray[numpy.int64], "
                     "weights: numpy.typing.NDArray[typing.Any] | None, combiner: str, policy: str, "
                     "stand_in: int, max_norm: float, padding: int | None, empty_row: int | None, "
                     "skip_negative: bool, skip_weightless: bool) -> numpy.typing.NDArray[typing.Any]"),
             "Bags of rows, each combined to one: `offsets` has one entry more than there are bags.")
        .def("prefetch", &Rows::prefetch, "ids"_a,
             nb::sig("def prefetch(self, ids: numpy.typing.NDArray[typing.Any]) -> None"),
             "Starts reading the rows' pages on another thread.")
        .def("write", &Rows::write, "ids"_a.noconvert(), "rows"_a,
             nb::sig("def write(self, ids: numpy.typing.NDArray[numpy.int64], "
                     "rows: numpy.typing.NDArray[typing.Any]) -> None"),
             "Writes rows to the arrays, which must be writable.")
        .def("write_files", &Rows::write_files, "ids"_a.noconvert(), "rows"_a, "files"_a,
             nb::sig("def write_files(self, ids: numpy.typing.NDArray[numpy.int64], "
                     "rows: numpy.typing.NDArray[typing.Any], files: list[tuple[int, int]]) -> None"),
             "Writes rows to the files: for each shard a descriptor and the byte of its first row.");
}

} // namespace shardwise

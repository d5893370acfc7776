#include "bindings.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
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

/// "position id task", for Python to make a sentence of.
struct OutOfRangeId : std::runtime_error {
    using std::runtime_error::runtime_error;
};

RowFormat format_of(const std::string &name) {
    if (name == "float16")
        return RowFormat::float16;
    if (name == "bfloat16")
        return RowFormat::bfloat16;
    if (name == "float32")
        return RowFormat::float32;
    if (name == "float64")
        return RowFormat::float64;
    if (name == "packed int8")
        return RowFormat::int8;
    if (name == "packed int4")
        return RowFormat::int4;
    return RowFormat::opaque;
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

[[noreturn]] void throw_out_of_range(const void *ids, IdType type, std::size_t position,
                                     std::size_t task = 0) {
    const Id id = id_at(ids, type, position);
    throw OutOfRangeId(
        std::to_string(position) + " " +
        (id.negative ? std::to_string(static_cast<std::int64_t>(id.bits)) : std::to_string(id.bits)) + " " +
        std::to_string(task));
}

using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using RowIds = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

/// Bags of a table that wait to be combined, and what they need meanwhile.
struct PoolTask {
    Pool pool;
    Offsets offsets;
    std::vector<std::byte> zeros;
    nb::object rows, ids, weights, out; // kept alive
    Maps *maps = nullptr;               // of the rows, where they are mapped
};

/// The rows of a table where they lie: a partition, and the arrays that are its shards.
class Rows {
public:
    /// `dtype` and `tail` are those of the rows that a lookup returns, `row_bytes` and `format` of those that
    /// the shards hold.
    Rows(const Partition &partition, const nb::list &shards, nb::object dtype,
         std::vector<std::intptr_t> tail, std::size_t row_bytes, const std::string &format, bool mapped)
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
            for (std::size_t k = 0; k < rows.size(); ++k)
                add_rows(maps_, shards_[k], rows[k], row_bytes);
        }
        task_.partition = partition_.view();
        task_.shards = shards_.data();
        task_.row_bytes = row_bytes;
        task_.format = format_of(format);
        task_.dim = 1;
        for (const std::intptr_t length : tail_)
            task_.dim *= static_cast<std::size_t>(length);
        if (task_.format != RowFormat::opaque && row_bytes_of(task_.format, task_.dim) != row_bytes)
            throw nb::value_error("the bytes of a row are not those of its format");
        if (task_.format == RowFormat::int8 || task_.format == RowFormat::int4)
            task_.out_format = RowFormat::float32;
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

    /// `dtype`: of the result, by the name `format`; the rows' own where it is None.
    nb::object lookup_into(nb::handle ids, nb::object out, const std::string &policy,
                           std::uint64_t default_row, double max_norm, nb::handle dtype,
                           const std::string &format) const {
        const std::optional<IdArray> array = as_id_array(ids);
        if (!array)
            throw nb::type_error("ids must be a contiguous array of integers");
        const bool owned = out.is_none();
        bool fresh = false;
        if (owned)
            out = new_array(dtype.is_none() ? nb::handle(dtype_) : dtype, array->shape, tail_, &fresh);
        Gather task = prepare(*array, out);
        task.out_is_fresh = fresh;
        task.out_of_range = policy_of(policy);
        task.default_row = default_row;
        task.max_norm = max_norm;
        if (!dtype.is_none())
            task.out_format = format_of(format);
        const std::vector<std::byte> zeros(task.out_of_range == OutOfRange::zeros ? task.row_bytes : 0);
        task.zero_row = zeros.data();
        if (!owned &&
            task.out_of_range == OutOfRange::error) { // the caller's array stays as it is after an error
            const ReleasedGil free;
            const std::size_t bad =
                find_out_of_range(task.ids, task.id_type, task.count, task.partition.num_rows);
            if (bad != all_in_range)
                throw_out_of_range(task.ids, task.id_type, bad);
        }
        run(task, *array);
        return out;
    }

    /// Bags of rows, each to be combined to one; `offsets` are those of as_bags, a copy that nobody else
    /// writes to: not copied again, for that took a tenth of the time of 26 tables. `out` takes a row for
    /// each bag.
    std::unique_ptr<PoolTask> bags(nb::object ids, const Offsets &offsets, nb::object weights,
                                   const std::string &combiner, const std::string &policy,
                                   std::uint64_t stand_in, double max_norm,
                                   std::optional<std::int64_t> padding,
                                   std::optional<std::uint64_t> empty_row, bool skip_negative,
                                   bool skip_weightless, nb::object out, const std::string &out_format) {
        const IdArray array = required(as_id_array(ids));
        auto made = std::make_unique<PoolTask>();
        made->offsets = offsets;
        const std::span<const std::int64_t> bounds(offsets.data(), offsets.shape(0));
        if (!are_splits(bounds, array.count) || static_cast<std::size_t>(bounds.back()) != array.count)
            throw nb::value_error("expected offsets from 0 to the number of ids, in ascending order");
        Pool &task = made->pool;
        task.rows = prepare(array, nb::handle());
        task.rows.out_format = RowFormat::opaque;
        if (task.rows.format == RowFormat::opaque)
            throw nb::type_error("expected rows of floating-point numbers");
        task.rows.out_of_range = policy_of(policy);
        task.rows.default_row = stand_in;
        made->zeros.resize(task.rows.row_bytes);
        task.rows.zero_row = made->zeros.data();
        task.rows.max_norm = max_norm;
        task.offsets = bounds.data();
        task.num_bags = bounds.size() - 1;
        if (!weights.is_none()) {
            const std::size_t size = task.rows.format == RowFormat::float64 ? 8 : 4;
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
        task.out = array_data(out);
        task.out_format = format_of(out_format);
        task.out_is_fresh = is_fresh(out);
        task.out_stride = nb::cast<std::ptrdiff_t>(out.attr("strides")[nb::int_(0)]);
        if (nb::cast<std::size_t>(out.attr("size")) != task.num_bags * task.rows.dim ||
            nb::cast<std::size_t>(out.attr("itemsize")) != row_bytes_of(task.out_format, 1))
            throw nb::value_error("expected a row of the output for each bag");
        task.watch = mapped_ ? &watch_ : nullptr;
        made->maps = mapped_ ? &maps_ : nullptr;
        made->rows = nb::find(this);
        made->ids = std::move(ids);
        made->weights = std::move(weights);
        made->out = std::move(out);
        return made;
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
        {
            const ReleasedGil free;
            std::optional<Watched> watched;
            if (mapped_)
                watched.emplace(maps_);
            scatter(task);
        }
        refuse_lost(maps_);
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
        if (error == file_was_cut)
            throw_store_error(
                "expected a file as long as when the table was opened, got one that was cut short "
                "meanwhile; restore it from a copy, or write the table again");
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
            throw_out_of_range(task.ids, IdType::i64, bad);
        return task;
    }

    void run(const Gather &task, const IdArray &ids) const {
        std::size_t bad = all_in_range;
        // Rows of a file may have to be read from disk first, however few they are.
        if (mapped_ || task.count * task.row_bytes >= release_bytes) {
            const ReleasedGil free;
            if (mapped_) {
                const Watched watched(maps_);
                bad = gather_mapped(task, watch_);
            } else {
                bad = gather(task);
            }
        } else {
            bad = gather(task);
        }
        refuse_lost(maps_);
        if (bad != all_in_range)
            throw_out_of_range(ids.data, ids.type, bad);
    }

    Partition partition_;
    nb::list owners_;
    nb::object dtype_;
    std::vector<std::intptr_t> tail_;
    std::vector<Shard> shards_;
    Gather task_;
    bool mapped_;
    mutable Watch watch_;
    mutable Maps maps_;
};

/// Offsets of bags, a copy with `count` behind them if they are not `closed`; None where they do not begin
/// with 0, fall, or end beyond `count`. What is checked is the copy.
nb::object splits(nb::handle offsets, std::int64_t count, bool closed) {
    const std::optional<IdArray> array = as_id_array(offsets);
    if (!array || array->type != IdType::i64 || array->shape.size() != 1)
        throw nb::type_error("offsets must be a contiguous array of int64 of rank 1");
    const std::intptr_t length[] = {array->shape[0] + (closed ? 0 : 1)};
    nb::object out = new_array(offsets.attr("dtype"), length, {});
    auto *const bounds = reinterpret_cast<std::int64_t *>(array_data(out));
    std::memcpy(bounds, array->data, array->count * sizeof(std::int64_t));
    if (!closed)
        bounds[array->count] = count;
    const bool right =
        are_splits({bounds, static_cast<std::size_t>(length[0])}, static_cast<std::size_t>(count));
    return right ? out : nb::none();
}

/// Does them all in one go.
void run_pools(const std::vector<PoolTask *> &tasks) {
    std::vector<Pool> pools;
    pools.reserve(tasks.size());
    for (const PoolTask *const task : tasks)
        pools.push_back(task->pool);
    RefusedId bad;
    {
        const ReleasedGil free;
        std::deque<Watched> watched;
        for (const PoolTask *const task : tasks)
            if (task->maps != nullptr)
                watched.emplace_back(*task->maps);
        bad = pool(pools);
        while (!watched.empty()) // the innermost first
            watched.pop_back();
    }
    for (const PoolTask *const task : tasks)
        if (task->maps != nullptr)
            refuse_lost(*task->maps);
    if (bad.position != all_in_range) {
        const Gather &rows = pools[bad.task].rows;
        throw_out_of_range(rows.ids, rows.id_type, bad.position, bad.task);
    }
}

} // namespace

void register_gather(nb::module_ &m) {
    nb::exception<OutOfRangeId>(m, "OutOfRangeId", PyExc_IndexError);
    nb::class_<PoolTask>(m, "PoolTask", "Bags of a table that wait to be combined.");
    m.def("splits", &splits, "offsets"_a, "count"_a, "closed"_a,
          nb::sig("def splits(offsets: numpy.typing.NDArray[numpy.int64], count: int, closed: bool) -> "
                  "numpy.typing.NDArray[numpy.int64] | None"),
          "Checked offsets of bags, a copy; with `count` behind them if they are not closed.");
    m.def("run_pools", &run_pools, "tasks"_a, "Combines the bags of all of them, in one go.");
    nb::class_<Rows>(m, "Rows", "The rows of a table where they lie.")
        .def(nb::init<const Partition &, const nb::list &, nb::object, std::vector<std::intptr_t>,
                      std::size_t, const std::string &, bool>(),
             "partition"_a, "shards"_a, "dtype"_a, "tail"_a, "row_bytes"_a, "format"_a, "mapped"_a,
             nb::sig(
                 "def __init__(self, partition: Partition, shards: list[numpy.typing.NDArray[typing.Any]], "
                 "dtype: numpy.dtype[typing.Any], tail: Sequence[int], row_bytes: int, format: str, mapped: "
                 "bool) "
                 "-> None"))
        .def("lookup", &Rows::lookup,
             nb::sig("def lookup(self, ids: object, /) -> numpy.typing.NDArray[typing.Any] | None"),
             "Rows of a contiguous array of integers; None for any other object.")
        .def("lookup_into", &Rows::lookup_into, "ids"_a, "out"_a.none(), "policy"_a, "default_row"_a,
             "max_norm"_a, "dtype"_a.none(), "format"_a,
             nb::sig("def lookup_into(self, ids: numpy.typing.NDArray[typing.Any], "
                     "out: numpy.typing.NDArray[typing.Any] | None, policy: str, default_row: int, "
                     "max_norm: float, dtype: numpy.dtype[typing.Any] | None, format: str) -> "
                     "numpy.typing.NDArray[typing.Any]"))
        .def("bags", &Rows::bags, "ids"_a, "offsets"_a.noconvert(), "weights"_a.none(), "combiner"_a,
             "policy"_a, "stand_in"_a, "max_norm"_a, "padding"_a.none(), "empty_row"_a.none(),
             "skip_negative"_a, "skip_weightless"_a, "out"_a, "format"_a,
             nb::sig("def bags(self, ids: numpy.typing.NDArray[typing.Any], "
                     "offsets: numpy.typing.NDArray[numpy.int64], "
                     "weights: numpy.typing.NDArray[typing.Any] | None, combiner: str, policy: str, "
                     "stand_in: int, max_norm: float, padding: int | None, empty_row: int | None, "
                     "skip_negative: bool, skip_weightless: bool, out: numpy.typing.NDArray[typing.Any], "
                     "format: str) -> PoolTask"),
             "Bags of rows, each to be combined to a row of `out`: `offsets` has one entry more than there "
             "are bags.")
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

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
#include "core/scatter.h"
#include "core/update.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

/// "id position value" or "number position", for Python to make a sentence of.
struct RefusedUpdate : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class T>
T named(const std::string &name, std::initializer_list<std::pair<const char *, T>> choices) {
    for (const auto &[known, value] : choices)
        if (name == known)
            return value;
    throw nb::value_error(("unknown: " + name).c_str());
}

RowFormat row_format_of(const std::string &name) {
    return named<RowFormat>(name, {{"float16", RowFormat::float16},
                                   {"bfloat16", RowFormat::bfloat16},
                                   {"float32", RowFormat::float32},
                                   {"float64", RowFormat::float64}});
}

RuleKind rule_kind_of(const std::string &name) {
    return named<RuleKind>(name, {{"sgd", RuleKind::sgd},
                                  {"adagrad", RuleKind::adagrad},
                                  {"rowwise_adagrad", RuleKind::rowwise_adagrad},
                                  {"rmsprop", RuleKind::rmsprop},
                                  {"adam", RuleKind::adam},
                                  {"ftrl", RuleKind::ftrl}});
}

using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Flags = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bits = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using RowIds = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void mark(const Bits &changed, const RowIds &ids, std::uint64_t num_rows) {
    if (changed.shape(0) < num_rows / 8 + (num_rows % 8 != 0))
        throw nb::value_error("expected a bit for each row");
    const ReleasedGil free;
    mark_rows(ids.data(), ids.shape(0), num_rows, changed.data());
}

using Counter = nb::ndarray<std::int64_t, nb::shape<1>, nb::c_contig, nb::device::cpu>;
using ReadCounter = nb::ndarray<const std::int64_t, nb::shape<1>, nb::c_contig, nb::device::cpu>;

/// The rows of a table and an optimizer's state beside them, where they lie, to be written to.
class Updater {
public:
    Updater(const Partition &partition, const nb::list &shards, const std::string &format,
            std::size_t row_bytes, const nb::list &states, bool mapped)
        : partition_(partition), owners_(nb::make_tuple(shards, states)), mapped_(mapped) {
        task_.rows.format = row_format_of(format);
        const std::size_t width = task_.rows.format == RowFormat::float64   ? 8
                                  : task_.rows.format == RowFormat::float32 ? 4
                                                                            : 2;
        task_.rows.dim = row_bytes / width;
        task_.rows.partition = partition_.view();
        task_.rows.row_bytes = row_bytes;
        rows_ = places_of(shards);
        if (mapped_)
            for (std::size_t shard = 0; shard < rows_.size(); ++shard)
                add_rows(maps_, rows_[shard],
                         static_cast<std::size_t>(partition_.shard_size(static_cast<std::int64_t>(shard))),
                         row_bytes);
        if (nb::len(states) > most_states)
            throw nb::value_error("more states than a rule has");
        for (std::size_t k = 0; k < nb::len(states); ++k) {
            if (states[k].is_none())
                continue;
            const auto arrays = nb::cast<nb::list>(states[k]);
            states_[k] = places_of(arrays);
            state_bytes_[k] = 0;
            for (std::size_t shard = 0; shard < states_[k].size(); ++shard) {
                const auto size = static_cast<std::size_t>(states_[k][shard].stride);
                if (partition_.shard_size(static_cast<std::int64_t>(shard)) > 0)
                    state_bytes_[k] = size;
            }
            if (mapped_) {
                std::vector<std::size_t> sizes;
                for (std::int64_t shard = 0; shard < partition_.num_shards(); ++shard)
                    sizes.push_back(static_cast<std::size_t>(partition_.shard_size(shard)));
                advise_random(states_[k].data(), sizes.data(), sizes.size(), state_bytes_[k]);
                for (std::size_t shard = 0; shard < sizes.size(); ++shard)
                    add_rows(maps_, states_[k][shard], sizes[shard], state_bytes_[k]);
            }
        }
    }
    Updater(const Updater &) = delete;
    Updater &operator=(const Updater &) = delete;

    void update(nb::handle ids, const std::optional<Offsets> &offsets, nb::handle weights,
                nb::handle gradients, const Rule &rule, const std::string &combiner,
                const std::string &policy, std::uint64_t stand_in, std::optional<std::int64_t> padding,
                bool skip_negative, bool skip_weightless, bool check_finite,
                const std::optional<Flags> &frozen, std::pair<std::uint64_t, std::uint64_t> frozen_range,
                std::optional<std::uint64_t> seed, const std::optional<Bits> &changed) const {
        const std::optional<IdArray> array = as_id_array(ids);
        if (!array)
            throw nb::type_error("ids must be a contiguous array of integers");
        Update task = task_;
        task.rows.shards = rows_.data();
        task.rows.ids = array->data;
        task.rows.id_type = array->type;
        task.rows.count = array->count;
        task.rows.out_of_range = named<OutOfRange>(policy, {{"error", OutOfRange::error},
                                                            {"zeros", OutOfRange::zeros},
                                                            {"clamp", OutOfRange::clamp},
                                                            {"wrap", OutOfRange::wrap},
                                                            {"row", OutOfRange::row}});
        task.rows.default_row = stand_in;
        // Copied, and checked: what another thread writes there must not lead outside the ids.
        std::vector<std::int64_t> bounds;
        std::size_t gradient_rows = array->count;
        const std::size_t number = task.rows.format == RowFormat::float64 ? 8 : 4;
        if (offsets) {
            bounds.assign(offsets->data(), offsets->data() + offsets->shape(0));
            if (bounds.empty() || bounds.front() != 0 || !std::is_sorted(bounds.begin(), bounds.end()) ||
                static_cast<std::size_t>(bounds.back()) != array->count)
                throw nb::value_error("expected offsets from 0 to the number of ids, in ascending order");
            task.offsets = bounds.data();
            task.num_bags = gradient_rows = bounds.size() - 1;
            task.combiner = named<Combiner>(combiner, {{"sum", Combiner::sum},
                                                       {"mean", Combiner::mean},
                                                       {"sqrtn", Combiner::sqrtn},
                                                       {"max", Combiner::max}});
            if (!weights.is_none()) {
                if (nb::cast<std::size_t>(weights.attr("nbytes")) != array->count * number)
                    throw nb::value_error("expected a weight for each id");
                task.weights = array_data(weights);
            }
        }
        if (nb::cast<std::size_t>(gradients.attr("nbytes")) != gradient_rows * task.rows.dim * number)
            throw nb::value_error("expected a gradient for each id or bag");
        task.gradients = array_data(gradients);
        task.check_finite = check_finite;
        task.has_padding = padding.has_value();
        task.padding = padding.value_or(0);
        task.skip_negative = skip_negative;
        task.skip_weightless = skip_weightless;
        if (frozen) {
            if (frozen->shape(0) != task.rows.partition.num_rows)
                throw nb::value_error("expected a flag for each row");
            task.frozen = frozen->data();
        }
        task.frozen_begin = frozen_range.first;
        task.frozen_end = frozen_range.second;
        if (changed) {
            const std::uint64_t num_rows = task.rows.partition.num_rows;
            if (changed->shape(0) < num_rows / 8 + (num_rows % 8 != 0))
                throw nb::value_error("expected a bit for each row");
            task.changed = changed->data();
        }
        task.rule = rule;
        const Slots slots = slots_of(rule, task.rows.dim);
        for (std::size_t k = 0; k < most_states; ++k) {
            if (slots.numbers[k] == 0)
                continue;
            const bool is_step = rule.kind == RuleKind::adam && k == 2;
            const std::size_t wanted = slots.numbers[k] * (is_step ? 8 : number);
            if (states_[k].empty() || (state_bytes_[k] != wanted && partition_.num_rows() > 0))
                throw nb::value_error("expected the rule's state beside the rows");
            task.state[k] = {states_[k].data(), wanted};
        }
        task.stochastic = seed.has_value();
        task.seed = seed.value_or(0);
        Refused refused;
        {
            const ReleasedGil free;
            std::optional<Watched> watched;
            if (mapped_)
                watched.emplace(maps_);
            refused = shardwise::update(task, mapped_ ? &watch_ : nullptr);
        }
        refuse_lost(maps_);
        if (refused.number != all_in_range)
            throw RefusedUpdate("number " + std::to_string(refused.number));
        if (refused.id != all_in_range) {
            const Id id = id_at(array->data, array->type, refused.id);
            throw RefusedUpdate(
                "id " + std::to_string(refused.id) + " " +
                (id.negative ? std::to_string(static_cast<std::int64_t>(id.bits)) : std::to_string(id.bits)));
        }
    }

private:
    std::vector<Shard> places_of(const nb::list &arrays) const {
        if (nb::len(arrays) != static_cast<std::size_t>(partition_.num_shards()))
            throw nb::value_error("one array a shard");
        std::vector<Shard> places;
        places.reserve(nb::len(arrays));
        for (const nb::handle array : arrays) {
            if (nb::cast<std::int64_t>(array.attr("shape")[nb::int_(0)]) !=
                partition_.shard_size(static_cast<std::int64_t>(places.size())))
                throw nb::value_error("a shard has not the length that the partition gives");
            places.push_back(
                {array_data(array), nb::cast<std::ptrdiff_t>(array.attr("strides")[nb::int_(0)])});
        }
        return places;
    }

    Partition partition_;
    nb::object owners_;
    std::vector<Shard> rows_;
    std::vector<Shard> states_[most_states];
    std::size_t state_bytes_[most_states] = {};
    Update task_;
    bool mapped_;
    mutable Watch watch_;
    mutable Maps maps_;
};

/// body() with the number that counts a table's updates, which may lie in a mapped file.
template <class Number, class Body> std::int64_t with_counter(Number *counter, Body &&body) {
    Maps maps;
    maps.add(counter, sizeof *counter);
    std::int64_t count = 0;
    {
        const Watched watched(maps);
        count = body(*counter);
    }
    refuse_lost(maps);
    return count;
}

} // namespace

void register_update(nb::module_ &m) {
    nb::exception<RefusedUpdate>(m, "RefusedUpdate", PyExc_ValueError);
    nb::class_<Rule>(m, "Rule", "How a gradient changes a row: an optimizer's numbers for one step.")
        .def(
            "__init__",
            [](Rule *rule, const std::string &kind, double learning_rate, double weight_decay, double shrink,
               double clip_norm, double eps, double momentum, bool nesterov, double beta1, double beta2,
               bool eps_last, bool corrected, std::int64_t step, double l1, double l2, double l2_shrinkage) {
                new (rule) Rule{rule_kind_of(kind),
                                learning_rate,
                                weight_decay,
                                shrink,
                                clip_norm,
                                eps,
                                momentum,
                                nesterov,
                                beta1,
                                beta2,
                                eps_last,
                                corrected,
                                step,
                                l1,
                                l2,
                                l2_shrinkage};
            },
            nb::kw_only(), "kind"_a, "learning_rate"_a, "weight_decay"_a = 0.0, "shrink"_a = 1.0,
            "clip_norm"_a = std::numeric_limits<double>::infinity(), "eps"_a = 0.0, "momentum"_a = 0.0,
            "nesterov"_a = false, "beta1"_a = 0.0, "beta2"_a = 0.0, "eps_last"_a = false,
            "corrected"_a = false, "step"_a = 1, "l1"_a = 0.0, "l2"_a = 0.0, "l2_shrinkage"_a = 0.0);
    nb::class_<Updater>(m, "Updater", "The rows of a table and an optimizer's state, to be written to.")
        .def(nb::init<const Partition &, const nb::list &, const std::string &, std::size_t, const nb::list &,
                      bool>(),
             "partition"_a, "shards"_a, "format"_a, "row_bytes"_a, "states"_a, "mapped"_a,
             nb::sig(
                 "def __init__(self, partition: Partition, shards: list[numpy.typing.NDArray[typing.Any]], "
                 "format: str, row_bytes: int, states: list[list[numpy.typing.NDArray[typing.Any]] | None], "
                 "mapped: bool) -> None"))
        .def("update", &Updater::update, nb::kw_only(), "ids"_a, "offsets"_a.none().noconvert(),
             "weights"_a.none(), "gradients"_a, "rule"_a, "combiner"_a, "policy"_a, "stand_in"_a,
             "padding"_a.none(), "skip_negative"_a, "skip_weightless"_a, "check_finite"_a,
             "frozen"_a.none().noconvert(), "frozen_range"_a, "seed"_a.none(),
             "changed"_a.none().noconvert() = nb::none(),
             nb::sig("def update(self, *, ids: numpy.typing.NDArray[typing.Any], "
                     "offsets: numpy.typing.NDArray[numpy.int64] | None, "
                     "weights: numpy.typing.NDArray[typing.Any] | None, "
                     "gradients: numpy.typing.NDArray[typing.Any], rule: Rule, combiner: str, policy: str, "
                     "stand_in: int, padding: int | None, skip_negative: bool, skip_weightless: bool, "
                     "check_finite: bool, frozen: numpy.typing.NDArray[numpy.uint8] | None, "
                     "frozen_range: tuple[int, int], seed: int | None, "
                     "changed: numpy.typing.NDArray[numpy.uint8] | None = None) -> None"),
             "Applies a gradient for each id, or with `offsets` one for each bag; all or nothing is changed "
             "where ids or gradients are refused. The rows' bits in `changed` are set.");
    m.def(
        "counted",
        [](const ReadCounter &counter) {
            return with_counter(counter.data(), [](const std::int64_t &number) { return number; });
        },
        "counter"_a.noconvert(), nb::sig("def counted(counter: numpy.typing.NDArray[numpy.int64]) -> int"),
        "The number in `counter`, which may lie in a mapped file.");
    m.def(
        "count_one",
        [](const Counter &counter) {
            with_counter(counter.data(), [](std::int64_t &number) { return ++number; });
        },
        "counter"_a.noconvert(), nb::sig("def count_one(counter: numpy.typing.NDArray[numpy.int64]) -> None"),
        "Adds one to it.");
    m.def("mark_rows", &mark, "changed"_a.noconvert(), "ids"_a.noconvert(), "num_rows"_a,
          nb::sig("def mark_rows(changed: numpy.typing.NDArray[numpy.uint8], "
                  "ids: numpy.typing.NDArray[numpy.int64], num_rows: int) -> None"),
          "Sets the bits of ids; those outside the rows are passed over.");
}

} // namespace shardwise

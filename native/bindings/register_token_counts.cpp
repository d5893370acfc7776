#include "bindings.h"

#include <mutex>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include "core/token_counts.h"
#include "owned.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Numbers = ArrayOf<std::int64_t>;
using Counted = std::tuple<Owned<std::uint8_t>, Owned<std::int64_t>, Owned<std::int64_t>>;

Counted owned_tokens(CountedTokens &&tokens) {
    return {owned(std::move(tokens.bytes)), owned(std::move(tokens.offsets)),
            owned(std::move(tokens.counts))};
}

void check_length(std::size_t length, const Tokens &tokens) {
    if (length != tokens.count)
        throw nb::value_error("expected one count for each token");
}

/// Threads of Python may share it: each call has its turn.
class SharedCounts {
    std::mutex mutex_;
    TokenCounts counts_;

    template <class F> auto in_turn(F &&work) {
        const ReleasedGil free; // first: who waits for the turn must not hold the GIL
        const std::lock_guard lock(mutex_);
        return work();
    }

public:
    std::size_t count_text(const Bytes &data, bool last) {
        return in_turn([&] { return counts_.count_text(data.data(), data.shape(0), last); });
    }
    void count_tokens(const Bytes &data, const Numbers &offsets) {
        const Tokens tokens = tokens_of(data, offsets);
        in_turn([&] { counts_.count_tokens(tokens); });
    }
    void add(const Bytes &data, const Numbers &offsets, const Numbers &counts) {
        const Tokens tokens = tokens_of(data, offsets);
        check_length(counts.shape(0), tokens);
        in_turn([&] { counts_.count_tokens(tokens, counts.data()); });
    }
    std::size_t size() {
        return in_turn([&] { return counts_.size(); });
    }
    std::uint64_t total() {
        return in_turn([&] { return counts_.total(); });
    }
    Counted tokens(std::int64_t min_count) {
        return owned_tokens(in_turn([&] { return counts_.tokens(min_count); }));
    }
    void find(const Bytes &data, const Numbers &offsets, const NewNumbers &counts) {
        const Tokens tokens = tokens_of(data, offsets);
        check_length(counts.shape(0), tokens);
        in_turn([&] { counts_.find(tokens, counts.data()); });
    }
};

Ties ties_of(const char *name) {
    const std::string_view wanted = name;
    if (wanted == "first")
        return Ties::first;
    if (wanted == "ascending")
        return Ties::ascending;
    if (wanted == "descending")
        return Ties::descending;
    throw nb::value_error("expected first, ascending or descending");
}

Owned<std::int64_t> order(const Bytes &data, const Numbers &offsets, const Numbers &counts,
                          const char *ties) {
    const Tokens tokens = tokens_of(data, offsets);
    check_length(counts.shape(0), tokens);
    const Ties wanted = ties_of(ties);
    return owned(without_gil([&] { return order_tokens(tokens, counts.data(), wanted); }));
}

Counted take(const Bytes &data, const Numbers &offsets, const Numbers &counts, const Numbers &ids) {
    const Tokens tokens = tokens_of(data, offsets);
    check_length(counts.shape(0), tokens);
    return owned_tokens(
        without_gil([&] { return take_tokens(tokens, counts.data(), ids.data(), ids.shape(0)); }));
}

} // namespace

void register_token_counts(nb::module_ &m) {
    nb::class_<SharedCounts>(m, "TokenCounts", "How often each token was seen.")
        .def(nb::init<>())
        .def("count_text", &SharedCounts::count_text, "data"_a.noconvert(), "last"_a,
             "Counts the tokens between ASCII white space; returns how many bytes were used: all of the "
             "`last` block, else those up to the last white space.")
        .def("count_tokens", &SharedCounts::count_tokens, "data"_a.noconvert(), "offsets"_a.noconvert(),
             "Counts each token once.")
        .def("add", &SharedCounts::add, "data"_a.noconvert(), "offsets"_a.noconvert(), "counts"_a.noconvert(),
             "Counts each token as often as `counts` says.")
        .def("__len__", &SharedCounts::size)
        .def_prop_ro("total", &SharedCounts::total, "How many tokens were counted.")
        .def("tokens", &SharedCounts::tokens, "min_count"_a,
             "(data, offsets, counts) of the tokens with at least that many, in the order in which they "
             "were first seen.")
        .def("find", &SharedCounts::find, "data"_a.noconvert(), "offsets"_a.noconvert(),
             "counts"_a.noconvert(), "Fills `counts` with those of each token, 0 where it was not seen.");
    m.def("order_tokens", &order, "data"_a.noconvert(), "offsets"_a.noconvert(), "counts"_a.noconvert(),
          "ties"_a,
          "The numbers of the tokens, the most frequent first; of equals the `first`, or by their bytes "
          "`ascending` or `descending`.");
    m.def("take_tokens", &take, "data"_a.noconvert(), "offsets"_a.noconvert(), "counts"_a.noconvert(),
          "ids"_a.noconvert(), "(data, offsets, counts) of some of the tokens, in the order of `ids`.");
}

} // namespace shardwise

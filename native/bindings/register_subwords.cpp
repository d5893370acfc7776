#include "bindings.h"

#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include "core/subwords.h"
#include "owned.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

void counts(const Bytes &data, const Offsets &offsets, std::int64_t min_chars, std::int64_t max_chars,
            bool cut_end, const NewNumbers &out) {
    const Tokens tokens = tokens_of(data, offsets);
    if (out.shape(0) != tokens.count)
        throw nb::value_error("expected one count for each token");
    const ReleasedGil free;
    count_subwords(tokens, {min_chars, max_chars, 1, cut_end}, out.data());
}

std::pair<Owned<std::int64_t>, Owned<std::int64_t>> buckets_of(const Bytes &data, const Offsets &offsets,
                                                               std::int64_t min_chars, std::int64_t max_chars,
                                                               std::uint32_t buckets, bool cut_end,
                                                               std::size_t most) {
    const Tokens tokens = tokens_of(data, offsets);
    SubwordBuckets found =
        without_gil([&] { return subword_buckets(tokens, {min_chars, max_chars, buckets, cut_end}, most); });
    return {owned(std::move(found.buckets)), owned(std::move(found.offsets))};
}

} // namespace

void register_subwords(nb::module_ &m) {
    m.def("count_subwords", &counts, "data"_a.noconvert(), "offsets"_a.noconvert(), "min_chars"_a,
          "max_chars"_a, "cut_end"_a, "counts"_a.noconvert(),
          "Fills `counts` with the number of fastText's n-grams of each token.");
    m.def("subword_buckets", &buckets_of, "data"_a.noconvert(), "offsets"_a.noconvert(), "min_chars"_a,
          "max_chars"_a, "buckets"_a, "cut_end"_a, "most"_a,
          "The buckets of fastText's n-grams of all tokens, and where each token's begin; ValueError if they "
          "are more than `most`.");
}

} // namespace shardwise

#include "bindings.h"

#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include "core/subwords.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewCounts = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Owned = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;

Owned owned(std::vector<std::int64_t> &&values) {
    auto *const moved = new std::vector<std::int64_t>(std::move(values));
    const nb::capsule owner(moved,
                            [](void *p) noexcept { delete static_cast<std::vector<std::int64_t> *>(p); });
    return Owned(moved->data(), {moved->size()}, owner);
}

Tokens tokens_of(const Bytes &data, const Offsets &offsets) {
    if (offsets.shape(0) == 0)
        throw nb::value_error("expected one offset more than there are tokens, got none");
    return {data.data(), data.shape(0), offsets.data(), offsets.shape(0) - 1};
}

void counts(const Bytes &data, const Offsets &offsets, std::int64_t min_chars, std::int64_t max_chars,
            bool cut_end, const NewCounts &out) {
    const Tokens tokens = tokens_of(data, offsets);
    if (out.shape(0) != tokens.count)
        throw nb::value_error("expected one count for each token");
    const ReleasedGil free;
    count_subwords(tokens, {min_chars, max_chars, 1, cut_end}, out.data());
}

std::pair<Owned, Owned> buckets_of(const Bytes &data, const Offsets &offsets, std::int64_t min_chars,
                                   std::int64_t max_chars, std::uint32_t buckets, bool cut_end,
                                   std::size_t most) {
    const Tokens tokens = tokens_of(data, offsets);
    SubwordBuckets found = [&] {
        const ReleasedGil free;
        return subword_buckets(tokens, {min_chars, max_chars, buckets, cut_end}, most);
    }();
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

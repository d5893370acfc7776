#include "bindings.h"

#include <nanobind/ndarray.h>

#include "core/token_map.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Slots = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewBytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewIds = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewSlots = nb::ndarray<std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Tokens tokens_of(const Bytes &data, const Offsets &offsets) {
    if (offsets.shape(0) == 0)
        throw nb::value_error("expected one offset more than there are tokens, got none");
    return {data.data(), data.shape(0), offsets.data(), offsets.shape(0) - 1};
}

std::uint64_t hash(const nb::bytes &data) {
    return hash64(static_cast<const std::uint8_t *>(data.data()), data.size());
}

void unjoin(const nb::bytes &joined, const NewBytes &data, const NewIds &offsets) {
    const std::size_t count = offsets.shape(0) - 1;
    if (offsets.shape(0) < 2 || joined.size() < count - 1 || data.shape(0) != joined.size() - (count - 1))
        throw nb::value_error(
            "expected at least one token, one NUL between each two, and data as long as the tokens");
    const auto *const bytes = static_cast<const std::uint8_t *>(joined.data());
    const ReleasedGil free;
    unjoin_tokens(bytes, joined.size(), count, data.data(), offsets.data());
}

std::size_t build(const Bytes &data, const Offsets &offsets, const NewSlots &slots, const NewIds &first_of) {
    const Tokens tokens = tokens_of(data, offsets);
    if (first_of.shape(0) != tokens.count)
        throw nb::value_error("expected one entry of first_of for each token");
    const ReleasedGil free;
    return build_token_map(tokens, slots.data(), slots.shape(0), first_of.data());
}

void validate(const Bytes &data, const Offsets &offsets, const Slots &slots) {
    validate_token_map({tokens_of(data, offsets), slots.data(), slots.shape(0)});
}

void find(const Bytes &data, const Offsets &offsets, const Slots &slots, const Bytes &wanted,
          const Offsets &wanted_offsets, const NewIds &ids) {
    const TokenMap map{tokens_of(data, offsets), slots.data(), slots.shape(0)};
    const Tokens tokens = tokens_of(wanted, wanted_offsets);
    if (ids.shape(0) != tokens.count)
        throw nb::value_error("expected one id for each token");
    const ReleasedGil free;
    find_tokens(map, tokens, ids.data());
}

} // namespace

void register_token_map(nb::module_ &m) {
    m.def("hash64", &hash, "data"_a, "XXH64 with seed 0.");
    m.def("token_map_slots", &token_map_slots, "count"_a, "The number of slots for `count` tokens.");
    m.def("unjoin_tokens", &unjoin, "joined"_a, "data"_a.noconvert(), "offsets"_a.noconvert(),
          "Cuts tokens with one NUL between neighbours into `data` and `offsets`; ValueError if a token has "
          "a NUL.");
    m.def("build_token_map", &build, "data"_a.noconvert(), "offsets"_a.noconvert(), "slots"_a.noconvert(),
          "first_of"_a.noconvert(),
          "Fills `slots`, and `first_of` with the first id of each token's bytes; returns the number of "
          "repetitions.");
    m.def("validate_token_map", &validate, "data"_a.noconvert(), "offsets"_a.noconvert(),
          "slots"_a.noconvert(),
          "ValueError if the arrays cannot be a map; reads the ends of `offsets` and nothing else.");
    m.def("find_tokens", &find, "data"_a.noconvert(), "offsets"_a.noconvert(), "slots"_a.noconvert(),
          "wanted"_a.noconvert(), "wanted_offsets"_a.noconvert(), "ids"_a.noconvert(),
          "Fills `ids` with the id of each wanted token, -1 where there is none; ValueError if the map is "
          "damaged.");
}

} // namespace shardwise

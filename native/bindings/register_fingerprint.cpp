#include "bindings.h"

#include <optional>
#include <utility>

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include "core/fingerprint.h"
#include "owned.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Key = std::optional<std::pair<std::uint64_t, std::uint64_t>>;

void buckets_of(const Bytes &data, const Offsets &offsets, std::uint64_t count, const Key &key,
                const NewNumbers &buckets) {
    const Tokens tokens = tokens_of(data, offsets);
    if (buckets.shape(0) != tokens.count)
        throw nb::value_error("expected one bucket for each token");
    const SipKey sip = key ? SipKey{key->first, key->second} : SipKey{};
    const ReleasedGil free;
    hash_buckets(tokens, count, key ? &sip : nullptr, buckets.data());
}

} // namespace

void register_fingerprint(nb::module_ &m) {
    m.def("hash_buckets", &buckets_of, "data"_a.noconvert(), "offsets"_a.noconvert(), "count"_a,
          "key"_a.none(), "buckets"_a.noconvert(),
          "Fills `buckets` with the hash of each token modulo `count`: Fingerprint64, or SipHash-2-4 with a "
          "key.");
}

} // namespace shardwise

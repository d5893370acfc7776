#include "bindings.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <memory>

#include "core/token_map.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class Offset>
using OffsetsOf = nb::ndarray<const Offset, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = OffsetsOf<std::int64_t>;
using Slots = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewBytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewIds = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewSlots = nb::ndarray<std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Offset> BasicTokens<Offset> tokens_of(const Bytes &data, const OffsetsOf<Offset> &offsets) {
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

template <class Offset>
void find(const Bytes &data, const Offsets &offsets, const Slots &slots, const Bytes &wanted,
          const OffsetsOf<Offset> &wanted_offsets, const NewIds &ids) {
    const TokenMap map{tokens_of(data, offsets), slots.data(), slots.shape(0)};
    const BasicTokens<Offset> tokens = tokens_of(wanted, wanted_offsets);
    if (ids.shape(0) != tokens.count)
        throw nb::value_error("expected one id for each token");
    const ReleasedGil free;
    find_tokens(map, tokens, ids.data());
}

/// The item, borrowed, or null where the list has grown short.
PyObject *item_of(PyObject *tokens, bool is_list, std::size_t i) {
    const auto at = static_cast<Py_ssize_t>(i);
    PyObject *const item = is_list ? PyList_GetItem(tokens, at) : PyTuple_GetItem(tokens, at);
    if (item == nullptr)
        PyErr_Clear();
    return item;
}

bool add_bytes(PyObject *token, TokenSpan &span) {
    if (!PyBytes_Check(token))
        return false;
    span = {reinterpret_cast<const std::uint8_t *>(PyBytes_AsString(token)),
            static_cast<std::size_t>(PyBytes_Size(token))};
    return true;
}

/// Where the bytes of tokens[begin, end), of `count` in all, lie. Stops at a token that has none at hand, and
/// returns its number.
std::size_t locate(PyObject *tokens, bool is_list, std::size_t begin, std::size_t end, std::size_t count,
                   TokenSpan *spans) {
    constexpr std::size_t ahead = 32; // objects asked for while others are read
    for (std::size_t i = begin; i < end; ++i) {
        if (i + ahead < count) {
            if (const PyObject *const later = item_of(tokens, is_list, i + ahead)) {
                __builtin_prefetch(later);
                __builtin_prefetch(reinterpret_cast<const char *>(later) + 64);
            }
        }
        PyObject *const token = item_of(tokens, is_list, i);
        if (token == nullptr)
            return i;
        if (!PyUnicode_Check(token)) {
            if (!add_bytes(token, spans[i - begin]))
                return i;
            continue;
        }
        Py_ssize_t size;
        const char *const utf8 = PyUnicode_AsUTF8AndSize(token, &size);
        if (utf8 == nullptr) {
            PyErr_Clear();
            return i;
        }
        spans[i - begin] = {reinterpret_cast<const std::uint8_t *>(utf8), static_cast<std::size_t>(size)};
    }
    return end;
}

/// The GIL is kept while a block of tokens is looked up: their bytes stay only as long as no Python code
/// runs.
bool find_objects(const Bytes &data, const Offsets &offsets, const Slots &slots, nb::handle wanted,
                  const NewIds &ids) {
    constexpr std::size_t block = 2048, turn = std::size_t{1} << 20;
    PyObject *const tokens = wanted.ptr();
    const bool is_list = PyList_Check(tokens);
    if (!is_list && !PyTuple_Check(tokens))
        throw nb::type_error("expected a list or a tuple of tokens");
    const std::size_t count = ids.shape(0);
    SpanFinder finder({tokens_of(data, offsets), slots.data(), slots.shape(0)}, count);
    const auto spans = std::make_unique_for_overwrite<TokenSpan[]>(std::min(count, block));
    for (std::size_t begin = 0, since = 0; begin < count;) {
        const std::size_t end = std::min(count, begin + block);
        // To make an error may run Python code (a collection of garbage): what was located is no longer sure.
        std::size_t stop = end;
        for (std::size_t located;
             (located = locate(tokens, is_list, begin, stop, count, spans.get())) != stop;)
            stop = located;
        finder.find(spans.get(), stop - begin, ids.data() + begin);
        begin = stop;
        if (stop != end) { // a lone surrogate, which may stand for a byte
            nb::object token = nb::borrow(item_of(tokens, is_list, stop));
            if (!token.is_valid() || !PyUnicode_Check(token.ptr()))
                return false;
            const nb::object bytes =
                nb::steal(PyUnicode_AsEncodedString(token.ptr(), "utf-8", "surrogateescape"));
            TokenSpan span;
            if (!bytes.is_valid() || !add_bytes(bytes.ptr(), span)) {
                PyErr_Clear();
                return false;
            }
            finder.find(&span, 1, ids.data() + stop);
            ++begin;
        }
        if (begin - since >= turn) { // let other threads have theirs
            const ReleasedGil free;
            since = begin;
        }
    }
    return true;
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
    constexpr const char *find_doc =
        "Fills `ids` with the id of each wanted token, -1 where there is none; ValueError if the map is "
        "damaged, IndexError if `wanted_offsets` are.";
    m.def("find_tokens", &find<std::int64_t>, "data"_a.noconvert(), "offsets"_a.noconvert(),
          "slots"_a.noconvert(), "wanted"_a.noconvert(), "wanted_offsets"_a.noconvert(), "ids"_a.noconvert(),
          find_doc);
    m.def("find_tokens", &find<std::int32_t>, "data"_a.noconvert(), "offsets"_a.noconvert(),
          "slots"_a.noconvert(), "wanted"_a.noconvert(), "wanted_offsets"_a.noconvert(), "ids"_a.noconvert(),
          find_doc);
    m.def(
        "find_objects", &find_objects, "data"_a.noconvert(), "offsets"_a.noconvert(), "slots"_a.noconvert(),
        "wanted"_a, "ids"_a.noconvert(),
        "find_tokens for a list or tuple of str and bytes. False, with `ids` half filled, where one of them "
        "is no token.");
}

} // namespace shardwise

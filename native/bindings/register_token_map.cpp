#include "bindings.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "core/token_find.h"
#include "owned.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Slots = ArrayOf<std::uint64_t>;
using NewBytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewSlots = nb::ndarray<std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

TokenMap map_of(const Bytes &data, const Offsets &offsets, const Slots &slots, const MappedFile *file) {
    const bool readable = file != nullptr && file->is_open();
    return {tokens_of(data, offsets), slots.data(), slots.shape(0), readable ? file : nullptr};
}

std::uint64_t hash(const nb::bytes &data) {
    return hash64(static_cast<const std::uint8_t *>(data.data()), data.size());
}

void unjoin(const nb::bytes &joined, const NewBytes &data, const NewNumbers &offsets) {
    const std::size_t count = offsets.shape(0) - 1;
    if (offsets.shape(0) < 2 || joined.size() < count - 1 || data.shape(0) != joined.size() - (count - 1))
        throw nb::value_error(
            "expected at least one token, one NUL between each two, and data as long as the tokens");
    const auto *const bytes = static_cast<const std::uint8_t *>(joined.data());
    const ReleasedGil free;
    unjoin_tokens(bytes, joined.size(), count, data.data(), offsets.data());
}

std::size_t build(const Bytes &data, const Offsets &offsets, const NewSlots &slots,
                  const NewNumbers &first_of) {
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
std::size_t find(const Bytes &data, const Offsets &offsets, const Slots &slots, const Bytes &wanted,
                 const ArrayOf<Offset> &wanted_offsets, const NewNumbers &ids, std::int64_t missing,
                 const MappedFile *file) {
    const TokenMap map = map_of(data, offsets, slots, file);
    const BasicTokens<Offset> tokens = tokens_of(wanted, wanted_offsets);
    if (ids.shape(0) != tokens.count)
        throw nb::value_error("expected one id for each token");
    const ReleasedGil free;
    return find_tokens(map, tokens, ids.data(), missing);
}

// ---- lists and tuples of str ----
//
// A str of ASCII alone holds its UTF-8 bytes right behind its header. The API gives them at the cost of a
// call for each token, and to the thread that holds the GIL alone. Read in place they come as fast as memory
// gives them, and to several threads: while the caller holds the GIL and waits for them, no list and no str
// can change. Where things lie in an object is not part of the stable ABI, so it is learned from objects of
// which all is known, once; if one thing is not as expected, the API is used instead.

template <class T> T field(const PyObject *object, std::size_t offset) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char *>(object) + offset, sizeof value);
    return value;
}

struct Layout {
    static constexpr std::size_t length_at = 16, state_at = 32, list_items_at = 24;
    bool known = false;
    std::size_t data_at = 0; // of a str: the bytes
    std::uint32_t plain = 0; // bits of the state: the data lie in the object, and are ASCII
    std::size_t tuple_items_at = 0;

    bool is_plain(PyObject *object) const {
        return Py_TYPE(object) == &PyUnicode_Type &&
               (field<std::uint32_t>(object, state_at) & plain) == plain;
    }
    TokenSpan span(const PyObject *object) const {
        return {reinterpret_cast<const std::uint8_t *>(object) + data_at,
                field<std::size_t>(object, length_at)};
    }
    PyObject *const *items(PyObject *tokens) const {
        if (PyList_Check(tokens))
            return field<PyObject *const *>(tokens, list_items_at);
        return reinterpret_cast<PyObject *const *>(reinterpret_cast<const char *>(tokens) + tuple_items_at);
    }
};

nb::object new_str(const std::string &utf8) {
    return nb::steal(PyUnicode_FromStringAndSize(utf8.data(), static_cast<Py_ssize_t>(utf8.size())));
}

/// The bits of the state that differ wherever a text of `some` is compared with one of `others`. The state
/// is wider than its fields, and what the rest of it holds is chance: many texts leave no such bit.
std::uint32_t telling_bits(const std::vector<nb::object> &some, const std::vector<nb::object> &others) {
    std::uint32_t bits = ~std::uint32_t{0};
    for (const nb::object &text : some)
        for (const nb::object &other : others)
            bits &= field<std::uint32_t>(text.ptr(), Layout::state_at) ^
                    field<std::uint32_t>(other.ptr(), Layout::state_at);
    return bits;
}

bool agrees(const Layout &layout, const nb::object &text) {
    Py_ssize_t size = -1;
    const char *const utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    const TokenSpan span = layout.span(text.ptr());
    return utf8 != nullptr && layout.is_plain(text.ptr()) &&
           reinterpret_cast<const char *>(span.begin) == utf8 && span.size == static_cast<std::size_t>(size);
}

Layout learn() {
    Layout layout;
#ifndef Py_GIL_DISABLED
    if (sizeof(void *) != 8 || Py_Version < 0x030b0000 || Py_Version >= 0x030f0000)
        return layout; // nobody has looked at these
    const auto type_of = [](PyTypeObject &type) { return nb::handle(reinterpret_cast<PyObject *>(&type)); };
    const nb::object own = type_of(PyType_Type)("Text", nb::make_tuple(type_of(PyUnicode_Type)), nb::dict());
    std::vector<nb::object> plain, latin, others;
    for (std::size_t size = 0; size < 100; ++size) {
        const std::string xs(size, 'x');
        plain.push_back(new_str(xs));
        latin.push_back(new_str(xs + "\xc3\xa9"));
        others.push_back(own(plain.back()));
    }
    // One bit tells ASCII from Latin-1, and one the data in the object from data elsewhere.
    const std::uint32_t ascii = telling_bits(plain, latin), compact = telling_bits(plain, others);
    layout.plain = ascii | compact;
    if (!std::has_single_bit(ascii) || !std::has_single_bit(compact) || ascii == compact)
        return layout;
    layout.data_at = static_cast<std::size_t>(PyUnicode_AsUTF8AndSize(plain[9].ptr(), nullptr) -
                                              reinterpret_cast<const char *>(plain[9].ptr()));
    others.insert(others.end(), latin.begin(), latin.end());
    for (const char *const wide : {"x\xe2\x82\xac", "x\xf0\x9f\x98\x80"})
        others.push_back(new_str(wide));
    plain.push_back(nb::steal(PyUnicode_InternFromString("the name of a layout")));
    const auto fits = [&](const nb::object &text) { return agrees(layout, text); };
    const auto seems = [&](const nb::object &text) { return layout.is_plain(text.ptr()); };
    if (layout.data_at > 64 || !std::all_of(plain.begin(), plain.end(), fits) ||
        std::any_of(others.begin(), others.end(), seems))
        return layout;
    nb::list list;
    for (const nb::object &text : plain)
        list.append(text);
    const nb::tuple tuple(list);
    const auto holds = [&](PyObject *tokens) {
        PyObject *const *const items = layout.items(tokens);
        return std::equal(plain.begin(), plain.end(), items,
                          [](const nb::object &text, PyObject *item) { return text.ptr() == item; });
    };
    // From 3.14 on a tuple keeps its hash before its items.
    layout.tuple_items_at = field<PyObject *>(tuple.ptr(), 24) == plain[0].ptr() ? 24 : 32;
    layout.known = holds(list.ptr()) && holds(tuple.ptr());
#endif
    return layout;
}

const Layout &layout() {
    static const Layout learned = learn();
    return learned;
}

/// Objects that are read where they lie; only while the GIL is held.
class PlainTexts final : public TokenLocator {
public:
    PlainTexts(const Layout &layout, PyObject *const *items, std::size_t count)
        : layout_(layout), items_(items), count_(count) {}

    void locate(std::size_t begin, std::size_t end, TokenSpan *spans) const override {
        constexpr std::size_t ahead = 24; // objects asked for while others are read
        for (std::size_t i = begin; i < end; ++i) {
            if (i + ahead < count_) {
                const auto *const later = reinterpret_cast<const char *>(items_[i + ahead]);
                __builtin_prefetch(later);
                __builtin_prefetch(later + 63);
            }
            spans[i - begin] = layout_.is_plain(items_[i]) ? layout_.span(items_[i]) : elsewhere;
        }
    }

private:
    Layout layout_;
    PyObject *const *items_;
    std::size_t count_;
};

/// How many items there are, whatever a subclass says of its length.
std::size_t size_of(PyObject *tokens) {
    return static_cast<std::size_t>(PyList_Check(tokens) ? PyList_Size(tokens) : PyTuple_Size(tokens));
}

/// The item, borrowed, or null where the list has grown short.
PyObject *item_of(PyObject *tokens, std::size_t i) {
    const auto at = static_cast<Py_ssize_t>(i);
    PyObject *const item = PyList_Check(tokens) ? PyList_GetItem(tokens, at) : PyTuple_GetItem(tokens, at);
    if (item == nullptr)
        PyErr_Clear();
    return item;
}

bool span_of_bytes(PyObject *token, TokenSpan &span) {
    if (!PyBytes_Check(token))
        return false;
    span = {reinterpret_cast<const std::uint8_t *>(PyBytes_AsString(token)),
            static_cast<std::size_t>(PyBytes_Size(token))};
    return true;
}

/// Where the bytes of the tokens at `places` lie. Stops at a token that has none at hand, and returns how
/// many came before it.
std::size_t locate(PyObject *tokens, std::span<const std::size_t> places, TokenSpan *spans) {
    for (std::size_t i = 0; i < places.size(); ++i) {
        PyObject *const token = item_of(tokens, places[i]);
        if (token == nullptr)
            return i;
        if (!PyUnicode_Check(token)) {
            if (!span_of_bytes(token, spans[i]))
                return i;
            continue;
        }
        Py_ssize_t size;
        const char *const utf8 = PyUnicode_AsUTF8AndSize(token, &size);
        if (utf8 == nullptr) {
            PyErr_Clear();
            return i;
        }
        spans[i] = {reinterpret_cast<const std::uint8_t *>(utf8), static_cast<std::size_t>(size)};
    }
    return places.size();
}

constexpr std::size_t block = 2048;
constexpr std::int64_t no_token = -1;

/// Finds tokens by what the API says of them. Returns how many are missing, or `no_token`.
std::int64_t find_by_api(TokenFinder &finder, PyObject *tokens, std::span<const std::size_t> places,
                         std::int64_t *ids, std::int64_t missing) {
    const auto spans = std::make_unique_for_overwrite<TokenSpan[]>(std::min(places.size(), block));
    const auto found = std::make_unique_for_overwrite<std::int64_t[]>(std::min(places.size(), block));
    std::size_t lost = 0;
    while (!places.empty()) {
        const auto some = places.first(std::min(places.size(), block));
        // To make an error may run Python code (a collection of garbage): what was located is no longer sure.
        std::size_t stop = some.size();
        for (std::size_t located; (located = locate(tokens, some.first(stop), spans.get())) != stop;)
            stop = located;
        lost += finder.find(spans.get(), stop, found.get(), missing);
        for (std::size_t i = 0; i < stop; ++i)
            ids[some[i]] = found[i];
        if (stop != some.size()) { // a lone surrogate, which may stand for a byte
            const nb::object token = nb::borrow(item_of(tokens, some[stop]));
            if (!token.is_valid() || !PyUnicode_Check(token.ptr()))
                return no_token;
            const nb::object bytes =
                nb::steal(PyUnicode_AsEncodedString(token.ptr(), "utf-8", "surrogateescape"));
            TokenSpan span;
            if (!bytes.is_valid() || !span_of_bytes(bytes.ptr(), span)) {
                PyErr_Clear();
                return no_token;
            }
            lost += finder.find(&span, 1, ids + some[stop], missing);
            ++stop;
        }
        places = places.subspan(stop);
    }
    return static_cast<std::int64_t>(lost);
}

/// The GIL is kept while tokens are looked up: their bytes stay only as long as no Python code runs.
std::int64_t find_objects(const Bytes &data, const Offsets &offsets, const Slots &slots, nb::handle wanted,
                          const NewNumbers &ids, std::int64_t missing, const MappedFile *file) {
    constexpr std::size_t turn = std::size_t{1} << 20;
    PyObject *const tokens = wanted.ptr();
    if (!PyList_Check(tokens) && !PyTuple_Check(tokens))
        throw nb::type_error("expected a list or a tuple of tokens");
    const std::size_t count = ids.shape(0);
    TokenFinder finder(map_of(data, offsets, slots, file), count);
    std::vector<std::size_t> places;
    std::int64_t lost = 0;
    for (std::size_t begin = 0; begin < count; begin += turn) {
        if (begin != 0) {
            const ReleasedGil free; // let other threads have theirs
        }
        const std::size_t end = std::min(count, begin + turn);
        if (size_of(tokens) < end)
            return no_token;
        if (layout().known) {
            const PlainTexts texts(layout(), layout().items(tokens) + begin, end - begin);
            lost += static_cast<std::int64_t>(
                finder.find(texts, end - begin, ids.data() + begin, missing, places));
            for (std::size_t &place : places)
                place += begin;
        } else {
            places.resize(end - begin);
            std::iota(places.begin(), places.end(), begin);
        }
        const std::int64_t more = find_by_api(finder, tokens, places, ids.data(), missing);
        if (more == no_token)
            return no_token;
        lost += more;
    }
    return lost;
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
        "Fills `ids` with the id of each wanted token, `missing` where there is none, and returns how many "
        "are missing; ValueError if the map is damaged, IndexError if `wanted_offsets` are. With the `file` "
        "that "
        "the map's arrays are mapped from they are not touched, but read piece by piece.";
    m.def("find_tokens", &find<std::int64_t>, "data"_a.noconvert(), "offsets"_a.noconvert(),
          "slots"_a.noconvert(), "wanted"_a.noconvert(), "wanted_offsets"_a.noconvert(), "ids"_a.noconvert(),
          "missing"_a = -1, "file"_a = nb::none(), find_doc);
    m.def("find_tokens", &find<std::int32_t>, "data"_a.noconvert(), "offsets"_a.noconvert(),
          "slots"_a.noconvert(), "wanted"_a.noconvert(), "wanted_offsets"_a.noconvert(), "ids"_a.noconvert(),
          "missing"_a = -1, "file"_a = nb::none(), find_doc);
    m.def(
        "find_objects", &find_objects, "data"_a.noconvert(), "offsets"_a.noconvert(), "slots"_a.noconvert(),
        "wanted"_a, "ids"_a.noconvert(), "missing"_a = -1, "file"_a = nb::none(),
        "find_tokens for a list or tuple of str and bytes. -1, with `ids` half filled, where one of them is "
        "no token.");
}

} // namespace shardwise

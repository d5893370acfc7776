#include "bindings.h"

#include <stdexcept>
#include <utility>
#include <vector>

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include "core/text.h"
#include "core/text_write.h"
#include "owned.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

using Positions = ArrayOf<std::int64_t>;
using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using NewRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Index = std::tuple<Owned<std::int64_t>, Owned<std::int64_t>, std::size_t>;

const char *text_of(const Bytes &data) {
    return reinterpret_cast<const char *>(data.data());
}

Index owned_index(RowIndex &&index) {
    return {owned(std::move(index.token_starts)), owned(std::move(index.value_starts)), index.next};
}

float number(const nb::bytes &text) {
    float value = 0;
    if (!parse_float(text.c_str(), text.c_str() + text.size(), value))
        throw nb::value_error("expected a number");
    return value;
}

std::size_t end_of_text(const Bytes &data) {
    return without_gil([&] { return text_end(text_of(data), data.shape(0)); });
}

Index text_index(const Bytes &data, std::size_t begin, std::size_t end, std::size_t dim,
                 std::size_t max_rows) {
    return owned_index(
        without_gil([&] { return index_text(text_of(data), data.shape(0), begin, end, dim, max_rows); }));
}

Index binary_index(const Bytes &data, std::size_t begin, std::size_t dim, std::size_t max_rows,
                   std::size_t max_bytes, std::size_t first_row) {
    return owned_index(without_gil([&] {
        return index_binary(text_of(data), data.shape(0), begin, dim, max_rows, max_bytes, first_row);
    }));
}

template <auto read> void read_rows(const Bytes &data, const Positions &starts, const NewRows &out) {
    if (starts.shape(0) != out.shape(0))
        throw nb::value_error("expected one row of out for each start");
    const ReleasedGil free;
    read(text_of(data), data.shape(0), starts.data(), starts.shape(0), out.shape(1), out.data(),
         out.shape(1));
}

std::pair<Owned<std::uint8_t>, Owned<std::int64_t>> tokens(const Bytes &data, const Positions &token_starts,
                                                           const Positions &value_starts) {
    if (token_starts.shape(0) != value_starts.shape(0))
        throw nb::value_error("expected as many token_starts as value_starts");
    PackedTokens packed = without_gil([&] {
        return gather_tokens(text_of(data), data.shape(0), token_starts.data(), value_starts.data(),
                             token_starts.shape(0));
    });
    return {owned(std::move(packed.bytes)), owned(std::move(packed.offsets))};
}

template <auto write>
Owned<std::uint8_t> written_rows(const FloatRows &rows, const Bytes &data, const Positions &offsets) {
    if (offsets.shape(0) != rows.shape(0) + 1)
        throw nb::value_error("expected one offset more than there are rows");
    const RowTokens tokens{data.data(), data.shape(0), offsets.data()};
    return owned(without_gil([&] { return write(rows.data(), rows.shape(0), rows.shape(1), tokens); }));
}

} // namespace

void register_text(nb::module_ &m) {
    m.def("parse_float", &number, "text"_a,
          "The float32 nearest to a decimal number; ValueError for anything else.");
    m.def("text_end", &end_of_text, "data"_a.noconvert(),
          "The size of a text without white space after its last row.");
    m.def(
        "index_text", &text_index, "data"_a.noconvert(), "begin"_a, "end"_a, "dim"_a, "max_rows"_a,
        "Finds the rows whose lines start in [begin, end): token_starts, value_starts, and where to go on.");
    m.def("index_binary", &binary_index, "data"_a.noconvert(), "begin"_a, "dim"_a, "max_rows"_a,
          "max_bytes"_a, "first_row"_a,
          "Finds rows of word2vec's binary form: token_starts, value_starts, and where to go on.");
    m.def("gather_tokens", &tokens, "data"_a.noconvert(), "token_starts"_a.noconvert(),
          "value_starts"_a.noconvert(), "The indexed tokens end to end: their bytes and their offsets.");
    m.def("parse_rows", &read_rows<&parse_rows>, "data"_a.noconvert(), "starts"_a.noconvert(),
          "out"_a.noconvert(), "Parses the values at each start into the rows of `out`.");
    m.def("copy_rows", &read_rows<&copy_rows>, "data"_a.noconvert(), "starts"_a.noconvert(),
          "out"_a.noconvert(), "Copies the binary values at each start into the rows of `out`.");
    m.def("format_rows", &written_rows<&format_rows>, "rows"_a.noconvert(), "data"_a.noconvert(),
          "offsets"_a.noconvert(), "Rows as lines of text: a token, and before each value a space.");
    m.def("pack_rows", &written_rows<&pack_rows>, "rows"_a.noconvert(), "data"_a.noconvert(),
          "offsets"_a.noconvert(), "Rows in word2vec's binary form, with a newline after each.");
}

} // namespace shardwise

#include "bindings.h"

#include <string>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "core/quantize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shardwise {
namespace {

/// Rows that each lie in one piece, a stride apart.
template <class T> using AnyRows = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;
template <class T> using NewRows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

RowFormat format_of(const std::string &name) {
    if (name == "int8")
        return RowFormat::int8;
    if (name == "int4")
        return RowFormat::int4;
    throw nb::value_error("unknown format");
}

template <class T> std::ptrdiff_t stride_of(const AnyRows<T> &rows) {
    if (rows.size() == 0)
        return 0;
    if (rows.shape(1) > 1 && rows.stride(1) != 1)
        throw nb::value_error("expected rows that each lie in one piece");
    return static_cast<std::ptrdiff_t>(rows.stride(0)) * static_cast<std::ptrdiff_t>(sizeof(T));
}

void check_sizes(RowFormat format, std::size_t rows, std::size_t dim, std::size_t packed_rows,
                 std::size_t row_bytes) {
    if (rows != packed_rows || dim == 0 || row_bytes != row_bytes_of(format, dim))
        throw nb::value_error("the sizes do not fit each other");
}

template <class T>
std::size_t quantize_rows(const AnyRows<T> &rows, const std::string &name, const NewRows<std::uint8_t> &out) {
    const RowFormat format = format_of(name);
    check_sizes(format, rows.shape(0), rows.shape(1), out.shape(0), out.shape(1));
    Quantize task;
    task.rows = reinterpret_cast<const std::byte *>(rows.data());
    task.stride = stride_of(rows);
    task.half = sizeof(T) == 2;
    task.dim = rows.shape(1);
    task.format = format;
    task.out = out.data();
    const ReleasedGil free;
    return quantize(task, rows.shape(0));
}

void dequantize_rows(const AnyRows<std::uint8_t> &packed, const std::string &name,
                     const NewRows<float> &out) {
    const RowFormat format = format_of(name);
    check_sizes(format, out.shape(0), out.shape(1), packed.shape(0), packed.shape(1));
    Dequantize task;
    task.rows = packed.data();
    task.stride = stride_of(packed);
    task.dim = out.shape(1);
    task.format = format;
    task.out = out.data();
    const ReleasedGil free;
    dequantize(task, out.shape(0));
}

} // namespace

void register_quantize(nb::module_ &m) {
    constexpr const char *text =
        "Rows to int8 or int4; uint16 holds the bits of float16. Returns the first row that the format "
        "cannot hold, or their number.";
    m.def("quantize_rows", &quantize_rows<float>, "rows"_a.noconvert(), "format"_a, "out"_a.noconvert(),
          text);
    m.def("quantize_rows", &quantize_rows<std::uint16_t>, "rows"_a.noconvert(), "format"_a,
          "out"_a.noconvert(), text);
    m.def("dequantize_rows", &dequantize_rows, "packed"_a.noconvert(), "format"_a, "out"_a.noconvert(),
          "The float32 values of int8 or int4 rows.");
}

} // namespace shardwise

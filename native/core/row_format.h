#pragma once
// How the elements of a row lie in memory.

#include <cstddef>
#include <cstdint>

namespace shardwise {

/// `opaque`: bytes that are only copied. int8 and int4 are unsigned steps, with a scale and a bias at the
/// row's end, in the layout of PyTorch and FBGEMM. int8: a byte for each value, then scale and bias as
/// float32. int4: two values to a byte, the first in the lower half, then scale and bias as float16. A value
/// is step * scale + bias, rounded once.
enum class RowFormat : std::uint8_t { opaque, float16, bfloat16, float32, float64, int8, int4 };

/// The bytes of a row of `dim` elements; of an opaque one it is not known.
constexpr std::size_t row_bytes_of(RowFormat format, std::size_t dim) {
    switch (format) {
    case RowFormat::float16:
    case RowFormat::bfloat16:
        return 2 * dim;
    case RowFormat::float32:
        return 4 * dim;
    case RowFormat::float64:
        return 8 * dim;
    case RowFormat::int8:
        return dim + 8;
    case RowFormat::int4:
        return dim / 2 + dim % 2 + 4;
    case RowFormat::opaque:
        break;
    }
    return 0;
}

} // namespace shardwise

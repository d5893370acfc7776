#pragma once
// Rows of 8 and 4 bits, from floats and back, with the rounding of PyTorch and FBGEMM, bit for bit.

#include <cstddef>
#include <cstdint>

#include "core/row_format.h"

namespace shardwise {

/// `format` is int8 or int4, here and below.
struct Quantize {
    const std::byte *rows = nullptr;
    std::ptrdiff_t stride = 0; // bytes from a row to the next
    bool half = false;         // float16, else float32
    std::size_t dim = 0;       // at least 1
    RowFormat format = RowFormat::int8;
    std::uint8_t *out = nullptr; // rows of row_bytes_of(format, dim), contiguous
};

struct Dequantize {
    const std::uint8_t *rows = nullptr;
    std::ptrdiff_t stride = 0;
    std::size_t dim = 0;
    RowFormat format = RowFormat::int8;
    float *out = nullptr; // rows of dim, contiguous
};

/// Returns `count`, or the first row that the format cannot hold: one with an infinity or a NaN in it, or
/// whose scale or bias would be infinite. `out` is then partly written.
std::size_t quantize(const Quantize &task, std::size_t count);

/// Takes any bytes; a NaN is always the same one.
void dequantize(const Dequantize &task, std::size_t count);

/// One instruction level's kernels: rows [begin, end). The first returns `end` or the first row refused.
struct QuantizeKernels {
    std::size_t (*quantize)(const Quantize &task, std::size_t begin, std::size_t end);
    void (*dequantize)(const Dequantize &task, std::size_t begin, std::size_t end);
};
QuantizeKernels quantize_kernels(std::size_t level);

} // namespace shardwise
